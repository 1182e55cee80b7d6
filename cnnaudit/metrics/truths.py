"""What is true of a picture, as an array that the behaviour metrics hold a prediction against."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from cnnaudit.metrics.behaviour import CLASSIFICATION, REGRESSION, STRUCTURED_REGRESSION
from cnnaudit.models.labels import class_index
from cnnaudit.specs import ModelSpec
from cnnaudit.types import AuditError, File

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


VERSION = 2  # raise when a truth is read otherwise

_FORMS = {  # what a task's truth is
    CLASSIFICATION: "a label or the index of a class",
    STRUCTURED_REGRESSION: "a 1 or a 0 for each output with spaces between them, or a .csv of them",
    REGRESSION: "a number for each output with spaces between them, or a .csv of them",
}


def truth_array(
    spec: ModelSpec, truth: str | NDArray[np.float64] | None, outputs: int
) -> NDArray[np.float64] | None:
    """Return a truth (N,) for a model with N outputs, or None where it is no truth of its task.

    A label becomes 1 at its class and 0 elsewhere; what a file holds is one already, and so are
    numbers where there is one for each output, with spaces between them.
    """
    import numpy as np

    if spec.task == CLASSIFICATION:
        if not isinstance(truth, str):
            return None
        one_hot = np.zeros(outputs)
        one_hot[class_index(spec, truth, outputs, "truth")] = 1
        return one_hot
    if isinstance(truth, str):
        return _numbers(truth, outputs)
    return truth


def check_truth(spec: ModelSpec, outputs: int, truth: str | File, where: str) -> bool:
    """Return whether a truth that an item declares is one of a model's task, whatever it says.

    Raises AuditError if it cannot be held against the model's answer.
    """
    from cnnaudit.image_sets.files import read_truth

    if spec.task == CLASSIFICATION:
        if isinstance(truth, str):
            class_index(spec, truth, outputs, where)
        return isinstance(truth, str)
    values = read_truth(truth.path) if isinstance(truth, File) else _numbers(truth, outputs)
    if values is None:
        return False
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
    return True


def without_truth(spec: ModelSpec, image_set: str, truth: str | File) -> str:
    """Say that an image set has truths, and none of a model's task."""
    return (
        f"behaviour of {spec.name} on {image_set}: it has truths, such as {str(truth)!r}, but none "
        f"of a {spec.task.replace('_', ' ')}, which is {_FORMS[spec.task]}"
    )


def _numbers(text: str, n: int) -> NDArray[np.float64] | None:
    """Return the n finite numbers that a text is, if it is so many."""
    import numpy as np

    with suppress(ValueError):
        values = np.array([float(part) for part in text.split()])
        return values if len(values) == n and np.isfinite(values).all() else None
    return None
