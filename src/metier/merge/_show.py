"""Show: what a change is made of, tensor by tensor and layer by layer; each stored byte is read once for the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from metier.delta import Between, Delta, Entry, LowRank, New, Seen
from metier.delta.entry import SLICE, tensors_of
from metier.delta.header import KINDS
from metier.delta.parts.scale import depth_of
from metier.delta.transform import slices
from metier.merge._spectrum import spectrum

LARGEST = 1024


def shown(delta: Delta, *, largest: int | None = LARGEST) -> dict[str, Any]:
    """Record and numbers of a change. largest: the spectrum of matrices whose smaller side is longer is estimated; None: no spectra."""
    rows = [_row(name, delta[name], largest) for name in sorted(delta)]
    return {
        "base": delta.base, "provenance": delta.record, "tensors": rows, "layers": _layers(rows),
        "norm": math.sqrt(sum(r["norm"] ** 2 for r in rows)), "entries": sum(r["entries"] for r in rows),
        "nonzero": sum(r["nonzero"] for r in rows), "stored_bytes": sum(r["bytes"] for r in rows),
    }  # fmt: skip


def _row(name: str, entry: Entry, largest: int | None) -> dict[str, Any]:
    matrix = largest is not None and len(entry.shape) == 2 and not isinstance(entry, New) and min(entry.shape) > 0
    whole = entry.dense() if matrix and not isinstance(entry, LowRank) else None
    squares, nonzero, most = 0.0, 0, 0.0
    for values in whole.reshape(-1).split(SLICE) if whole is not None else (v for _, v in slices(entry)):
        squares += float(values.double().square().sum())
        nonzero += int(values.count_nonzero())
        most = max(most, float(values.abs().max())) if len(values) else most
    count = entry.shape.numel()
    row = {
        "name": name, "kind": KINDS[type(entry)], "shape": list(entry.shape), "norm": math.sqrt(squares), "largest": most,
        "entries": count, "nonzero": nonzero, "sparsity": 1 - nonzero / count if count else 0.0, "layer": depth_of(name),
        "bytes": _bytes(name, entry),
    }  # fmt: skip
    nothing = {"spectrum": None, "effective_rank": None, "rank_of_energy": None, "estimated": False}
    return row | (spectrum(entry, whole, largest or 0) if matrix else nothing)


def _bytes(name: str, entry: Entry) -> int:
    """What the entry takes on the disk, without forming it."""
    if isinstance(entry, Between | Seen):
        return entry.shape.numel() * 4
    return sum(t.numel() * t.element_size() for t in tensors_of(name, entry).values())


def _layers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for layer in sorted({r["layer"] for r in rows}, key=lambda n: -1 if n is None else n):
        mine = [r for r in rows if r["layer"] == layer]
        count, nonzero = sum(r["entries"] for r in mine), sum(r["nonzero"] for r in mine)
        norm = math.sqrt(sum(r["norm"] ** 2 for r in mine))
        known = [r for r in mine if r["spectrum"] is not None]
        means = {k: sum(r[k] for r in known) / len(known) if known else None for k in ("effective_rank", "rank_of_energy")}
        found.append({
            "layer": layer, "tensors": len(mine), "norm": norm, "sparsity": 1 - nonzero / count if count else 0.0, **means,
            "matrices": len(known), "largest_singular": max((r["spectrum"][0] for r in known if r["spectrum"]), default=None),
            "estimated": any(r["estimated"] for r in known),
        })  # fmt: skip
    return found


def table(facts: dict[str, Any], title: Callable[[int], str] = str) -> str:
    """What a person reads. title: of a paper's number."""
    share = facts["nonzero"] / facts["entries"] if facts["entries"] else 0.0
    base = " ".join(filter(None, (facts["base"][:16] or "fingerprint unknown", facts["provenance"].get("base"))))
    lines = [
        f"base       {base}", *told(facts["provenance"], title), f"norm       {facts['norm']:.4g}",
        f"entries    {facts['entries']}, {100 * share:.3g} % not zero; {facts['stored_bytes'] / 1e6:.3g} MB stored", "",
        f"{'tensor':58s} {'kind':8s} {'shape':>14s} {'norm':>9s} {'zero':>7s} {'eff. rank':>9s} {'r(90 %)':>8s}",
    ]  # fmt: skip
    if not facts["nonzero"]:
        lines.insert(-2, "nothing    every entry is zero: with and without this change the model is the same")
    for row in facts["tensors"]:
        shape = "x".join(map(str, row["shape"])) or "scalar"
        lines.append(f"{row['name']:58s} {row['kind']:8s} {shape:>14s} {row['norm']:9.3g} {100 * row['sparsity']:6.1f}% {_ranks(row)}")
    lines += ["", f"{'layer':>10s} {'tensors':>8s} {'norm':>9s} {'zero':>7s} {'eff. rank':>9s} {'r(90 %)':>8s} {'largest s.v.':>12s}"]
    for row in facts["layers"]:
        layer, most = "elsewhere" if row["layer"] is None else row["layer"], row["largest_singular"]
        line = f"{layer:>10} {row['tensors']:8d} {row['norm']:9.3g} {100 * row['sparsity']:6.1f}% {_ranks(row)}"
        lines.append(line + ("" if most is None else f" {most:12.3g}"))
    lines.append("of layers: eff. rank and r(90 %) are means over their matrices")
    if any(r["estimated"] for r in facts["tensors"]):
        lines.append("~ estimated, within about 3 %; --largest N makes matrices exact whose smaller side is up to N")
    return "\n".join(lines)


