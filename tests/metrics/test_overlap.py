"""Overlap of heatmaps and masks against references in NumPy, and the laws they obey."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cnnaudit.metrics import OVERLAP, measure_overlap
from cnnaudit.metrics.registry import Overlay
from cnnaudit.types import AuditError, MetricSpec

RANKING = ("pointing_game", "iou")
SPECS = [
    MetricSpec("mass", "mass_in_mask", "mask", {}),
    MetricSpec("pointing", "pointing_game", "mask", {"tolerance": 0}),
    MetricSpec("pointing_2", "pointing_game", "mask", {"tolerance": 2}),
    MetricSpec("iou", "iou", "mask", {"threshold": None}),
    MetricSpec("iou_half", "iou", "mask", {"threshold": 0.5}),
]
H, W = 4, 5


# --- references, pixel by pixel -------------------------------------------------------------------


def mass_in_mask(h: np.ndarray, m: np.ndarray) -> float:
    positive = np.where(h > 0, h, 0).astype(np.float64)
    return positive[m].sum() / positive.sum()


def dilated(m: np.ndarray, r: int) -> np.ndarray:
    inside = np.argwhere(m)
    near = np.zeros_like(m)
    for y, x in np.ndindex(m.shape):
        near[y, x] = (((inside - (y, x)) ** 2).sum(axis=1) <= r * r).any()
    return near


def pointing_game(h: np.ndarray, m: np.ndarray, r: int) -> float:
    return dilated(m, r)[h == h.max()].mean()


def iou_at_mask_area(h: np.ndarray, m: np.ndarray) -> float:
    """Take the K highest pixels; where the K-th is tied, their expected share of the mask."""
    k, flat, inside = int(m.sum()), h.ravel(), m.ravel()
    kth = np.sort(flat)[::-1][k - 1]
    above, tied = flat > kth, flat == kth
    hits = (above & inside).sum() + (k - above.sum()) * (tied & inside).sum() / tied.sum()
    return hits / (2 * k - hits)


def iou_at(h: np.ndarray, m: np.ndarray, threshold: float) -> float:
    region = np.maximum(h, 0) >= threshold * h.max()
    return (region & m).sum() / (region | m).sum()


# --- what maps and masks are made of --------------------------------------------------------------

# few values, so that ties are common; at least one above 0
maps = arrays.arrays(
    np.float32, (H, W), elements=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, 3.0])
).filter(lambda h: h.max() > 0)
fine_maps = arrays.arrays(np.float32, (H, W), elements=st.floats(-2, 2, width=32)).filter(
    lambda h: h.max() > 1e-3
)
masks = arrays.arrays(bool, (H, W)).filter(lambda m: m.any() and not m.all())


def scores(h: np.ndarray, m: np.ndarray) -> dict[str, float]:
    measured = measure_overlap(torch.tensor(h)[None], [torch.tensor(m)], SPECS)
    assert all(column[0].status == "ok" for column in measured.values())
    return {name: column[0].value for name, column in measured.items()}


def chances(m: np.ndarray) -> dict[str, float | None]:
    measured = measure_overlap(torch.rand(1, *m.shape), [torch.tensor(m)], SPECS)
    return {name: column[0].chance for name, column in measured.items()}


@settings(deadline=None)
@given(maps | fine_maps, masks)
def test_against_the_references(h: np.ndarray, m: np.ndarray) -> None:
    assert scores(h, m) == pytest.approx(
        {
            "mass": mass_in_mask(h, m),
            "pointing": pointing_game(h, m, 0),
            "pointing_2": pointing_game(h, m, 2),
            "iou": iou_at_mask_area(h, m),
            "iou_half": iou_at(h, m, 0.5),
        },
        abs=1e-9,
    )


@settings(deadline=None, max_examples=30)
@given(masks)
def test_chance_levels(m: np.ndarray) -> None:
    share = m.mean()
    expected = {
        "mass": share,
        "pointing": share,
        "pointing_2": dilated(m, 2).mean(),
        "iou": share / (2 - share),
        "iou_half": None,
    }
    found = chances(m)
    assert found.pop("iou_half") is expected.pop("iou_half")
    assert found == pytest.approx(expected, abs=1e-12)


# --- by hand --------------------------------------------------------------------------------------


def one(h: list[list[float]], m: list[list[int]], metric: str, **parameters) -> float:
    overlay = Overlay(torch.tensor([h]), torch.tensor([m]).bool())
    return OVERLAP[metric].compute(overlay, **parameters).item()


def test_negative_relevance_is_no_mass() -> None:
    assert one([[3.0, -5.0, 1.0]], [[1, 1, 0]], "mass_in_mask") == 0.75


def test_mass_is_summed_in_double_precision() -> None:
    h = np.full((1, 2**13 + 1), 1.0, np.float32)
    h[0, 0] = 2.0**24  # where adding 1 in single precision changes nothing
    m = np.zeros(h.shape, int)
    m[0, 0] = 1
    assert one(h.tolist(), m.tolist(), "mass_in_mask") == 2**24 / (2**24 + 2**13)


@pytest.mark.parametrize(
    ("at", "tolerance", "hit"),
    [
        ((0, 0), 0, 1),
        ((0, 1), 0, 0),
        ((0, 1), 1, 1),
        ((1, 1), 1, 0),  # √2 away
        ((0, 5), 5, 1),  # on the circle: ≤
        ((3, 4), 5, 1),
        ((3, 5), 5, 0),
        ((4, 4), 5, 0),
    ],
)
def test_tolerance_is_euclidean_and_inclusive(
    at: tuple[int, int], tolerance: int, hit: float
) -> None:
    h, m = np.zeros((7, 9)), np.zeros((7, 9), int)
    h[at], m[0, 0] = 1, 1
    assert one(h.tolist(), m.tolist(), "pointing_game", tolerance=tolerance) == hit


def test_tied_maxima_share_the_hit() -> None:
    assert one([[7.0, 7.0, 7.0, 1.0]], [[1, 0, 0, 1]], "pointing_game") == pytest.approx(1 / 3)


def test_ties_enter_the_iou_by_their_expectation() -> None:
    """The closed form's E|top-K ∩ M| is that of breaking the ties in every possible way."""
    h, m = [5.0, 2.0, 2.0, 2.0, 1.0], [1, 1, 0, 0, 1]
    hits = [
        sum(m[i] for i in (0, *chosen)) for chosen in itertools.combinations((1, 2, 3), 2)
    ]  # K = 3: the 5 and two of the three 2s
    expected = np.mean(hits)
    assert one([h], [m], "iou") == pytest.approx(expected / (6 - expected))


