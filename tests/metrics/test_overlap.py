"""Overlap of heatmaps and masks against references in NumPy, and the laws they obey."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cnnaudit.metrics import OVERLAP
from cnnaudit.metrics.registry import Overlay
from cnnaudit.specs import MetricSpec
from cnnaudit.types import AuditError
from tests.metrics.at_once import measure_overlap

RANKING = ("pointing", "pointing_2", "rank", "top_k", "auroc", "ap", "iou")
K = 0.15  # of 20 pixels: 3
SPECS = [
    MetricSpec("mass", "mass_in_mask", "mask", {}),
    MetricSpec("mass_abs", "mass_in_mask", "mask", {"abs": True}),
    MetricSpec("pointing", "pointing_game", "mask", {"tolerance": 0}),
    MetricSpec("pointing_2", "pointing_game", "mask", {"tolerance": 2}),
    MetricSpec("iou", "iou", "mask", {"threshold": None}),
    MetricSpec("iou_half", "iou", "mask", {"threshold": 0.5}),
    MetricSpec("rank", "rank_accuracy", "mask", {}),
    MetricSpec("top_k", "top_k_intersection", "mask", {"k": K}),
    MetricSpec("auroc", "auroc", "mask", {}),
    MetricSpec("ap", "average_precision", "mask", {}),
    MetricSpec("box", "box_iou", "mask", {"threshold": 0.2}),
]
PANEL = {spec.name: spec for spec in SPECS}
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


def hits_of_top(h: np.ndarray, m: np.ndarray, k: int) -> float:
    """Take the k highest pixels; where the k-th is tied, their expected share of the mask."""
    flat, inside = h.ravel(), m.ravel()
    kth = np.sort(flat)[::-1][k - 1]
    above, tied = flat > kth, flat == kth
    return (above & inside).sum() + (k - above.sum()) * (tied & inside).sum() / tied.sum()


def iou_at_mask_area(h: np.ndarray, m: np.ndarray) -> float:
    hits = hits_of_top(h, m, m.sum())
    return hits / (2 * m.sum() - hits)


def iou_at(h: np.ndarray, m: np.ndarray, threshold: float) -> float:
    region = np.maximum(h, 0) >= threshold * np.float64(h.max())
    return (region & m).sum() / (region | m).sum()


def auroc(h: np.ndarray, m: np.ndarray) -> float:
    """Compare every pixel inside with every one outside."""
    inside, outside = h[m][:, None], h[~m][None, :]
    return ((inside > outside) + 0.5 * (inside == outside)).mean()


def average_precision(h: np.ndarray, m: np.ndarray) -> float:
    """Let the threshold fall from value to value."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(h.ravel().tolist()), reverse=True):
        strong = h >= threshold
        recall = (strong & m).sum() / m.sum()
        total += (recall - before) * (strong & m).sum() / strong.sum()
        before = recall
    return total


def regions_of(strong: np.ndarray) -> list[set[tuple[int, int]]]:
    """Grow each region from a pixel, over its 8 neighbours."""
    left = set(map(tuple, np.argwhere(strong).tolist()))
    regions = []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            region.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        regions.append(region)
    return regions


def box_of(pixels) -> set[tuple[int, int]]:
    """Return the pixels of the smallest box around some."""
    ys, xs = zip(*pixels, strict=True)
    return set(itertools.product(range(min(ys), max(ys) + 1), range(min(xs), max(xs) + 1)))


def box_iou(h: np.ndarray, m: np.ndarray, threshold: float) -> float:
    regions = regions_of(np.maximum(h, 0) >= threshold * np.float64(h.max()))
    size = max(map(len, regions))
    boxes = [box_of(region) for region in regions if len(region) == size]
    inside = box_of(np.argwhere(m).tolist())
    return float(np.mean([len(box & inside) / len(box | inside) for box in boxes]))


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
            "mass_abs": np.abs(h).astype(float)[m].sum() / np.abs(h).astype(float).sum(),
            "rank": hits_of_top(h, m, m.sum()) / m.sum(),
            "top_k": hits_of_top(h, m, 3) / 3,
            "auroc": auroc(h, m),
            "ap": average_precision(h, m),
            "box": box_iou(h, m, 0.2),
        },
        abs=1e-9,
    )


@settings(deadline=None, max_examples=30)
@given(masks)
def test_chance_levels(m: np.ndarray) -> None:
    share = m.mean()
    expected = {
        **dict.fromkeys(("mass", "mass_abs", "pointing", "rank", "top_k", "ap"), share),
        "pointing_2": dilated(m, 2).mean(),
        "iou": share / (2 - share),
        "auroc": 0.5,
    }
    found = chances(m)
    assert (found.pop("iou_half"), found.pop("box")) == (None, None)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_chance_is_what_random_maps_earn(spec: MetricSpec) -> None:
    m = torch.zeros(24, 32, dtype=torch.bool)
    m[5:15, 9:21] = True
    noise = torch.rand(1500, 24, 32, generator=torch.Generator().manual_seed(1))
    column = measure_overlap(noise, [m] * len(noise), [spec])[spec.name]
    mean = np.mean([score.value for score in column])
    if column[0].chance is not None:
        # a game of hit or miss scatters more; "about" for average precision and IoU
        assert mean == pytest.approx(
            column[0].chance, abs=0.04 if "pointing" in spec.name else 0.008
        )
    else:
        assert spec.name in ("iou_half", "box")


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
    for name in ("mass", "pointing", "iou", "iou_half", "rank", "top_k", "auroc"):
        assert worst[name] == 0
    # nothing is found before all of the rest has been taken
    assert worst["ap"] == m.mean()


