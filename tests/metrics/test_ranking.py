"""The one sort behind all ranking metrics: ties in every order, both ways to sort, peers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score, roc_auc_score

from cnnaudit.config import load_specs
from cnnaudit.metrics import OVERLAP, overlap, ranking
from cnnaudit.metrics.registry import Overlay
from tests.metrics.at_once import measure_overlap

tied = st.sampled_from([-2.0, -0.0, 0.0, 1e-45, 0.5, 3.0])
fine = st.floats(width=32, allow_nan=False, allow_infinity=False)


def pairs(elements: st.SearchStrategy[float], n: int):
    values = arrays.arrays(np.float32, n, elements=elements)
    inside = arrays.arrays(bool, n).filter(lambda m: m.any() and not m.all())
    return st.tuples(values, inside)


def compute(metric: str, h: np.ndarray, m: np.ndarray, **parameters) -> float:
    overlay = Overlay(torch.tensor(h)[None, None], torch.tensor(m)[None, None])
    return OVERLAP[metric].compute(overlay, **parameters).item()


# --- ties -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(pairs(tied, 6))
def test_breaking_ties_in_every_way_averages_to_the_expectation(pair) -> None:
    h, m = pair
    orders = [
        list(order)
        for order in itertools.permutations(range(6))
        if all(h[a] >= h[b] for a, b in itertools.pairwise(order))
    ]
    k = int(m.sum())
    rank = np.mean([m[order[:k]].mean() for order in orders])
    top_2 = np.mean([m[order[:2]].mean() for order in orders])
    pairwise = np.mean(
        [
            np.mean([a < b for a in np.flatnonzero(m[order]) for b in np.flatnonzero(~m[order])])
            for order in orders
        ]
    )
    assert compute("rank_accuracy", h, m) == pytest.approx(rank)
    assert compute("top_k_intersection", h, m, k=1 / 3) == pytest.approx(top_2)
    assert compute("auroc", h, m) == pytest.approx(pairwise)


@settings(deadline=None, max_examples=30)
@given(pairs(tied | fine, 12), st.randoms())
def test_the_order_of_the_pixels_does_not_matter(pair, rng) -> None:
    h, m = pair
    order = list(range(12))
    rng.shuffle(order)
    for metric in ("rank_accuracy", "top_k_intersection", "auroc"):
        assert compute(metric, h[order], m[order]) == compute(metric, h, m)
    moved = compute("average_precision", h[order], m[order])
    assert moved == pytest.approx(compute("average_precision", h, m), abs=1e-12)


def test_negative_zero_ties_with_zero() -> None:
    m = np.array([True, False, False, True])
    for h in ([0.0, -0.0, 0.0, -0.0], [-0.0, 0.0, -0.0, 0.0]):
        assert compute("auroc", np.array(h, np.float32), m) == 0.5
        assert compute("rank_accuracy", np.array(h, np.float32), m) == 0.5
        assert compute("average_precision", np.array(h, np.float32), m) == 0.5


# --- the two ways to sort -------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(pairs(tied | fine, 15), min_size=1, max_size=3))
def test_keys_fall_as_values_grow(batch) -> None:
    for h, m in batch:
        keys = ranking.sort_keys(torch.tensor(h), torch.tensor(m)).numpy()
        assert keys.min() >= 0
        assert ((keys & 1) == m).all()
        place = keys >> 1
        for a, b in itertools.combinations(range(15), 2):
            assert np.sign(place[a] - place[b]) == np.sign(float(h[b]) - float(h[a]))
        assert (ranking._sorted_in_numpy(keys) >> 1 == np.sort(keys) >> 1).all()


def test_the_smallest_difference_there_is_counts() -> None:
    corners = np.array([-3e38, -2, -1, -1e-40, 1e-40, 1, 2, 3e38], np.float32)
    around = [np.nextafter(corners, np.float32(end)) for end in (-np.inf, np.inf)]
    values = torch.tensor(np.sort([corners, *around], axis=None))
    keys = ranking.sort_keys(values, torch.zeros(24, dtype=torch.bool))
    assert (keys.diff() < 0).all()


@settings(deadline=None)
@given(st.lists(pairs(tied | fine, 15), min_size=1, max_size=3))
def test_the_devices_way_agrees_with_the_cpus(batch) -> None:
    values, inside = (torch.tensor(np.stack(column)) for column in zip(*batch, strict=True))
    on_cpu, batched = (
        Overlay(values[:, None], inside[:, None]),
        Overlay(values[:, None], inside[:, None]),
    )
    batched.__dict__["ranking"] = ranking._rank(values, inside)
    for metric in ("rank_accuracy", "top_k_intersection", "auroc", "average_precision", "iou"):
        one, other = (OVERLAP[metric].compute(overlay) for overlay in (on_cpu, batched))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(arrays.arrays(bool, (9, 13)).filter(np.any), st.integers(1, 14))
def test_both_ways_to_dilate_agree(m: np.ndarray, radius: int) -> None:
    masks = torch.tensor(m)[None]
    assert torch.equal(
        overlap._dilate(masks, radius), overlap._dilate_by_convolution(masks, radius)
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_cuda_gives_the_cpus_numbers() -> None:
    panel = load_specs(["metric=[all_overlap]"]).metrics
    heatmaps = torch.randn(6, 60, 80, generator=torch.Generator().manual_seed(0))
    heatmaps[1:3].clamp_(min=0)
    heatmaps[3] = 0
    region = torch.zeros(60, 80, dtype=torch.bool)
    region[20:40, 10:50] = True
    on_cpu = measure_overlap(heatmaps, [region] * 6, panel)
    on_cuda = measure_overlap(heatmaps.cuda(), [region] * 6, panel)
    for name, column in on_cpu.items():
        for one, other in zip(column, on_cuda[name], strict=True):
            assert one.value == pytest.approx(other.value, abs=1e-12)
            assert one.chance == pytest.approx(other.chance, abs=1e-12)
            assert (one.status, one.flag) == (other.status, other.flag)


# --- peers ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(pairs(tied, 30) | pairs(fine, 30))
def test_against_scikit_learn(pair) -> None:
    h, m = pair
    assert compute("auroc", h, m) == pytest.approx(roc_auc_score(m, h), abs=1e-12)
    assert compute("average_precision", h, m) == pytest.approx(
        average_precision_score(m, h), abs=1e-12
    )


def test_against_scikit_learn_at_full_size() -> None:
    rng = np.random.default_rng(4)
    h = rng.gamma(0.3, size=(224, 224)).astype(np.float32).round(2)  # many ties
    m = rng.random(h.shape) < 0.1 + 0.2 * (h > 0.5)
    expected = roc_auc_score(m.ravel(), h.ravel())
    assert compute("auroc", h.ravel(), m.ravel()) == pytest.approx(expected, abs=1e-12)
    expected = average_precision_score(m.ravel(), h.ravel())
    assert compute("average_precision", h.ravel(), m.ravel()) == pytest.approx(expected, abs=1e-12)
