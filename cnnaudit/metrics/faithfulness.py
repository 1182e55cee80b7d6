"""What the network itself says of a heatmap: its score as pixels leave or come in that order.

No mask is needed. The area under the score is a trapezoid over the share of the pixels, and its
chance level the same area in a random order, which the image alone determines. A heatmap's equal
values come in that random order too, so one that is the same everywhere earns its chance exactly.
"""

from __future__ import annotations

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
    return _areas(heatmaps, scorer, images, images.new_full(images.shape, fill), steps, seed)


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
    return _areas(heatmaps, scorer, start, images, steps, seed)


def _areas(
    heatmaps: Tensor, scorer: Scorer, before: Tensor, after: Tensor, steps: int, seed: int
) -> Areas:
    """Return the areas as pixels of `before` (B, C, H, W) give way to those of `after`."""
    import torch

    b, h, w = heatmaps.shape
    taken = torch.linspace(0, h * w, steps + 1, dtype=torch.float64).round()
    places = [place.view(b, 1, h, w) for place in _places(heatmaps, scorer.images, seed)]
    stages = [(place, count) for place in places for count in taken.tolist()]
    scores = [
        scorer.score(torch.cat([after.where(place < count, before) for place, count in part]))
        for part in passes_of(stages, b)
    ]
    curves = torch.cat(scores).double().reshape(2, steps + 1, b)
    own, chance = torch.trapezoid(curves, (taken / (h * w)).to(curves.device), dim=1)
    return own, chance


def _places(heatmaps: Tensor, images: Tensor, seed: int) -> Areas:
    """Return each pixel's place in the heatmap's order and in a random one, (B, H·W) each."""
    import torch

    values = heatmaps.flatten(1) + 0.0  # −0 and 0 are equal
    n = values.shape[1]
    drawn = [torch.randperm(n, generator=own) for own in own_generators(images, seed)]
    random = torch.stack(drawn).to(values.device)
    strongest = values.gather(1, random).argsort(dim=1, descending=True, stable=True)
    return random.gather(1, strongest).argsort(dim=1), random.argsort(dim=1)


def _blurred(images: Tensor, sigma: float) -> Tensor:
    from torchvision.transforms.functional import gaussian_blur

    _, _, h, w = images.shape
    radius = max(1, round(3 * sigma))  # what mirrors at an edge is less than the picture
    sides = [2 * min(radius, side - 1) + 1 for side in (w, h)]
    blurred: Tensor = gaussian_blur(images, sides, [sigma, sigma])
    return blurred
