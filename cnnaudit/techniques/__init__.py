"""Techniques: from the signals of a network's passes to heatmaps, one short file per family.

A technique is a pure function ``(signals, *, parameters) -> Tensor (B, h, w)`` of raw values;
resizing, the treatment of signs and normalising happen in one place, after it.
"""

from cnnaudit.techniques import cam, gradient, references
from cnnaudit.techniques.registry import (
    TECHNIQUES,
    NotApplicable,
    Technique,
    technique,
)

__all__ = ["TECHNIQUES", "NotApplicable", "Technique", "cam", "gradient", "references", "technique"]
