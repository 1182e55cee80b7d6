"""What is true of a picture, as an array that the behaviour metrics hold a prediction against."""

from __future__ import annotations

from contextlib import suppress
from math import isfinite
from typing import TYPE_CHECKING

from cnnaudit.metrics.behaviour import CLASSIFICATION, REGRESSION, STRUCTURED_REGRESSION
from cnnaudit.models.labels import class_index
from cnnaudit.specs import ModelSpec
from cnnaudit.types import AuditError, File

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def truth_array(
    spec: ModelSpec, truth: str | NDArray[np.float64] | None, outputs: int
) -> NDArray[np.float64] | None:
    """Return a truth (N,) for a model with N outputs, or None where it is no truth of its task.

    A label becomes 1 at its class and 0 elsewhere; what a file holds is one already, and a number
    is the truth of a regression with one output.
    """
    import numpy as np

    if spec.task == CLASSIFICATION:
        if not isinstance(truth, str):
            return None
        one_hot = np.zeros(outputs)
        one_hot[class_index(spec, truth, outputs, "truth")] = 1
        return one_hot
    if isinstance(truth, str):
        is_number = spec.task == REGRESSION and outputs == 1 and _number(truth) is not None
        return np.array([float(truth)]) if is_number else None
    return truth


def check_truth(spec: ModelSpec, outputs: int, truth: str | File, where: str) -> None:
    """Raise AuditError if a truth that an item declares cannot be held against a model's answer."""
    from cnnaudit.image_sets.files import read_truth

    if spec.task == CLASSIFICATION:
        if isinstance(truth, str):
            class_index(spec, truth, outputs, where)
        return
    if isinstance(truth, File):
        values = read_truth(truth.path)
        if values.size != outputs:
            raise AuditError(
                f"{where}: the truth {truth} has {values.size} values, "
                f"the model {spec.name!r} has {outputs} outputs; they must be equal"
            )
        other = values[(values != 0) & (values != 1)]
        if spec.task == STRUCTURED_REGRESSION and other.size:
            raise AuditError(
                f"{where}: the truth {truth} has the value {other[0]:g}, but each of its cells is "
                f"yes or no, 1 or 0; of other numbers the task is model.{spec.name}.task=regression"
            )


def _number(text: str) -> float | None:
    """Return a finite number that a text is, if it is one."""
    with suppress(ValueError):
        value = float(text)
        return value if isfinite(value) else None
    return None
