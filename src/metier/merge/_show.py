"""Show: what a change is made of, tensor by tensor and layer by layer; each stored byte is read once for the numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from metier.delta import Between, Delta, Entry, LowRank, New, Seen
from metier.delta.entry import SLICE, tensors_of
from metier.delta.header import KINDS
from metier.delta.parts.scale import depth_of
from metier.delta.parts.truncate import rank_of
from metier.delta.transform import slices

ENERGY = 0.9


def shown(delta: Delta, *, largest: int = 1024) -> dict[str, Any]:
    """Provenance and numbers of a change. largest: matrices whose smaller side is longer get no spectrum."""
    rows = [_row(name, delta[name], largest) for name in sorted(delta)]
    return {
        "base": delta.base, "provenance": dict(delta.provenance), "tensors": rows, "layers": _layers(rows),
        "norm": math.sqrt(sum(r["norm"] ** 2 for r in rows)), "entries": sum(r["entries"] for r in rows),
        "nonzero": sum(r["nonzero"] for r in rows), "stored_bytes": sum(r["bytes"] for r in rows),
    }  # fmt: skip


def _row(name: str, entry: Entry, largest: int) -> dict[str, Any]:
    matrix = len(entry.shape) == 2 and not isinstance(entry, New) and 0 < min(entry.shape) <= largest
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
    return row | (_spectrum(_singular(entry, whole)) if matrix else {"spectrum": None, "effective_rank": None, "rank_of_energy": None})


def _bytes(name: str, entry: Entry) -> int:
    """What the entry takes on the disk, without forming it."""
    if isinstance(entry, Between | Seen):
        return entry.shape.numel() * 4
    return sum(t.numel() * t.element_size() for t in tensors_of(name, entry).values())


def _singular(entry: Entry, whole: Tensor | None) -> Tensor:
    """Singular values, descending; those of a low-rank change from its factors."""
    if isinstance(entry, LowRank):
        up, down = torch.linalg.qr(entry.up.float()).R, torch.linalg.qr(entry.down.float().T).R
        return abs(entry.scale) * torch.linalg.svdvals(up @ down.T)
    return torch.linalg.svdvals(whole)


def _spectrum(singular: Tensor) -> dict[str, Any]:
    """The largest values, exp of the entropy of their distribution (effective rank), and the rank that holds ENERGY of the squares."""
    total = float(singular.sum())
    share = (singular / total).double() if total else singular.double()
    entropy = float(-(share * share.clamp(min=1e-300).log()).sum()) if total else -math.inf
    return {"spectrum": singular[:32].tolist(), "effective_rank": math.exp(entropy), "rank_of_energy": rank_of(singular, ENERGY)}


def _layers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for layer in sorted({r["layer"] for r in rows}, key=lambda n: -1 if n is None else n):
        mine = [r for r in rows if r["layer"] == layer]
        count, nonzero = sum(r["entries"] for r in mine), sum(r["nonzero"] for r in mine)
        norm = math.sqrt(sum(r["norm"] ** 2 for r in mine))
        found.append({"layer": layer, "tensors": len(mine), "norm": norm, "sparsity": 1 - nonzero / count if count else 0.0})
    return found


def table(facts: dict[str, Any]) -> str:
    """What a person reads."""
    lines = [f"base       {facts['base'][:16] or 'unknown'}"]
    lines += [f"{k:10s} {v}" for k, v in facts["provenance"].items() if not isinstance(v, dict | list)]
    share = facts["nonzero"] / facts["entries"] if facts["entries"] else 0.0
    lines += [
        f"norm       {facts['norm']:.4g}",
        f"entries    {facts['entries']}, {100 * share:.3g} % not zero; {facts['stored_bytes'] / 1e6:.3g} MB stored", "",
        f"{'tensor':58s} {'kind':8s} {'shape':>14s} {'norm':>9s} {'zero':>7s} {'eff. rank':>9s} {'r(90 %)':>8s}",
    ]  # fmt: skip
    if not facts["nonzero"]:
        lines.insert(-2, "nothing    every entry is zero: with and without this change the model is the same")
    lines += [_line(r) for r in facts["tensors"]]
    lines += ["", f"{'layer':>10s} {'tensors':>8s} {'norm':>9s} {'zero':>7s}"]
    for row in facts["layers"]:
        layer = "elsewhere" if row["layer"] is None else row["layer"]
        lines.append(f"{layer:>10} {row['tensors']:8d} {row['norm']:9.3g} {100 * row['sparsity']:6.1f}%")
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    shape = "x".join(map(str, row["shape"])) or "scalar"
    rank = "" if row["effective_rank"] is None else f"{row['effective_rank']:.1f}"
    energy = "" if row["rank_of_energy"] is None else str(row["rank_of_energy"])
    return f"{row['name']:58s} {row['kind']:8s} {shape:>14s} {row['norm']:9.3g} {100 * row['sparsity']:6.1f}% {rank:>9s} {energy:>8s}"


def figure(facts: dict[str, Any]) -> str:
    """An HTML page of its own: the norm of every part of every layer, and the spectra."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    inside = [r for r in facts["tensors"] if r["layer"] is not None]
    parts = list(dict.fromkeys(_part(r["name"]) for r in inside))
    layers = sorted({r["layer"] for r in inside})
    norms = {(_part(r["name"]), r["layer"]): r["norm"] for r in inside}
    page = make_subplots(rows=2, cols=1, subplot_titles=("Norm of the change, by part and layer", "Spectra (first 32 singular values)"))
    page.add_trace(
        go.Heatmap(z=[[norms.get((p, n)) for n in layers] for p in parts], x=layers, y=parts, colorscale="Viridis"), row=1, col=1
    )
    for row in facts["tensors"]:
        if row["spectrum"]:
            page.add_trace(go.Scatter(y=row["spectrum"], name=row["name"], mode="lines"), row=2, col=1)
    page.update_xaxes(title_text="layer", row=1, col=1)
    page.update_xaxes(title_text="singular value", row=2, col=1)
    page.update_yaxes(type="log", row=2, col=1)
    page.update_layout(height=500 + 18 * len(parts) + 400, template="plotly_white", title="metier delta show", showlegend=False)
    return str(page.to_html(include_plotlyjs=True, full_html=True))