def told(record: Mapping[str, Any], title: Callable[[int], str] = str, indent: str = "") -> Iterator[str]:
    """The record of a change, a line for each field, its inputs one step further in."""
    if "path" in record:
        yield f"{indent}{'stored':10s} {record['path']} ({record.get('kind', 'unknown')}), {_short(record.get('fingerprint', 'unknown'))}"
    if made := " ".join(str(record[k]) for k in ("operation", "method") if k in record):
        yield f"{indent}{'made by':10s} {made}"
    for name, value in record.items():
        if name in ("path", "kind", "fingerprint", "files", "operation", "method", "inputs", "versions") or (name == "base" and not indent):
            continue
        if name == "papers":
            yield from (f"{indent}{'paper':10s} {n} {title(n)}" for n in value)
        else:
            yield f"{indent}{name.replace('_', ' '):10s} {_words(value)}"
    if "versions" in record:
        yield f"{indent}{'versions':10s} {_words(record['versions'])}"
    for i, one in enumerate(record.get("inputs", ()), start=1):
        yield f"{indent}input {i}"
        yield from told(one, title, indent + "  ")


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items() if v not in (None, (), []))
    return " ".join(map(_words, value)) if isinstance(value, list | tuple) else str(value)


def _short(fingerprint: str) -> str:
    """'sha256:...' with 16 digits."""
    how, _, digits = fingerprint.partition(":")
    return f"{how}:{digits[:16]}" if digits else how


def _ranks(row: Mapping[str, Any]) -> str:
    about = "~" if row["estimated"] else ""
    rank = "" if row["effective_rank"] is None else f"{about}{row['effective_rank']:.1f}"
    energy = "" if row["rank_of_energy"] is None else f"{about}{row['rank_of_energy']:.0f}"
    return f"{rank:>9s} {energy:>8s}"


MAPS = {"norm": "Norm of the change", "sparsity": "Share of zeros", "effective_rank": "Effective rank"}


def figure(facts: dict[str, Any]) -> str:
    """An HTML page of its own: norm, sparsity and effective rank of every part of every layer, and the spectra."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    inside = [r for r in facts["tensors"] if r["layer"] is not None]
    parts = list(dict.fromkeys(_part(r["name"]) for r in inside))
    layers = sorted({r["layer"] for r in inside})
    titles = (*(f"{t}, by part and layer" for t in MAPS.values()), "Spectra (the 32 largest singular values)")
    page = make_subplots(rows=4, cols=1, subplot_titles=titles)
    for i, key in enumerate(MAPS, start=1):
        values = {(_part(r["name"]), r["layer"]): r[key] for r in inside}
        z, bar = [[values.get((p, n)) for n in layers] for p in parts], {"len": 0.2, "y": 1.0 - (i - 0.6) * 0.26}
        page.add_trace(go.Heatmap(z=z, x=layers, y=parts, name=key, colorscale="Viridis", colorbar=bar), row=i, col=1)
        page.update_xaxes(title_text="layer", row=i, col=1)
    for row in facts["tensors"]:
        if row["spectrum"]:
            page.add_trace(go.Scatter(y=row["spectrum"], name=row["name"], mode="lines"), row=4, col=1)
    page.update_xaxes(title_text="singular value", row=4, col=1)
    page.update_yaxes(type="log", row=4, col=1)
    page.update_layout(height=3 * (250 + 18 * len(parts)) + 400, template="plotly_white", title="metier delta show", showlegend=False)
    return str(page.to_html(include_plotlyjs=True, full_html=True))


def _part(name: str) -> str:
    """'self_attn.q_proj.weight' of 'model.layers.3.self_attn.q_proj.weight'."""
    before, _, after = name.rpartition(f".{depth_of(name)}.")
    return after or before
