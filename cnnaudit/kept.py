"""Heatmaps that are kept because something compares them later: half precision, own units."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cnnaudit.types import MAPS_FILE, MAPS_OF_FILE, Batch, Heatmaps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Kept = NDArray[np.float16]  # (H, W) in units of the largest magnitude: ranks stay what they are


def kept_maps(heatmaps: Heatmaps, batch: Batch) -> dict[str, Kept]:
    """Return each image's heatmap that there is and that is finite."""
    largest = heatmaps.maps.abs().amax(dim=(1, 2), keepdim=True)
    scaled = (heatmaps.maps / largest.where(largest > 0, 1)).half().cpu().numpy()
    finite = np.isfinite(scaled).all(axis=(1, 2))  # what is not, is not in any unit
    return {
        item: scaled[index]
        for index, item in enumerate(batch.ids)
        if finite[index] and index not in heatmaps.ineligible
    }


def maps_files(maps: Mapping[str, Kept]) -> dict[str, bytes]:
    """Return heatmaps as one array, and the items that they are of."""
    content = io.BytesIO()
    np.save(content, np.stack([*maps.values()]) if maps else np.zeros((0, 1, 1), np.float16))
    return {MAPS_FILE: content.getvalue(), MAPS_OF_FILE: json.dumps([*maps]).encode()}
