"""What the metrics say, without waiting for a batch's other numbers."""

from __future__ import annotations

from typing import Any

from cnnaudit import metrics
from cnnaudit.metrics.readout import Readout


def measure_overlap(*arguments: Any) -> metrics.Columns:
    return metrics.measure_overlap(*arguments, Readout())()


def measure_faithfulness(*arguments: Any) -> metrics.Columns:
    return metrics.measure_faithfulness(*arguments, Readout())()


def measure_channels(*arguments: Any) -> metrics.Columns:
    return metrics.measure_channels(*arguments, Readout())()
