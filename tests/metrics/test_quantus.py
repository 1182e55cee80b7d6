"""Quantus 0.6 where it is right: positive maps without ties, masks that are not empty.

It is in no extra: it brings opencv-python, which overwrites opencv-python-headless. Where it is
not installed (``pip install --no-deps quantus==0.6.0`` and what it imports), these are skipped.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cnnaudit.specs import MetricSpec
from tests.metrics.at_once import measure_overlap

localisation = pytest.importorskip("quantus.metrics.localisation", exc_type=ImportError)

B, H, W = 6, 40, 50
QUIET = {"disable_warnings": True, "abs": False, "normalise": False}
PEERS = {
    "mass_in_mask": (localisation.RelevanceMassAccuracy, {}, {}),
    "pointing_game": (localisation.PointingGame, {}, {}),
    "rank_accuracy": (localisation.RelevanceRankAccuracy, {}, {}),
    "top_k_intersection": (localisation.TopKIntersection, {"k": 0.05}, {"k": 100}),
    "auroc": (localisation.AUC, {}, {}),
}


@pytest.mark.parametrize("name", PEERS)
def test_against_quantus(name: str) -> None:
    peer, ours, theirs = PEERS[name]
    rng = np.random.default_rng(2)
    maps = rng.permuted(np.tile(np.arange(1, H * W + 1), (B, 1)), axis=1).astype(np.float32)
    maps = maps.reshape(B, H, W) ** 2
    masks = np.zeros((B, H, W), bool)
    for mask, (top, left) in zip(masks, rng.integers(0, 25, (B, 2)), strict=True):
        mask[top : top + 12, left : left + 17] = True
    maps[: B // 2][masks[: B // 2]] *= 2.01  # some see the object, some do not
    expected = peer(**QUIET, **theirs).evaluate_batch(
        a_batch=maps[:, None].astype(np.float64), s_batch=masks[:, None]
    )
    spec = MetricSpec(name, name, "mask", ours)
    found = measure_overlap(torch.tensor(maps), list(torch.tensor(masks)), [spec])[name]
    assert [score.value for score in found] == pytest.approx([float(x) for x in expected])
