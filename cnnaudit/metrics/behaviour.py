"""What a network answers, beside where it looks: one prediction against its truth.

Structured regression: N cells, each with a probability and a truth of 0 or 1.
Classification: N probabilities, and a truth that is 1 at its class and 0 elsewhere.
Regression: N numbers of any unit, and as many true ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.metrics.registry import Ineligible, behaviour_metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Cells = NDArray[np.float64]

STRUCTURED_REGRESSION = "structured_regression"
CLASSIFICATION = "classification"
REGRESSION = "regression"

# What outputs are where a config does not say it; those of a regression are no probabilities.
GIVES = {CLASSIFICATION: "logits", STRUCTURED_REGRESSION: "probabilities"}


def answer(task: str, prediction: Cells, gives: str = "logits") -> Cells:
    """Return a prediction (N,) as people read it: of logits the probabilities.

    Those of a classification's classes add up to 1 (softmax), those of cells do not (sigmoid).
    """
    import numpy as np
    from scipy.special import expit, softmax

    if task not in GIVES or gives == "probabilities":
        return prediction
    with np.errstate(invalid="ignore"):  # what is not finite stays so
        probabilities: Cells = (softmax if task == CLASSIFICATION else expit)(prediction)
    return probabilities


@behaviour_metric(
    task=CLASSIFICATION,
    title="accuracy",
    meaning="1 where the true class gets a higher score than every other, else 0",
    higher_is_better=True,
    binary=True,
)
def correct(prediction: Cells, truth: Cells) -> float:
    """Return 1 if the truth has the highest probability alone, else 0."""
    others = prediction[truth < 0.5]
    return float((others < prediction[truth.argmax()]).all())


@behaviour_metric(
    task=CLASSIFICATION,
    title="probability of the truth",
    meaning="probability of the true class, by softmax where the network gives logits",
    higher_is_better=True,
)
def truth_probability(prediction: Cells, truth: Cells) -> float:
    """Return the probability of the true class, 0–1."""
    return float(prediction[truth.argmax()])


@behaviour_metric(
    task=STRUCTURED_REGRESSION,
    title="probability on the true cells",
    meaning="mean predicted probability where the truth is yes",
    higher_is_better=True,
)
def true_cell_probability(prediction: Cells, truth: Cells) -> float:
    """Return the mean probability over the true cells, 0–1; Ineligible without one."""
    return float(prediction[_some(truth > 0.5, "no_true_cell")].mean())


@behaviour_metric(
    task=STRUCTURED_REGRESSION,
    title="strongest false alarm",
    meaning="highest predicted probability where the truth is no",
    higher_is_better=False,
)
def strongest_false_alarm(prediction: Cells, truth: Cells) -> float:
    """Return the highest probability over the false cells, 0–1; Ineligible without one."""
    return float(prediction[_some(truth <= 0.5, "no_false_cell")].max())


@behaviour_metric(
    task=STRUCTURED_REGRESSION,
    title="activity on the false cells",
    meaning="mean predicted probability where the truth is no",
    higher_is_better=False,
)
def false_cell_activity(prediction: Cells, truth: Cells) -> float:
    """Return the mean probability over the false cells, 0–1; Ineligible without one."""
    return float(prediction[_some(truth <= 0.5, "no_false_cell")].mean())


@behaviour_metric(
    task=STRUCTURED_REGRESSION,
    title="AUC",
    meaning="probability that a true cell gets a higher prediction than a false one",
    higher_is_better=True,
)
def auc(prediction: Cells, truth: Cells) -> float:
    """Return P(true > false) + ½ P(=) over the cells, 0–1; Ineligible unless both kinds exist."""
    from scipy.stats import rankdata

    true = _some(truth > 0.5, "no_true_cell")
    n_false = len(truth) - int(true.sum())
    if n_false == 0:
        raise Ineligible("no_false_cell")
    n_true = len(truth) - n_false
    ranks = rankdata(prediction)
    return float((ranks[true].sum() - n_true * (n_true + 1) / 2) / (n_true * n_false))


@behaviour_metric(
    task=STRUCTURED_REGRESSION,
    title="absolute error",
    meaning="mean distance of the prediction from the truth",
    higher_is_better=False,
)
def absolute_error(prediction: Cells, truth: Cells) -> float:
    """Return the mean of |prediction − truth| over the cells, 0–1."""
    return float(abs(prediction - truth).mean())


@behaviour_metric(
    task=REGRESSION,
    title="mean absolute error",
    meaning="mean distance of the prediction from the truth, in their own unit",
    higher_is_better=False,
    bounds=(0.0, float("inf")),
)
def mean_absolute_error(prediction: Cells, truth: Cells) -> float:
    """Return the mean of |prediction − truth| over the outputs, in their own unit."""
    return float(abs(prediction - truth).mean())


def _some(cells: NDArray[np.bool_], reason: str) -> NDArray[np.bool_]:
    if not cells.any():
        raise Ineligible(reason)
    return cells
