"""What is true of a picture, as an array that the behaviour metrics hold a prediction against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.metrics.behaviour import CLASSIFICATION
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

    A label becomes 1 at its class and 0 elsewhere; a structured truth is one already.
    """
    import numpy as np

    if spec.task == CLASSIFICATION:
        if not isinstance(truth, str):
            return None
        one_hot = np.zeros(outputs)
        one_hot[class_index(spec, truth, outputs, "truth")] = 1
        return one_hot
    return None if isinstance(truth, str) else truth


def check_truth(spec: ModelSpec, outputs: int, truth: str | File, where: str) -> None:
    """Raise AuditError if a truth that an item declares cannot be held against a model's answer."""
    from cnnaudit.image_sets.files import read_truth

    if spec.task == CLASSIFICATION:
        if isinstance(truth, str):
            class_index(spec, truth, outputs, where)
    elif isinstance(truth, File):
        cells = read_truth(truth.path).size
        if cells != outputs:
            raise AuditError(
                f"{where}: the truth {truth} has {cells} values, "
                f"the model {spec.name!r} has {outputs} outputs; they must be equal"
            )
