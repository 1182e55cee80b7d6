"""Techniques: from the signals of a network's passes to heatmaps, one short file per family.

A technique is a pure function ``(signals, *, parameters) -> Tensor (B, h, w)`` of raw values;
resizing, the treatment of signs and normalising happen in one place, after it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from cnnaudit.techniques import averaged, cam, captum, gradient, perturbation, references, views
from cnnaudit.techniques.registry import (
    TECHNIQUES,
    NotApplicable,
    Technique,
    technique,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "TECHNIQUES",
    "NotApplicable",
    "Technique",
    "averaged",
    "cam",
    "captum",
    "gradient",
    "perturbation",
    "references",
    "technique",
    "views",
]


class _Callable(ModuleType):
    """Importing this package takes the name of the public function `cnnaudit.techniques`."""

    def __call__(self) -> pd.DataFrame:
        from cnnaudit.api import techniques

        return techniques()


sys.modules[__name__].__class__ = _Callable
