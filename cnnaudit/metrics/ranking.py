"""A heatmap's pixels in descending order: one sort that serves every metric that ranks.

What they all need is one curve: pixels of the mask found over pixels taken, the strongest first.
Equal values are one group, and the curve is straight across it: its expectation when their order
is left to chance. So no number depends on the order in which a sort leaves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class Ranking:
    """The corners of each heatmap's curve, from (0, 0) to (n, K); some may be there repeatedly."""

    taken: Tensor  # (B, n + 1) float64, whole numbers
    found: Tensor  # (B, n + 1) float64, whole numbers

    def expected_hits(self, count: Tensor) -> Tensor:
        """Return E |top-count ∩ M| when equal values come in any order, (B,); count (B,) in 1…n."""
        import torch

        end = torch.searchsorted(self.taken, count[:, None].double())
        (x0, y0), (x1, y1) = (
            (self.taken.gather(1, at)[:, 0], self.found.gather(1, at)[:, 0])
            for at in (end - 1, end)
        )
        return y0 + (count - x0) * (y1 - y0) / (x1 - x0)


def rank(heatmaps: Tensor, masks: Tensor) -> Ranking:
    """Rank the pixels of heatmaps (B, H, W), single precision and finite, with masks (B, H, W).

    −0 and 0 are equal.
    """
    values, inside = heatmaps.flatten(1), masks.flatten(1)
    return _rank_on_cpu(values, inside) if values.device.type == "cpu" else _rank(values, inside)


def sort_keys(values: Tensor, inside: Tensor) -> Tensor:
    """Return int64 that grow as float32 values fall, with the lowest bit saying whether in M."""
    import torch

    # A float's bits read as a whole number grow with it, once those of negative ones are turned.
    bits = (values + 0.0).contiguous().view(torch.int32)
    descending = ~(bits ^ ((bits >> 31) & 0x7FFFFFFF))
    return descending.long().add_(2**31).mul_(2).add_(inside)


def _rank(values: Tensor, inside: Tensor) -> Ranking:
    """Rank all rows (B, n) at once; each pixel gives the last corner up to it."""
    import torch

    keys = sort_keys(values, inside).sort(dim=1).values
    corner = torch.ones_like(inside)
    corner[:, :-1] = (keys[:, 1:] ^ keys[:, :-1]) > 1
    pixels = torch.arange(1, keys.shape[1] + 1, device=keys.device)
    curves = [
        torch.where(corner, counts, 0).cummax(dim=1).values.double()
        for counts in (pixels, (keys & 1).cumsum(dim=1))
    ]
    return Ranking(*(torch.nn.functional.pad(curve, (1, 0)) for curve in curves))


def _rank_on_cpu(values: Tensor, inside: Tensor) -> Ranking:
    """Rank row by row, which fits a cache; after a row's corners the last one is repeated."""
    import numpy as np
    import torch

    n = values.shape[1]
    taken, found = np.zeros((2, len(values), n + 1))
    for i in range(len(values)):
        keys = _sorted_in_numpy(sort_keys(values[i], inside[i]).numpy())
        last = np.append(np.flatnonzero((keys[1:] ^ keys[:-1]) > 1), n - 1)
        taken[i, 1 : len(last) + 1] = last + 1
        found[i, 1 : len(last) + 1] = (keys & 1).cumsum()[last]
        taken[i, len(last) + 1 :] = n
        found[i, len(last) + 1 :] = found[i, len(last)]
    return Ranking(torch.from_numpy(taken), torch.from_numpy(found))


def _sorted_in_numpy(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return keys (n,) in the order of their values.

    NumPy sorts 16-bit numbers in linear time: the lower half of the value first, then the upper.
    Its sort of 64-bit keys is a little faster on AVX2, but takes four times as long on a Zen 4,
    where it chooses AVX-512; torch's sort of the values takes seven times as long.
    """
    import numpy as np

    half = keys[np.argsort((keys >> 1).astype(np.uint16), kind="stable")]
    return half[np.argsort((half >> 17).astype(np.uint16), kind="stable")]