def test_iou_at_a_threshold_is_a_share_of_the_maximum_and_inclusive() -> None:
    h, m = [[4.0, 2.0, 1.9, -9.0]], [[0, 1, 1, 0]]
    assert one(h, m, "iou", threshold=0.5) == pytest.approx(1 / 3)
    assert one(h, m, "iou", threshold=1.0) == 0


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5, float("nan")])
def test_iou_threshold_that_is_no_share(threshold: float) -> None:
    with pytest.raises(AuditError, match="threshold"):
        one([[1.0, 2.0]], [[1, 0]], "iou", threshold=threshold)


def test_negative_tolerance() -> None:
    with pytest.raises(AuditError, match="tolerance: -1"):
        one([[1.0, 2.0]], [[1, 0]], "pointing_game", tolerance=-1)


def test_a_perfect_and_a_worst_map() -> None:
    m = np.zeros((H, W), bool)
    m[1:3, 1:4] = True
    assert set(scores(m.astype(np.float32), m).values()) == {1}
    worst = scores((~m).astype(np.float32), m)
    assert [worst[name] for name in ("mass", "pointing", "iou", "iou_half")] == [0, 0, 0, 0]


# --- laws -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(maps, masks, st.sampled_from([2.0**-20, 0.5, 3.0, 2.0**20]))
def test_positive_scale_changes_nothing(h: np.ndarray, m: np.ndarray, scale: float) -> None:
    assert scores(h * np.float32(scale), m) == pytest.approx(scores(h, m), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(maps, masks)
def test_an_increasing_transform_leaves_the_ranking_metrics(h: np.ndarray, m: np.ndarray) -> None:
    before, after = scores(h, m), scores(np.exp(h), m)
    for name in ("pointing", "pointing_2", "iou"):
        assert after[name] == before[name]


@settings(deadline=None, max_examples=30)
@given(maps, masks, st.sampled_from([0, 1, (0, 1)]))
def test_flipping_both_changes_nothing(h: np.ndarray, m: np.ndarray, axis) -> None:
    flipped = scores(np.flip(h, axis).copy(), np.flip(m, axis).copy())
    assert flipped == pytest.approx(scores(h, m), abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(maps, masks, st.floats(0, 10, width=32), st.randoms())
def test_relevance_added_inside_never_lowers_the_mass(h, m, more: float, rng) -> None:
    y, x = rng.choice(np.argwhere(m).tolist())
    added = h.copy()
    added[y, x] += np.float32(more)
    assert scores(added, m)["mass"] >= scores(h, m)["mass"] - 1e-12


@settings(deadline=None, max_examples=30)
@given(maps, masks)
def test_mass_of_a_region_and_of_the_rest_make_one(h: np.ndarray, m: np.ndarray) -> None:
    assert scores(h, m)["mass"] + scores(h, ~m)["mass"] == pytest.approx(1)


@settings(deadline=None, max_examples=30)
@given(maps | fine_maps, masks)
def test_values_keep_their_bounds_and_pointing_grows_with_tolerance(h, m) -> None:
    values = scores(h, m)
    for spec in SPECS:
        low, high = OVERLAP[spec.uses].bounds
        assert low <= values[spec.name] <= high + 1e-12
    assert values["pointing_2"] >= values["pointing"]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(maps, masks), min_size=2, max_size=4), st.randoms())
def test_a_batch_is_its_images_in_any_order(pairs, rng) -> None:
    order = list(range(len(pairs)))
    rng.shuffle(order)
    alone = [scores(h, m) for h, m in pairs]
    together = measure_overlap(
        torch.tensor(np.stack([pairs[i][0] for i in order])),
        [torch.tensor(pairs[i][1]) for i in order],
        SPECS,
    )
    for name, column in together.items():
        assert [score.value for score in column] == [alone[i][name] for i in order]
