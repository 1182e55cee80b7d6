"""What holds of all metrics: who has no value and why, dead maps, lift, nobody touches another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnaudit.metrics import (
    BEHAVIOUR,
    OVERLAP,
    Score,
    behaviour_of,
    is_dead,
    measure_behaviour,
)
from cnnaudit.metrics.registry import behaviour_metric, overlap_metric
from cnnaudit.specs import MetricSpec
from tests.metrics.at_once import measure_overlap

SPECS = [
    MetricSpec("mass", "mass_in_mask", "mask", {}),
    MetricSpec("pointing", "pointing_game", "mask", {"tolerance": 1}),
    MetricSpec("iou", "iou", "mask", {"threshold": None}),
    MetricSpec("iou_30", "iou", "mask", {"threshold": 0.3}),
    MetricSpec("rank", "rank_accuracy", "mask", {}),
    MetricSpec("top_k", "top_k_intersection", "mask", {"k": 0.1}),
    MetricSpec("auroc", "auroc", "mask", {}),
    MetricSpec("ap", "average_precision", "mask", {}),
    MetricSpec("box", "box_iou", "mask", {"threshold": 0.2}),
]
H, W = 6, 9
TASK = "structured_regression"


def mask(top: int = 1, left: int = 2) -> torch.Tensor:
    m = torch.zeros(H, W, dtype=torch.bool)
    m[top : top + 3, left : left + 4] = True
    return m


def maps(b: int) -> torch.Tensor:
    return torch.rand(b, H, W, generator=torch.Generator().manual_seed(7)) + 0.01


@pytest.mark.parametrize(
    ("region", "status", "reason"),
    [
        (None, "ineligible", "no_such_region"),
        (torch.zeros(H, W, dtype=torch.bool), "undefined", "empty_mask"),
        (torch.ones(H, W, dtype=torch.bool), "undefined", "degenerate_mask"),
    ],
)
def test_an_image_without_a_value_says_why(region, status: str, reason: str) -> None:
    measured = measure_overlap(maps(1), [region], SPECS)
    assert list(measured) == [spec.name for spec in SPECS]
    for (score,) in measured.values():
        assert score == Score(None, None, "", status, reason)
        assert score.lift is None


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("region", [mask(), None])
def test_a_heatmap_that_is_not_finite_fails(value: float, region) -> None:
    heatmap = maps(1)
    heatmap[0, 2, 3] = value
    for (score,) in measure_overlap(heatmap, [region], SPECS).values():
        assert (score.value, score.status) == (None, "failed")
        assert "not finite" in score.reason


@pytest.mark.parametrize(
    "spoil",
    [
        lambda h, m: (torch.full_like(h, torch.nan), m),
        lambda h, m: (torch.full_like(h, torch.inf), m),
        lambda h, m: (torch.zeros_like(h), m),
        lambda h, m: (h, None),
        lambda h, m: (h, torch.zeros_like(m)),
        lambda h, m: (h, torch.ones_like(m)),
    ],
)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_image_never_touches_its_neighbours(spoil, which: int) -> None:
    heatmaps, regions = maps(3), [mask(0, 0), mask(1, 2), mask(3, 5)]
    before = measure_overlap(heatmaps, regions, SPECS)
    heatmaps[which], regions[which] = spoil(heatmaps[which], regions[which])
    after = measure_overlap(heatmaps, regions, SPECS)
    for name, column in after.items():
        assert len(column) == 3
        for i in {0, 1, 2} - {which}:
            assert column[i] == before[name][i]  # bit for bit
        assert column[which] != before[name][which]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_not_even_the_last_bit_depends_on_the_neighbours() -> None:
    """torch adds up one long row in another order than several, once it has several threads."""
    heatmaps = torch.rand(7, 224, 224, generator=torch.Generator().manual_seed(3)) ** 3
    region = torch.zeros(224, 224, dtype=torch.bool)
    region[40:150, 20:99] = True
    together = measure_overlap(heatmaps, [region] * 7, SPECS)
    for i in range(7):
        alone = measure_overlap(heatmaps[i : i + 1], [region], SPECS)
        assert {name: column[i] for name, column in together.items()} == {
            name: column[0] for name, column in alone.items()
        }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_heatmaps_count_in_single_precision(dtype: torch.dtype) -> None:
    heatmaps = maps(2).to(dtype).requires_grad_()
    regions = [mask(), mask(3, 5)]
    assert measure_overlap(heatmaps, regions, SPECS) == measure_overlap(
        heatmaps.detach().float(), regions, SPECS
    )


def test_dead_is_zero_everywhere_and_nothing_else() -> None:
    heatmaps = torch.zeros(4, H, W)
    heatmaps[1, 0, 0] = 1e-30
    heatmaps[2, 5, 8] = -1
    heatmaps[3] = 5  # flat, but not dead
    assert is_dead(heatmaps).tolist() == [True, False, False, False]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 3), st.integers(0, 5))
def test_a_dead_map_scores_at_chance(top: int, left: int) -> None:
    for name, (score,) in measure_overlap(torch.zeros(1, H, W), [mask(top, left)], SPECS).items():
        assert (score.status, score.flag) == ("ok", "dead")
        if name in ("iou_30", "box"):  # without a chance level: the whole image is the region
            assert (score.chance, score.lift) == (None, None)
            assert score.value == pytest.approx(12 / (H * W))
        else:
            assert score.value == pytest.approx(score.chance, abs=1e-12)
            assert score.lift == pytest.approx(0, abs=1e-12)


def test_a_map_that_lives_has_no_flag() -> None:
    for (score,) in measure_overlap(maps(1), [mask()], SPECS).values():
        assert (score.status, score.flag) == ("ok", "")


def test_all_images_refused() -> None:
    measured = measure_overlap(maps(2), [None, torch.zeros(H, W, dtype=torch.bool)], SPECS)
    for column in measured.values():
        assert [score.status for score in column] == ["ineligible", "undefined"]


def test_the_measured_tensors_are_left_as_they_were() -> None:
    heatmaps, region = maps(2), mask()
    heatmaps[1] = 0
    before = heatmaps.clone()
    measure_overlap(heatmaps, [region, region], SPECS)
    assert torch.equal(heatmaps, before)
    assert torch.equal(region, mask())


@pytest.mark.parametrize(
    ("value", "chance", "lift"),
    [
        (0.6, 0.2, 0.5),
        (1.0, 0.2, 1.0),
        (0.2, 0.2, 0.0),
        (0.0, 0.2, -0.25),
        (0.6, 0.0, 0.6),
        (1.0, 1.0, None),
        (0.6, None, None),
        (None, 0.2, None),
    ],
)
def test_lift(value: float | None, chance: float | None, lift: float | None) -> None:
    found = Score(value, chance, "", "ok", "").lift
    assert found == (None if lift is None else pytest.approx(lift))


# --- behaviour ------------------------------------------------------------------------------------


def test_behaviour_gives_every_metric_of_its_task() -> None:
    truth = np.array([0.0, 1.0, 1.0])
    found = measure_behaviour(TASK, np.array([0.2, 0.5, 0.9]), truth)
    assert list(found) == list(behaviour_of(TASK))
    assert {name for name in found if BEHAVIOUR[name].task == TASK} == set(found)
    assert {(score.status, score.chance, score.lift) for score in found.values()} == {
        ("ok", None, None)
    }
    assert behaviour_of("another task") == {}


def test_behaviour_without_a_truth() -> None:
    for score in measure_behaviour(TASK, np.array([0.2, 0.5]), None).values():
        assert score == Score(None, None, "", "ineligible", "no_truth")


@pytest.mark.parametrize(
    ("truth", "reasons"),
    [
        (
            [0, 0, 0],
            {"true_cell_probability": "no_true_cell", "auc": "no_true_cell"},
        ),
        (
            [1, 1, 1],
            {
                "strongest_false_alarm": "no_false_cell",
                "false_cell_activity": "no_false_cell",
                "auc": "no_false_cell",
            },
        ),
    ],
)
def test_behaviour_that_a_truth_does_not_allow(truth: list[int], reasons: dict) -> None:
    found = measure_behaviour(TASK, np.array([0.2, 0.5, 0.9]), np.array(truth, float))
    refused = {name: score.reason for name, score in found.items() if score.status != "ok"}
    assert refused == reasons
    assert {found[name].status for name in reasons} == {"ineligible"}
    assert found["absolute_error"].status == "ok"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 1])
def test_a_prediction_that_is_not_finite_fails_all_of_its_behaviour(at: int, value: float) -> None:
    prediction = np.array([0.2, 0.5, 0.9])
    prediction[at] = value
    for score in measure_behaviour(TASK, prediction, np.array([0.0, 1.0, 1.0])).values():
        assert (score.value, score.status) == (None, "failed")
        assert "not finite" in score.reason


# --- the registries -------------------------------------------------------------------------------


def test_a_name_is_registered_once() -> None:
    def mass_in_mask(overlay):
        raise NotImplementedError

    def auc(prediction, truth):
        raise NotImplementedError

    with pytest.raises(ValueError, match="'mass_in_mask' is registered already"):
        overlap_metric(title="", meaning="", chance=mass_in_mask)(mass_in_mask)
    with pytest.raises(ValueError, match="'auc' is registered already"):
        behaviour_metric(task=TASK, title="", meaning="", higher_is_better=True)(auc)
    assert OVERLAP["mass_in_mask"].compute is not mass_in_mask


def test_a_notebooks_cell_may_register_its_metric_again() -> None:
    for _ in range(2):

        @overlap_metric(title="", meaning="", chance=lambda overlay: overlay.share)
        def own(overlay):
            raise NotImplementedError

    assert OVERLAP.pop("own").compute is own
