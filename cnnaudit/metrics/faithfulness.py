"""What the network itself says of a heatmap: its score as pixels leave or come in that order.

No mask is needed. The area under the score is a trapezoid over the share of the pixels, and its
chance level the same area in a random order, which the image alone determines. A heatmap's equal
values come in that random order too, so one that is the same everywhere earns its chance exactly.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from cnnaudit.metrics.registry import faithfulness_metric
from cnnaudit.sections import Count, NotNegative, Seed
from cnnaudit.techniques.procedures import own_generators, passes_of
from cnnaudit.types import Scorer

if TYPE_CHECKING:
    from torch import Tensor

Areas = tuple["Tensor", "Tensor"]  # of the heatmap's order and of a random one, (B,) each


@faithfulness_metric(
    title="deletion",
    meaning="mean explained score as the heatmap’s strongest pixels are taken away first; "
    "lower is better, and chance is a random order",
    higher_is_better=False,
)
def deletion(
    heatmaps: Tensor, scorer: Scorer, *, steps: Count = 16, fill: float = 0.0, seed: Seed = 0
) -> Areas:
    """Return the area under the score as pixels become `fill`, in `steps` steps, and by chance.

    `fill` is in the network's input, where 0 is the mean colour.
    Source: Petsiuk et al., "RISE", BMVC 2018.
    """
    images = scorer.images
    ends = images, images.new_full(images.shape, fill)
    return _areas(heatmaps, scorer, ends, steps, seed, name=("deletion", fill))


@faithfulness_metric(
    title="insertion",
    meaning="mean explained score as the heatmap’s strongest pixels are put in first; "
    "higher is better, and chance is a random order",
    higher_is_better=True,
)
def insertion(
    heatmaps: Tensor,
    scorer: Scorer,
    *,
    steps: Count = 16,
    fill: float = 0.0,
    blur: NotNegative = 0.0,
    seed: Seed = 0,
) -> Areas:
    """Return the area under the score as pixels come into an empty picture, and by chance.

    It begins as `fill` everywhere or, with `blur`, as the picture itself, blurred by a Gaussian of
    that many pixels. Source: Petsiuk et al., "RISE", BMVC 2018.
    """
    images = scorer.images
    start = _blurred(images, blur) if blur else images.new_full(images.shape, fill)
    return _areas(heatmaps, scorer, (start, images), steps, seed, name=("insertion", fill, blur))


def _areas(
    heatmaps: Tensor,
    scorer: Scorer,
    ends: tuple[Tensor, Tensor],
    steps: int,
    seed: int,
    name: Hashable,
) -> Areas:
    """Return the areas as pixels of one picture (B, C, H, W) give way to those of another.

    `name` tells such a pair of pictures from others of the same images: the chance level is the
    same for all heatmaps.
    """
    values = heatmaps.flatten(1) + 0.0  # −0 and 0 are equal
    random = scorer.once(("order", seed), lambda: _random_order(scorer.images, seed))
    strongest = values.gather(1, random).argsort(dim=1, descending=True, stable=True)
    chance = scorer.once((name, steps, seed), lambda: _area(random, scorer, ends, steps))
    return _area(random.gather(1, strongest), scorer, ends, steps), chance


def _random_order(images: Tensor, seed: int) -> Tensor:
    """Return for each image the indices of its pixels in an order of its own, (B, H·W)."""
    import torch

    _, _, h, w = images.shape
    drawn = [torch.randperm(h * w, generator=own) for own in own_generators(images, seed)]
    return torch.stack(drawn).to(images.device)


def _area(order: Tensor, scorer: Scorer, ends: tuple[Tensor, Tensor], steps: int) -> Tensor:
    """Return the area under the score (B,) as pixels change in an order (B, H·W)."""
    import torch

    before, after = ends
    (b, n), (h, w) = order.shape, before.shape[-2:]
    place = order.argsort(dim=1).view(b, 1, h, w)  # of each pixel
    taken = torch.linspace(0, n, steps + 1, dtype=torch.float64).round()
    scores = [
        scorer.score(torch.cat([after.where(place < count, before) for count in part]))
        for part in passes_of(taken.tolist(), b)
    ]
    curves = torch.cat(scores).double().reshape(steps + 1, b)
    return torch.trapezoid(curves, (taken / n).to(curves.device), dim=0)


def _blurred(images: Tensor, sigma: float) -> Tensor:
    from torchvision.transforms.functional import gaussian_blur

    _, _, h, w = images.shape
    radius = max(1, round(3 * sigma))  # what mirrors at an edge is less than the picture
    sides = [2 * min(radius, side - 1) + 1 for side in (w, h)]
    blurred: Tensor = gaussian_blur(images, sides, [sigma, sigma])
    return blurred
