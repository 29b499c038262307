"""Our merges against mergekit's in-memory API: the same numbers, and each known difference, which the merge's Deviations name."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from tests.merge.made import SHAPES, close, merges, ours, tuned, weights
from torch import Tensor

from metier.merge.arcee_fusion import arcee_fusion
from metier.merge.breadcrumbs import breadcrumbs
from metier.merge.breadcrumbs_ties import breadcrumbs_ties
from metier.merge.dare_linear import dare_linear
from metier.merge.dare_ties import dare_ties
from metier.merge.della import della
from metier.merge.della_linear import della_linear
from metier.merge.karcher import karcher
from metier.merge.linear import linear
from metier.merge.mergekit.recipe import METHODS, PARAMETERS
from metier.merge.model_stock import model_stock
from metier.merge.multislerp import multislerp
from metier.merge.nearswap import nearswap
from metier.merge.nuslerp import nuslerp
from metier.merge.passthrough import passthrough
from metier.merge.ram import ram
from metier.merge.sce import sce
from metier.merge.slerp import slerp
from metier.merge.task_arithmetic import task_arithmetic
from metier.merge.ties import ties

api = pytest.importorskip("mergekit.merge_methods.api", reason="mergekit is not installed: pip install 'metier[mergekit]'")

BASE = weights(0)
A, B, C = (tuned(BASE, i) for i in (1, 2, 3))
COEFS = (0.5, 1.5, 1.0)


def theirs(method: str, models: list[dict[str, Tensor]], base: int | None = None, **parameters: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = api.merge_state_dicts(models, method, parameters=parameters, base=base)
    return found


def with_base(method: str, *experts: dict[str, Tensor], **parameters: Any) -> dict[str, Tensor]:
    return theirs(method, [BASE, *experts], 0, **parameters)


# Every tensor has a multiple of 8 entries, so that fractions of them are whole numbers and rounding does not matter.
SAME = {
    "linear": (lambda: ours(linear(), BASE, [A, B, C], coefs=COEFS), lambda: theirs("linear", [A, B, C], weight=list(COEFS))),
    "task_arithmetic": (
        lambda: ours(task_arithmetic(scale=0.4), BASE, [A, B, C], coefs=COEFS),
        lambda: with_base("task_arithmetic", A, B, C, weight=list(COEFS), **{"lambda": 0.4}),
    ),
    "ties": (
        lambda: ours(ties(density=0.25, scale=0.7), BASE, [A, B, C], coefs=COEFS),
        lambda: with_base("ties", A, B, C, weight=list(COEFS), density=0.25, **{"lambda": 0.7}),
    ),
    "slerp": (lambda: ours(slerp(t=0.3), BASE, [A, B]), lambda: theirs("slerp", [A, B], 0, t=0.3)),
    "slerp of unlike models": (lambda: ours(slerp(t=0.6), BASE, [A, weights(9)]), lambda: theirs("slerp", [A, weights(9)], 0, t=0.6)),
    "nuslerp of weights": (lambda: ours(nuslerp(), BASE, [A, B], coefs=(1.0, 3.0)), lambda: theirs("nuslerp", [A, B], weight=[1.0, 3.0])),
    "nuslerp of changes": (
        lambda: ours(nuslerp(of="changes"), BASE, [A, B], coefs=(1.0, 3.0)),
        lambda: with_base("nuslerp", A, B, weight=[1.0, 3.0]),
    ),
    "nuslerp by row": (
        lambda: ours(nuslerp(of="changes", per="row"), BASE, [A, B], coefs=(1.0, 3.0)),
        lambda: with_base("nuslerp", A, B, weight=[1.0, 3.0], nuslerp_flatten=False),
    ),
    "nuslerp by column": (
        lambda: ours(nuslerp(of="changes", per="column"), BASE, [A, B], coefs=(1.0, 3.0)),
        lambda: with_base("nuslerp", A, B, weight=[1.0, 3.0], nuslerp_flatten=False, nuslerp_row_wise=True),
    ),
    "multislerp of weights": (
        lambda: ours(multislerp(), BASE, [A, B, C], coefs=COEFS),
        lambda: theirs("multislerp", [A, B, C], weight=list(COEFS)),
    ),
    "multislerp of changes": (
        lambda: ours(multislerp(of="changes"), BASE, [A, B, C], coefs=COEFS),
        lambda: with_base("multislerp", A, B, C, weight=list(COEFS)),
    ),
    "karcher": (lambda: ours(karcher(), BASE, [A, B, C]), lambda: theirs("karcher", [A, B, C])),
    "karcher of unlike models": (
        lambda: ours(karcher(steps=10), BASE, [A, weights(8), weights(9)]),
        lambda: theirs("karcher", [A, weights(8), weights(9)], max_iter=10),
    ),
    "model_stock": (lambda: ours(model_stock(), BASE, [A, B, C]), lambda: with_base("model_stock", A, B, C)),
    "model_stock by row": (
        lambda: ours(model_stock(per="row"), BASE, [A, B, C]),
        lambda: with_base("model_stock", A, B, C, filter_wise=True),
    ),
    "breadcrumbs": (
        lambda: ours(breadcrumbs(density=0.5, gamma=0.125, scale=0.6), BASE, [A, B], coefs=(0.5, 2.0)),
        lambda: with_base("breadcrumbs", A, B, weight=[0.5, 2.0], density=0.5, gamma=0.125, **{"lambda": 0.6}),
    ),
    "breadcrumbs_ties, normalized": (
        lambda: ours(breadcrumbs_ties(density=0.5, gamma=0.125), BASE, [A, B, C]),
        lambda: with_base("breadcrumbs_ties", A, B, C, weight=1.0, density=0.5, gamma=0.125, normalize=True),
    ),
    "sce": (lambda: ours(sce(density=0.25), BASE, [A, B, C]), lambda: with_base("sce", A, B, C, select_topk=0.25)),
    "sce of all": (lambda: ours(sce(density=1.0), BASE, [A, B, C]), lambda: with_base("sce", A, B, C)),
    "ram": (lambda: ours(ram(epsilon=0.1), BASE, [A, B, C]), lambda: with_base("ram", A, B, C, epsilon=0.1)),
    "ram, boosted": (
        lambda: ours(ram(epsilon=0.1, boost=0.3, limit=0.6), BASE, [A, B, C]),
        lambda: with_base("ramplus_tl", A, B, C, epsilon=0.1, r=0.3, alpha=0.6),
    ),
    "nearswap": (lambda: ours(nearswap(t=0.05), BASE, [A]), lambda: with_base("nearswap", A, t=0.05)),
    "arcee_fusion": (lambda: ours(arcee_fusion(), BASE, [A, B]), lambda: theirs("arcee_fusion", [A, B], 0)),
    "passthrough": (lambda: ours(passthrough(), BASE, [A]), lambda: theirs("passthrough", [A])),
    "dare_linear of all": (
        lambda: ours(dare_linear(density=1.0), BASE, [A, B]),
        lambda: with_base("dare_linear", A, B, weight=1.0, density=1.0),
    ),
    "dare_ties of all, normalized": (
        lambda: ours(dare_ties(density=1.0), BASE, [A, B]),
        lambda: with_base("dare_ties", A, B, weight=1.0, density=1.0, normalize=True),
    ),
    "della of all": (
        lambda: ours(della(density=1.0, epsilon=0.0), BASE, [A, B]),
        lambda: with_base("della", A, B, weight=1.0, density=1.0),
    ),
    "della_linear of all": (
        lambda: ours(della_linear(density=1.0, epsilon=0.0), BASE, [A, B]),
        lambda: with_base("della_linear", A, B, weight=1.0, density=1.0),
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_numbers(case: str) -> None:
    mine, other = SAME[case]
    close(mine(), other())


def test_every_merge_of_mergekit_is_here() -> None:
    registry = pytest.importorskip("mergekit.merge_methods.registry")
    theirs = {m.spec.name for m in registry.registered_methods()}
    assert theirs - {"ramplus_tl"} <= {m.function for m in merges().values()}
    assert theirs == set(METHODS) == set(PARAMETERS)


# --- known differences ---------------------------------------------------------------------------------------------------
def one(*values: float) -> dict[str, Tensor]:
    return {"w": torch.tensor(values)}


def test_a_tie_of_signs_gives_nothing() -> None:
    base, up, down = one(0.0, 0.0), one(1.0, 2.0), one(-1.0, 2.0)
    assert ours(ties(density=1.0), base, [up, down])["w"].tolist() == [0.0, 2.0]
    assert theirs("ties", [base, up, down], 0, weight=1.0)["w"].tolist() == [1.0, 2.0]
    assert ours(sce(density=1.0), base, [up, down])["w"].tolist()[0] == 0.0


def test_ties_weighs_by_the_size_of_a_negative_coefficient() -> None:
    base, up, down = one(0.0), one(1.0), one(-3.0)
    assert ours(ties(density=1.0), base, [up, down], coefs=(1.0, -1.0))["w"].item() == 2.0  # both agree after the coefs: (1 + 3) / 2
    assert theirs("ties", [base, up, down], 0, weight=[1.0, -1.0])["w"].item() == 4.0  # divided by 1 - 1, taken as 1


def test_ties_rounds_to_the_nearest_count() -> None:
    base, expert = {"w": torch.zeros(10)}, {"w": torch.arange(1.0, 11.0)}
    assert int(ours(ties(density=0.27), base, [expert])["w"].count_nonzero()) == 3
    assert int(theirs("ties", [base, expert], 0, weight=1.0, density=0.27)["w"].count_nonzero()) == 2
    assert int(ours(ties(density=0.01), base, [expert])["w"].count_nonzero()) == 0
    assert int(theirs("ties", [base, expert], 0, weight=1.0, density=0.01)["w"].count_nonzero()) == 1


def test_breadcrumbs_loses_nothing_without_outliers_or_in_small_tensors() -> None:
    """Earlier versions of mergekit lost the whole change at gamma = 0, and at gamma = 0.01 in tensors under 100 entries."""
    for n in (1, 5, 40, 99, 100, 101):
        base, expert = {"w": torch.zeros(n)}, {"w": torch.arange(1.0, n + 1)}
        for gamma in (0.0, 0.01):
            kept = ours(breadcrumbs(density=0.9, gamma=gamma), base, [expert])["w"]
            dropped = round(gamma * n)
            assert int(kept.count_nonzero()) == round((0.9 + gamma) * n) - dropped
            assert float(kept.max()) == n - dropped


def test_breadcrumbs_refuses_what_mergekit_changes_without_a_word() -> None:
    with pytest.raises(ValueError, match=r"density \+ gamma must be at most 1"):
        breadcrumbs(density=0.9, gamma=0.2)
    base, expert = {"w": torch.zeros(10)}, {"w": torch.arange(1.0, 11.0)}
    assert int(theirs("breadcrumbs", [base, expert], 0, weight=1.0, density=0.9, gamma=0.2)["w"].count_nonzero()) == 9


def test_breadcrumbs_ties_averages_where_mergekit_adds() -> None:
    base, up, more = one(0.0), one(1.0), one(3.0)
    assert ours(breadcrumbs_ties(density=1.0, gamma=0.0), base, [up, more])["w"].item() == 2.0
    assert theirs("breadcrumbs_ties", [base, up, more], 0, weight=1.0)["w"].item() == 4.0


def test_slerp_stays_on_the_arc_for_near_parallel_tensors() -> None:
    first, second = one(1.0, 0.0), one(1.0, 0.02)
    lengths = [float(w["w"].norm()) for w in (ours(slerp(), one(0.0, 0.0), [first, second]), theirs("slerp", [first, second], 0, t=0.5))]
    assert lengths[0] == pytest.approx(1.0001, abs=1e-6) and lengths[1] == pytest.approx(1.00005, abs=1e-6)


def test_a_zero_tensor_has_no_direction() -> None:
    zero, expert = one(0.0, 0.0), one(3.0, 4.0)
    assert float(ours(slerp(), one(1.0, 1.0), [zero, expert])["w"].norm()) == pytest.approx(2.5)
    assert float(theirs("slerp", [zero, expert], 0, t=0.5)["w"].norm()) == pytest.approx(5 * 0.5**0.5, rel=1e-5)


def test_opposite_tensors_meet_on_the_straight_line() -> None:
    first = torch.randn(64, generator=torch.Generator().manual_seed(0))
    second = -first + 1e-3 * torch.randn(64, generator=torch.Generator().manual_seed(1))
    mine = ours(nuslerp(), {"w": torch.ones(64)}, [{"w": first}, {"w": second}])["w"]
    other = theirs("nuslerp", [{"w": first}, {"w": second}], weight=1.0)["w"]
    torch.testing.assert_close(mine, (first + second) / 2, atol=1e-5, rtol=1e-3)
    assert float(other.norm()) > 10 * float(mine.norm())  # divided by a sine near 0


def test_multislerp_and_model_stock_keep_small_changes_whole() -> None:
    base = one(0.0, 0.0)
    tiny = [one(1e-8, 0.0), one(1e-8, 1e-9)]
    mine, other = ours(multislerp(of="changes"), base, tiny)["w"], theirs("multislerp", [base, *tiny], 0, weight=1.0)["w"]
    assert float(mine.norm()) == pytest.approx(1e-8, rel=0.01) and float(other[0] / mine[0]) == pytest.approx(1.0, abs=0.3)
    mine, other = ours(model_stock(), base, tiny)["w"], theirs("model_stock", [base, *tiny], 0)["w"]
    assert float(mine[0]) == pytest.approx(1e-8, rel=0.01) and float(other[0]) < 1e-10  # a cosine divided by 1e-6


def test_sce_weighs_small_changes_by_their_energy() -> None:
    base, small, large = one(0.0, 0.0), one(1e-4, 1e-4), one(3e-4, 3e-4)
    mine, other = ours(sce(density=1.0), base, [small, large])["w"], theirs("sce", [base, small, large], 0)["w"]
    assert float(mine[0]) == pytest.approx(2.8e-4, rel=1e-4)  # (1 * 1 + 9 * 3) / 10
    assert float(other[0]) == pytest.approx(2.0e-4, rel=1e-4)


def test_dare_divides_by_density_where_mergekit_matches_the_sum_of_magnitudes() -> None:
    base, expert = {"w": torch.zeros(4096)}, {"w": torch.ones(4096)}
    mine, other = (
        ours(dare_linear(density=0.25), base, [expert])["w"],
        theirs("dare_linear", [base, expert], 0, weight=1.0, density=0.25)["w"],
    )
    assert set(mine.tolist()) == {0.0, 4.0} and abs(float(mine.mean()) - 1) < 0.1
    assert float(other.sum()) == pytest.approx(4096, rel=1e-4) and set(other.tolist()) != {0.0, 4.0}


def test_dare_ties_averages_where_mergekit_adds() -> None:
    base, up, more = one(0.0), one(1.0), one(3.0)
    assert ours(dare_ties(density=1.0), base, [up, more])["w"].item() == 2.0
    assert theirs("dare_ties", [base, up, more], 0, weight=1.0, density=1.0)["w"].item() == 4.0


def test_della_takes_a_row_of_one_entry() -> None:
    base, expert = {"w": torch.zeros(512, 1)}, {"w": torch.ones(512, 1)}
    kept = ours(della_linear(density=0.5, epsilon=0.2), base, [expert])["w"]
    assert set(kept.unique().tolist()) == {0.0, 2.0} and 150 < int(kept.count_nonzero()) < 350
    with pytest.raises(RuntimeError):
        theirs("della_linear", [base, expert], 0, weight=1.0, density=0.5, epsilon=0.2)


def test_passthrough_scales_the_change_where_mergekit_scales_the_weights() -> None:
    base, expert = one(1.0), one(3.0)
    assert ours(passthrough(scale=0.5), base, [expert])["w"].item() == 2.0
    assert theirs("passthrough", [expert], scale=0.5)["w"].item() == 1.5


def test_karcher_takes_a_short_expert_for_what_it_is() -> None:
    short, long = one(1e-6, 0.0), one(0.0, 1.0)
    assert float(ours(karcher(), one(1.0, 1.0), [short, long])["w"][0]) > 0.1
    assert float(theirs("karcher", [short, long])["w"][0]) == 0.0


@pytest.mark.slow
def test_arcee_fusion_of_large_tensors_is_the_same_each_time() -> None:
    n = 1_100_000
    first, second = (
        {"w": torch.randn(n, generator=torch.Generator().manual_seed(0))},
        {"w": torch.randn(n, generator=torch.Generator().manual_seed(1))},
    )
    runs = [ours(arcee_fusion(), {"w": torch.zeros(n)}, [first, second])["w"] for _ in range(2)]
    assert torch.equal(*runs)


ORDER = """
import torch
from tests.merge.made import ours, tuned, weights
from metier.merge.dare_linear import dare_linear
from metier.merge.slerp import slerp
base = weights(0); a, b = tuned(base, 1), tuned(base, 2)
for merge in (dare_linear(density=0.3), slerp(t=0.2)):
    print(sum(float(t.double().sum()) * (i + 1) for i, t in enumerate(ours(merge, base, [a, b]).values())))
"""


@pytest.mark.slow
def test_the_order_of_models_is_the_order_given() -> None:
    """mergekit once took models from a set; neither hash seed nor the order of tensors may matter here."""
    said = set()
    for seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(["src", "."])}
        said.add(subprocess.run([sys.executable, "-c", ORDER], env=env, capture_output=True, text=True, check=True).stdout)
    assert len(said) == 1
    turned = {n: SHAPES[n] for n in reversed(SHAPES)}
    assert list(turned) != list(SHAPES)
    back = [{n: w[n] for n in turned} for w in (BASE, A, B)]
    close(ours(dare_linear(density=0.3), back[0], back[1:]), ours(dare_linear(density=0.3), BASE, [A, B]), atol=0)
    assert not torch.equal(ours(slerp(t=0.2), BASE, [A, B])["norm.weight"], ours(slerp(t=0.2), BASE, [B, A])["norm.weight"])