def _part(name: str) -> str:
    """'self_attn.q_proj.weight' of 'model.layers.3.self_attn.q_proj.weight'."""
    before, _, after = name.rpartition(f".{depth_of(name)}.")
    return after or before


def overlap(deltas: list[Delta]) -> dict[str, list[list[float]]]:
    """Between every two changes: the cosine, and of the entries that both change the fraction with one sign."""
    k = len(deltas)
    dots = torch.zeros(k, k, dtype=torch.float64)
    same, both = torch.zeros(k, k, dtype=torch.float64), torch.zeros(k, k, dtype=torch.float64)
    for name in dict.fromkeys(n for d in deltas for n in d):
        mine = [i for i, d in enumerate(deltas) if name in d.entries and not isinstance(d.entries[name], New)]
        for group in zip(*(slices(deltas[i][name]) for i in mine), strict=True):
            stack = torch.stack([values for _, values in group]).double()
            sign = stack.sign()
            at = torch.tensor(mine)[:, None], torch.tensor(mine)[None, :]
            dots[at] += stack @ stack.T
            agree, there = sign @ sign.T, sign.abs() @ sign.abs().T
            same[at] += (there + agree) / 2
            both[at] += there
    norms = dots.diagonal().sqrt()
    cosine = dots / (norms[:, None] * norms[None, :]).clamp(min=1e-300)
    return {"cosine": cosine.tolist(), "same_sign": (same / both.clamp(min=1)).tolist(), "norm": [norms.tolist()]}
