"""Train the robot's network on rendered frames: ``python -m scenarios.robot.train``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from cnnaudit.config import load_specs
from cnnaudit.metrics.behaviour import auc
from cnnaudit.models.perception import DISTANCES, SENSORS, SimpleCNN
from cnnaudit.models.preprocessing import prepare_image
from cnnaudit.specs import Preprocessing
from scenarios import cards
from scenarios.robot.frames import Frames, FrameSet, load_frames
from scenarios.robot.render import FRAMES_ROOT
from scenarios.shards import FramesError

HERE = Path(__file__).parent
CENTRE = SENSORS.index("centre")


@dataclass(frozen=True)
class Recipe:
    """How the network is trained."""

    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 2e-3  # of Adam, falling to 0 along half a cosine
    seed: int = 0  # of the first weights, the order of the frames, their mirroring, the dropout


@dataclass(frozen=True)
class Examples:
    """Frames as the network receives them: images (N, 3, 64, 80), truth (N, 325), both float32."""

    images: Tensor
    truth: Tensor


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, evaluate, and write the weights and their card; return the exit code."""
    options = _parse(arguments)
    console = Console(stderr=True)
    try:
        train_set, train_frames = load_frames(options.frames)
        held_out_set, held_out_frames = load_frames(options.held_out)
        _check_apart(train_set, held_out_set)
    except FramesError as error:
        console.print(f"Error: {error}", style="red", markup=False, highlight=False)
        return 1
    preprocessing = load_specs(["model=[perception]"]).models[0].preprocessing
    recipe = Recipe(epochs=options.epochs, seed=options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with Progress(console=console) as progress:
        bar = progress.add_task("training", total=recipe.epochs)
        model = train(
            prepare_frames(train_frames, preprocessing),
            recipe,
            device,
            on_epoch=lambda loss: progress.update(bar, advance=1, description=f"loss {loss:.4f}"),
        )
    figures = evaluate(model, held_out_frames, preprocessing)
    card = _card(train_set, held_out_set, recipe, figures)
    cards.save(options.out, "perception.safetensors", model, card)
    console.print(f"AUC over all held-out cells: {figures['auc']:.4f}")
    return 0


def prepare_frames(frames: Frames, preprocessing: Preprocessing) -> Examples:
    """Return frames as examples, through the same preprocessing as the audit's."""
    images = [prepare_image(Image.fromarray(image), preprocessing) for image in frames.images]
    return Examples(torch.stack(images), torch.from_numpy(frames.truth.astype(np.float32)))


def train(
    examples: Examples,
    recipe: Recipe,
    device: torch.device,
    on_epoch: Callable[[float], None],
) -> SimpleCNN:
    """Return a network trained on the examples; the same on the same device for the same seed.

    ``on_epoch`` gets each epoch's mean loss.
    """
    torch.manual_seed(recipe.seed)
    order = torch.Generator().manual_seed(recipe.seed)
    model = SimpleCNN().to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    for _ in range(recipe.epochs):
        losses = []
        for batch in torch.split(
            torch.randperm(len(examples.images), generator=order), recipe.batch_size
        ):
            images, truth = mirror_some(examples.images[batch], examples.truth[batch], order)
            loss = nn.functional.binary_cross_entropy_with_logits(
                scores(model, images.to(device)), truth.to(device)
            )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(loss.detach())
        schedule.step()
        on_epoch(float(torch.stack(losses).mean()))
    return model.cpu().eval()


def scores(model: SimpleCNN, images: Tensor) -> Tensor:
    """Return the scores before the sigmoid, (B, 325): the loss is exact on those."""
    logits: Tensor = model.decoder[:-1](model.encoder(images).flatten(1))
    return logits


def mirror_some(images: Tensor, truth: Tensor, order: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror half of the frames, left to right, and their sensors (B, 325) along with them."""
    b, cells = truth.shape
    chosen = torch.rand(b, generator=order) < 0.5
    mirrored = truth.view(b, DISTANCES, len(SENSORS)).flip(2).reshape(b, cells)
    return (
        torch.where(chosen[:, None, None, None], images.flip(3), images),
        torch.where(chosen[:, None], mirrored, truth),
    )


def evaluate(model: SimpleCNN, frames: Frames, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the figures of the card, on frames that the network has not seen."""
    with torch.no_grad():
        probability = model(prepare_frames(frames, preprocessing).images).numpy()
    truth = frames.truth
    occupied = frames.obstacles > 0
    per_distance = [
        _auc(probability[:, cell], truth[:, cell])
        for cell in range(CENTRE, truth.shape[1], len(SENSORS))
    ]
    return {
        "auc": _auc(probability, truth),
        "auc_per_distance_centre_sensor": per_distance,
        "with_obstacles": {
            "scenes": int(occupied.sum()),
            "auc": _auc(probability[occupied], truth[occupied]),
            "mean_probability_on_true_cells": _mean(probability[truth]),
            "mean_probability_on_false_cells": _mean(probability[occupied][~truth[occupied]]),
        },
        "without_obstacles": {
            "scenes": int((~occupied).sum()),
            # No cell is true where nothing stands, so that there is no AUC to give.
            "auc": None,
            "mean_probability": _mean(probability[~occupied]),
            "share_of_cells_over_half": _mean(probability[~occupied] > 0.5),
        },
    }


def _auc(probability: NDArray[Any], truth: NDArray[np.bool_]) -> float | None:
    """Return the area under the ROC curve over these cells; None where one kind is absent."""
    if truth.all() or not truth.any():
        return None
    return auc(probability.ravel(), truth.ravel())


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if values.size else None


def _check_apart(train_set: FrameSet, held_out_set: FrameSet) -> None:
    if train_set.seed == held_out_set.seed:
        raise FramesError(
            f"The held-out frames have the training frames' seed, {train_set.seed}, so they are "
            "the same scenes. Render them with another one."
        )


def _card(
    train_set: FrameSet, held_out_set: FrameSet, recipe: Recipe, figures: dict[str, Any]
) -> dict[str, Any]:
    return {
        "model": "cnnaudit.models.perception.SimpleCNN",
        "training_frames": asdict(train_set),
        "recipe": asdict(recipe),
        "held_out_frames": asdict(held_out_set),
        "held_out": cards.rounded(figures),
        "versions": cards.versions(),
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scenarios.robot.train", description=__doc__)
    parser.add_argument("--frames", type=Path, default=FRAMES_ROOT / "train")
    parser.add_argument("--held-out", type=Path, default=FRAMES_ROOT / "test")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the weights and card")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
