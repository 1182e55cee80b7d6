"""Targets: which scalar of a network's scores is explained.

A target turns scores (B, N) into weights (B, N); the explained score is y = Σ_n weight · score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cnnaudit.types import AuditError

if TYPE_CHECKING:
    from torch import Tensor


def all_outputs(scores: Tensor) -> Tensor:
    """Explain the sum of all outputs, as for a regression."""
    return scores.new_ones(scores.shape)


def predicted(scores: Tensor) -> Tensor:
    """Explain each image's own highest score."""
    return scores.new_zeros(scores.shape).scatter(1, scores.argmax(dim=1, keepdim=True), 1)


def class_index(scores: Tensor, *, index: int) -> Tensor:
    """Explain the score of one class for every image; raise AuditError if there is none such."""
    n = scores.shape[1]
    if not 0 <= index < n:
        raise AuditError(f"target: class index {index} is out of range, the model has {n} outputs")
    weights = scores.new_zeros(scores.shape)
    weights[:, index] = 1
    return weights


TARGETS: Mapping[str, Callable[..., Tensor]] = {
    "all_outputs": all_outputs,
    "predicted": predicted,
    "class": class_index,
}
