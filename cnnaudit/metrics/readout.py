"""Numbers on a device, and their way back: all that is known of a batch comes in one copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

T = TypeVar("T")
Later = Callable[[], T]  # what there will be once the device is done


class Readout:
    """Collects tensors while a device computes; the first look at one of them copies them all."""

    def __init__(self) -> None:
        self._waiting: list[Tensor] = []
        self._copied: list[NDArray[np.float64]] = []

    def later(self, values: Tensor) -> Later[NDArray[np.float64]]:
        """Return what gives `values` on the host, in their shape and in float64."""
        place = len(self._copied) + len(self._waiting)
        self._waiting.append(values.detach())
        return lambda: self._look(place)

    def _look(self, place: int) -> NDArray[np.float64]:
        if place >= len(self._copied):
            self._copied += _on_host(self._waiting)
            self._waiting = []
        return self._copied[place]


def _on_host(tensors: list[Tensor]) -> list[NDArray[np.float64]]:
    """Copy tensors to the host, those of one device together."""
    import numpy as np
    import torch

    places: dict[torch.device, list[int]] = {}
    for place, tensor in enumerate(tensors):
        places.setdefault(tensor.device, []).append(place)
    found: dict[int, NDArray[np.float64]] = {}
    for own in places.values():
        flat = torch.cat([tensors[place].double().flatten() for place in own]).cpu().numpy()
        ends = np.cumsum([tensors[place].numel() for place in own])
        for place, part in zip(own, np.split(flat, ends[:-1]), strict=True):
            found[place] = part.reshape(tensors[place].shape)
    return [found[place] for place in range(len(tensors))]
