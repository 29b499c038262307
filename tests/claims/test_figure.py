"""The pictures of claims: what is drawn lies where its numbers say."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from metier.claims import table
from metier.claims.figure import Mark, forest, svg
from metier.errors import UserError

SVG = "{http://www.w3.org/2000/svg}"


def parts(picture, kind, **which):
    return [n for n in ElementTree.fromstring(picture).iter(SVG + kind) if all(n.get(k) == v for k, v in which.items())]


def places(picture):
    """(start, middle, end, bar) of every mark that has an interval and a bar, in pixels."""
    spans = [n.get("d").split() for n in parts(picture, "path", **{"stroke-width": "3"})]
    middles = [float(n.get("cx")) for n in parts(picture, "circle", r="5")]
    bars = [float(n.get("d").split()[0][1:]) for n in parts(picture, "path") if n.get("class") == "bar"]
    return [(float(d[0][1:]), m, float(d[1].split("H")[1]), b) for d, m, b in zip(spans, middles, bars, strict=True)]


def test_places_are_linear_in_the_numbers():
    marks = [Mark("a", 0.1, (0.0, 0.3), (0.05, 0.15), 0.2), Mark("b", -0.4, (-0.5, -0.3), (), 0.0)]
    (start, middle, end, bar), (left, there, right, zero) = places(forest("t", marks, "c"))
    unit = (end - start) / 0.3
    assert [middle - start, bar - start, zero - start] == pytest.approx([0.1 * unit, 0.2 * unit, 0.0], abs=0.3)
    assert [there - zero, left - zero, right - zero] == pytest.approx([-0.4 * unit, -0.5 * unit, -0.3 * unit], abs=0.3)
    ticks = {n.text: float(n.get("x")) for n in parts(forest("t", marks, "c"), "text", **{"text-anchor": "middle"})}
    assert all(x - ticks["0"] == pytest.approx(float(said) * unit, abs=0.3) for said, x in ticks.items())
    assert min(ticks.values()) <= left
    assert max(ticks.values()) >= end


def test_a_count_is_written_and_not_drawn():
    picture = forest("t", [Mark("times smaller & <so>", 10.4)], "c")
    assert [n.text for n in parts(picture, "text")][-3:] == ["times smaller & <so>", "10.4", "c"]
    assert not parts(picture, "circle")


@pytest.mark.parametrize("row", [r for r in table.rows() if r["effects"]], ids=lambda r: r["name"])
def test_every_stored_result_is_drawn_as_it_was_judged(row):
    picture = svg(row)
    judged = [e for e in row["effects"] if e["name"] in row["thresholds"] and e["how"] != "exact"]
    bars = [n for n in parts(picture, "path") if n.get("class") == "bar"]
    spans = parts(picture, "path", **{"stroke-width": "3"})
    assert len(bars) == len(judged)
    assert len(spans) == sum(e["how"] != "exact" for e in row["effects"])
    of = {e["name"]: s for e, s in zip([e for e in row["effects"] if e["how"] != "exact"], spans, strict=True)}
    for effect, bar in zip(judged, bars, strict=True):
        at, (start, end) = float(bar.get("d").split()[0][1:]), of[effect["name"]].get("d")[1:].split()
        said = row["verdicts"].get(effect["name"])
        assert said != "holds" or float(start) >= at - 0.1
        assert said != "does not hold here" or float(end.split("H")[1]) <= at + 0.1


def test_what_was_not_measured_is_not_drawn():
    with pytest.raises(UserError, match="metier claims run x"):
        svg({"name": "x", "verdict": "not yet run", "effects": None, "thresholds": {}})
