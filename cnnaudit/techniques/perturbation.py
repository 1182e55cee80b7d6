"""Techniques that change the picture and watch the score y."""

from __future__ import annotations

from itertools import product
from math import ceil
from typing import TYPE_CHECKING

from cnnaudit.sections import Count, Probability, Seed, Share
from cnnaudit.techniques.procedures import by_variant, passes_of
from cnnaudit.techniques.registry import Query, technique
from cnnaudit.types import Needs, PassSpec, Signals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_SCORE = PassSpec()


@technique(needs=Needs(queries=True), title="Occlusion", citation="Zeiler, Fergus, ECCV 2014")
def occlusion(
    signals: Signals,
    query: Query,
    *,
    patch: Share = 0.2,
    stride: Share = 0.1,
    fill: float = 0.0,
) -> Tensor:
    """Return the drop of the score under a patch, averaged over the patches on a pixel, (B, H, W).

    Signed: positive where covering lowers the score. `patch` and `stride` are shares of each side;
    `fill` is the patch's value in every channel of the network's input, where 0 is the mean colour.
    """
    images = signals.images
    b, _, h, w = images.shape
    drop, covered = images.new_zeros(b, h, w), images.new_zeros(h, w)
    windows = [*product(_windows(h, patch, stride), _windows(w, patch, stride))]
    for some in passes_of(windows, b):
        variants = by_variant(images.repeat(len(some), 1, 1, 1), b)
        for variant, (rows, columns) in zip(variants, some, strict=True):
            variant[..., rows, columns] = fill
        scores = by_variant(query(variants.flatten(0, 1), _SCORE).score, b)
        for score, (rows, columns) in zip(scores, some, strict=True):
            drop[:, rows, columns] += (signals.score - score)[:, None, None]
            covered[rows, columns] += 1
    return drop / covered.clamp(min=1)  # a stride above the patch leaves pixels uncovered


@technique(
    needs=Needs(queries=True), title="RISE", citation="Petsiuk, Das, Saenko, BMVC 2018", version=2
)
def rise(
    signals: Signals,
    query: Query,
    *,
    masks: Count = 1000,
    cells: Count = 7,
    keep: Probability = 0.5,
    centred: bool = True,
    seed: Seed = 0,
) -> Tensor:
    """Return the mean of random masks weighted by the score that they leave, (B, H, W).

    Each mask is a grid of `cells` × `cells`, each kept with probability `keep`, enlarged smoothly
    and shifted at random; what it covers becomes 0, the mean colour. All images get the same masks.
    A score that is no probability has an offset, which lifts the whole heatmap: `centred` takes its
    mean over the masks away. For probabilities, as published, it is False.
    """
    import torch

    images = signals.images
    b, _, h, w = images.shape
    grids, shifts = _drawn(masks, (h, w), cells, keep, seed)
    # In double precision: the offset of the scores is in every sum, and leaves only at the end.
    sums = images.new_zeros(0, dtype=torch.float64)
    weighted, masks_sum, scores_sum = (
        sums.new_zeros(b, h, w),
        sums.new_zeros(h, w),
        sums.new_zeros(b),
    )
    for some in passes_of(range(masks), b):
        drawn = _masks(grids[some], shifts[some], (h, w)).to(images)
        masked = images * drawn[:, None, None]
        scores = by_variant(query(masked.flatten(0, 1), _SCORE).score, b).double()
        drawn = drawn.double()
        weighted += torch.einsum("nb,nhw->bhw", scores, drawn)
        masks_sum += drawn.sum(dim=0)
        scores_sum += scores.sum(dim=0)
    if centred:
        weighted -= (scores_sum / masks)[:, None, None] * masks_sum
    return (weighted / (masks * keep)).to(images)


def _windows(size: int, patch: float, stride: float) -> Iterator[slice]:
    """Yield the places of a patch along one side; the last one may end at the border."""
    length, step = max(1, round(patch * size)), max(1, round(stride * size))
    for start in range(0, size - length + step, step):
        yield slice(start, min(start + length, size))


def _drawn(
    n: int, size: tuple[int, int], cells: int, keep: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Return n grids (n, cells, cells) of 0 and 1, and how far each mask is shifted (n, 2)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    grids = (torch.rand(n, cells, cells, generator=generator) < keep).float()
    shifts = [torch.randint(ceil(side / cells), (n,), generator=generator) for side in size]
    return grids, torch.stack(shifts, dim=1)


def _masks(grids: Tensor, shifts: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks (n, H, W) in 0–1: grids enlarged by a cell more than needed, and shifted."""
    import torch

    _, cells, _ = grids.shape
    (h, w), enlarged = size, [(cells + 1) * ceil(side / cells) for side in size]
    large = torch.nn.functional.interpolate(
        grids[:, None], enlarged, mode="bilinear", align_corners=False
    )[:, 0]
    return torch.stack(
        [
            mask[top : top + h, left : left + w]
            for mask, (top, left) in zip(large, shifts.tolist(), strict=True)
        ]
    )
