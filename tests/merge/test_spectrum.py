"""Spectra of large matrices, estimated, against exact ones; low-rank changes are exact whatever their size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metier.delta import Delta, Dense, LowRank
from metier.merge._show import shown, table
from metier.merge._spectrum import spectrum


def decaying(power: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(400, 400, generator=generator)).Q for _ in "ab")
    return u * torch.arange(1, 401.0) ** -power @ v


def matrix(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(300, 500, generator=generator)
    return {
        "random": noise, "tall": noise.T.contiguous(), "sparse": noise * (noise > 2), "zero": 0 * noise, "one row": noise * (torch.arange(300) == 7)[:, None],
        "few": torch.randn(300, 9, generator=generator) @ torch.randn(9, 500, generator=generator),
        "few and noise": torch.randn(300, 9, generator=generator) @ torch.randn(9, 500, generator=generator) + 0.3 * noise,
    }.get(kind, decaying(1.0 if kind == "steep" else 0.5))  # fmt: skip


@pytest.mark.parametrize("kind", ["random", "tall", "sparse", "zero", "one row", "few", "few and noise", "steep", "flat"])
def test_estimates_are_near(kind: str) -> None:
    whole = matrix(kind)
    exact, found = (spectrum(Dense(whole), whole, largest) for largest in (1024, 100))
    assert found["estimated"] and not exact["estimated"]
    assert found["effective_rank"] == pytest.approx(exact["effective_rank"], rel=0.04)
    assert found["rank_of_energy"] == pytest.approx(exact["rank_of_energy"], rel=0.04, abs=1)
    if kind not in ("zero", "random", "tall", "sparse"):
        assert found["spectrum"][:5] == pytest.approx(exact["spectrum"][:5], rel=1e-3, abs=1e-3)


def test_large_matrices_have_a_spectrum_and_low_rank_ones_an_exact_one() -> None:
    up, down = torch.randn(900, 3), torch.randn(3, 700)
    delta = Delta(
        {"layers.0.a.weight": LowRank(up, down, 0.5), "layers.0.b.weight": Dense(up @ down), "layers.1.a.weight": Dense(matrix("random"))}
    )
    facts = shown(delta, largest=200)
    low, dense, other = facts["tensors"]
    assert low["estimated"] is False and dense["estimated"] is True
    assert low["spectrum"][:3] == pytest.approx((0.5 * torch.linalg.svdvals(up @ down)[:3]).tolist(), rel=1e-4)
    assert facts["layers"][0]["effective_rank"] == pytest.approx((low["effective_rank"] + dense["effective_rank"]) / 2)
    assert (
        facts["layers"][0]["largest_singular"] == dense["spectrum"][0] and facts["layers"][1]["effective_rank"] == other["effective_rank"]
    )
    text = table(facts)
    assert "~ estimated" in text and "largest s.v." in text and f"~{other['effective_rank']:.1f}" in text
    assert all(r["spectrum"] is None for r in shown(delta, largest=None)["tensors"])