def test_absolute_relevance_counts_with_the_option_only() -> None:
    h, m = [[3.0, -5.0, 1.0, -1.0]], [[1, 1, 0, 0]]
    assert one(h, m, "mass_in_mask", abs=True) == 0.8
    assert one(h, m, "mass_in_mask", abs=False) == one(h, m, "mass_in_mask") == 0.75


@pytest.mark.parametrize("lowest", [-1.0, -1e-30])
def test_a_map_without_a_positive_value_has_its_mass_everywhere(lowest: float) -> None:
    """h⁺ is zero everywhere: nothing to place, so the uniform map; its ranking still counts."""
    h, m = np.zeros((H, W), np.float32), np.zeros((H, W), bool)
    m[1:3, 1:4] = True
    h[~m] = lowest
    measured = measure_overlap(torch.tensor(h)[None], [torch.tensor(m)], SPECS)
    assert {column[0].status for column in measured.values()} == {"ok"}
    assert {column[0].flag for column in measured.values()} == {""}  # not dead
    (mass,) = measured["mass"]
    assert mass.value == mass.chance == m.mean()
    assert mass.lift == 0
    assert measured["iou_half"][0].value == measured["box"][0].value == pytest.approx(m.mean())
    assert measured["mass_abs"][0].value == 0
    assert measured["auroc"][0].value == measured["rank"][0].value == 1


def test_a_share_of_the_image_can_hold_more_than_the_object() -> None:
    """|top-k ∩ M| / k reaches K/k at most."""
    h, m = [[9.0, 3.0, 8.0, 2.0, 1.0]], [[1, 1, 0, 0, 0]]
    assert one(h, m, "top_k_intersection", k=0.8) == 2 / 4
    assert one(h, m, "top_k_intersection", k=0.4) == 1 / 2
    assert one(h, m, "top_k_intersection", k=0.2) == 1
    assert one(h, m, "top_k_intersection", k=1e-9) == 1  # at least a pixel
    assert one(h, m, "top_k_intersection", k=1.0) == 2 / 5


@pytest.mark.parametrize("k", [0.0, -0.1, 1.01, float("nan")])
def test_k_that_is_no_share(k: float) -> None:
    with pytest.raises(AuditError, match="k: "):
        one([[1.0, 2.0]], [[1, 0]], "top_k_intersection", k=k)


@pytest.mark.parametrize("threshold", [0.0, 1.5, float("nan")])
def test_box_threshold_that_is_no_share(threshold: float) -> None:
    with pytest.raises(AuditError, match="threshold"):
        one([[1.0, 2.0]], [[1, 0]], "box_iou", threshold=threshold)


def test_a_box_has_no_extra_pixel() -> None:
    h = [[0.0, 0, 0, 0], [0, 5, 4, 0], [0, 0, 0, 1]]  # two pixels in a row, one aslant
    assert one(h, [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], "box_iou", threshold=0.5) == 1 / 2
    assert one(h, [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], "box_iou", threshold=0.2) == 1 / 6
    assert one(h, [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]], "box_iou", threshold=0.5) == 2 / 6


def test_boxes_that_touch_share_nothing() -> None:
    assert one([[0.0, 0, 1, 1]], [[1, 1, 0, 0]], "box_iou") == 0
    assert one([[0.0, 0, 0, 1]], [[1, 0, 0, 0]], "box_iou") == 0


def test_regions_of_one_size_count_by_their_mean() -> None:
    assert one([[1.0, 1, 0, 1, 1]], [[1, 1, 0, 0, 0]], "box_iou") == 1 / 2
    assert one([[1.0, 1, 0, 1, 0]], [[1, 1, 0, 0, 0]], "box_iou") == 1  # the larger one


# --- laws -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(maps, masks, st.sampled_from([2.0**-20, 0.5, 3.0, 2.0**20]))
def test_positive_scale_changes_nothing(h: np.ndarray, m: np.ndarray, scale: float) -> None:
    assert scores(h * np.float32(scale), m) == pytest.approx(scores(h, m), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(maps, masks)
def test_an_increasing_transform_leaves_the_ranking_metrics(h: np.ndarray, m: np.ndarray) -> None:
    before, after = scores(h, m), scores(np.exp(h), m)
    for name in RANKING:
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
    for name, value in values.items():
        low, high = OVERLAP[PANEL[name].uses].bounds
        assert low <= value <= high + 1e-12
    assert values["top_k"] <= min(1, m.sum() / 3) + 1e-12
    assert values["pointing_2"] >= values["pointing"]


@settings(deadline=None, max_examples=30)
@given(maps | fine_maps, masks)
def test_the_opposite_map_has_the_opposite_auroc(h: np.ndarray, m: np.ndarray) -> None:
    overlay, opposite = (Overlay(torch.tensor(x)[None], torch.tensor(m)[None]) for x in (h, -h))
    both = OVERLAP["auroc"].compute(overlay) + OVERLAP["auroc"].compute(opposite)
    assert both.item() == pytest.approx(1)


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
