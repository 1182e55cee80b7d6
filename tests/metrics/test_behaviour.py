"""Behaviour metrics against SciPy and values by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from cnnaudit.metrics.behaviour import (
    CLASSIFICATION,
    absolute_error,
    answer,
    auc,
    correct,
    false_cell_activity,
    strongest_false_alarm,
    true_cell_probability,
    truth_probability,
)
from cnnaudit.metrics.registry import Ineligible

PREDICTION = np.array([0.1, 0.9, 0.3, 0.6, 0.6])
TRUTH = np.array([0.0, 1.0, 1.0, 0.0, 1.0])

cells = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=2, max_size=30
).filter(lambda pairs: len({truth for _, truth in pairs}) == 2)


def test_by_hand() -> None:
    assert true_cell_probability(PREDICTION, TRUTH) == pytest.approx((0.9 + 0.3 + 0.6) / 3)
    assert false_cell_activity(PREDICTION, TRUTH) == pytest.approx((0.1 + 0.6) / 2)
    assert strongest_false_alarm(PREDICTION, TRUTH) == 0.6
    assert absolute_error(PREDICTION, TRUTH) == pytest.approx((0.1 + 0.1 + 0.7 + 0.6 + 0.4) / 5)
    # pairs (true, false): 0.9 beats both, 0.3 beats one, 0.6 beats one and ties one
    assert auc(PREDICTION, TRUTH) == pytest.approx((2 + 1 + 1.5) / 6)


@settings(deadline=None)
@given(cells)
def test_auc_is_the_mann_whitney_statistic(pairs: list[tuple[float, bool]]) -> None:
    prediction, truth = (np.array(column, float) for column in zip(*pairs, strict=True))
    u = mannwhitneyu(prediction[truth == 1], prediction[truth == 0]).statistic
    n_true = truth.sum()
    assert auc(prediction, truth) == pytest.approx(u / (n_true * (len(truth) - n_true)))
    assert auc(1 - prediction, truth) == pytest.approx(1 - auc(prediction, truth))
    assert auc(prediction, 1 - truth) == pytest.approx(1 - auc(prediction, truth))


@settings(deadline=None)
@given(cells, st.randoms())
def test_the_order_of_the_cells_does_not_matter(pairs, rng) -> None:
    shuffled = list(pairs)
    rng.shuffle(shuffled)
    for metric in (true_cell_probability, false_cell_activity, auc, absolute_error):
        before = metric(*(np.array(column, float) for column in zip(*pairs, strict=True)))
        after = metric(*(np.array(column, float) for column in zip(*shuffled, strict=True)))
        assert after == pytest.approx(before)


@pytest.mark.parametrize(
    ("metric", "truth", "reason"),
    [
        (true_cell_probability, 0.0, "no_true_cell"),
        (auc, 0.0, "no_true_cell"),
        (auc, 1.0, "no_false_cell"),
        (false_cell_activity, 1.0, "no_false_cell"),
        (strongest_false_alarm, 1.0, "no_false_cell"),
    ],
)
def test_a_truth_that_allows_no_value(metric, truth: float, reason: str) -> None:
    with pytest.raises(Ineligible, match=reason):
        metric(PREDICTION, np.full(5, truth))


# --- classification -------------------------------------------------------------------------------

LOGITS = np.log(np.array([1.0, 5.0, 2.0]))  # softmax 1/8, 5/8, 2/8


@pytest.mark.parametrize(
    ("label", "is_highest", "probability"), [(0, 0, 0.125), (1, 1, 0.625), (2, 0, 0.25)]
)
def test_classification_by_hand(label: int, is_highest: int, probability: float) -> None:
    truth = np.eye(3)[label]
    for offset in (0, 1e4):  # softmax does not depend on it, and does not overflow
        prediction = answer(CLASSIFICATION, LOGITS + offset)
        assert correct(prediction, truth) == is_highest
        assert truth_probability(prediction, truth) == pytest.approx(probability)


def test_a_tie_is_not_correct() -> None:
    prediction = answer(CLASSIFICATION, np.zeros(4))
    assert correct(prediction, np.eye(4)[0]) == 0
    assert truth_probability(prediction, np.eye(4)[0]) == 0.25


def test_an_answer_is_a_probability() -> None:
    np.testing.assert_allclose(answer(CLASSIFICATION, LOGITS), [0.125, 0.625, 0.25])
    assert np.isnan(answer(CLASSIFICATION, np.array([np.nan, 1.0]))).all()
    np.testing.assert_allclose(answer("structured_regression", LOGITS), [0.5, 5 / 6, 2 / 3])
    assert answer("structured_regression", LOGITS, "probabilities") is LOGITS
    assert answer("regression", LOGITS) is LOGITS


def test_probabilities_are_an_answer_already() -> None:
    probabilities = np.array([0.7, 0.2, 0.1])
    assert answer(CLASSIFICATION, probabilities, "probabilities") is probabilities
    assert truth_probability(probabilities, np.eye(3)[0]) == 0.7
