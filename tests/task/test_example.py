"""An example's digest says whether two rows are the same."""

import numpy as np
import pytest

from metier.task import Example

IMAGE = np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3)


def digest(value):
    return Example("any", {"image": value}, "yes").digest()


def test_equal_arrays_have_equal_digests():
    assert digest(IMAGE) == digest(IMAGE.copy()) == digest(IMAGE[::-1][::-1])


def other_pixel():
    changed = IMAGE.copy()
    changed[12, 12, 1] += 1  # in the middle, which numpy's own text of a long array leaves out
    return changed


@pytest.mark.parametrize("other", [other_pixel(), IMAGE.reshape(3, 24, 24), IMAGE.astype(np.int8), IMAGE.astype(np.float32)])
def test_arrays_that_differ_in_bytes_shape_or_type_have_other_digests(other):
    assert digest(IMAGE) != digest(other)


def test_arrays_inside_other_values_count():
    assert digest([IMAGE, {"then": IMAGE}]) != digest([IMAGE, {"then": other_pixel()}])


def test_text_rows_keep_the_digests_that_stored_studies_have():
    assert Example("a", {"text": "a b"}, "yes", ("yes", "no")).digest() == "afb4f9070eec2c0c"
    assert Example("a", {"text": "a b"}, "yes").digest() == Example("b", {"text": "a b"}, "yes").digest()
