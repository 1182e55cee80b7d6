"""Store a trained network: its weights, and a card that says how it came about and what it can."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from scenarios.blender import REQUIREMENTS


def save(folder: Path, weights: str, model: nn.Module, card: dict[str, Any]) -> None:
    """Write the weights under a name of their own, and ``card.json`` beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / weights)
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")


def versions() -> dict[str, Any]:
    """Return the versions of what a network was made with."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "blender": REQUIREMENTS.read_text().split(),
    }


def rounded(value: Any) -> Any:
    """Return figures with five decimals, in whatever dictionaries and lists they are."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value
