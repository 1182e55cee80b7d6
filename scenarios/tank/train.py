"""Train a detector on pictures of the pool: ``python -m scenarios.tank.train --strength 1``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from cnnaudit.config import load_specs
from cnnaudit.models import detector
from cnnaudit.models.detector import Detector
from cnnaudit.models.preprocessing import prepare_image
from cnnaudit.specs import Preprocessing
from scenarios import cards
from scenarios.shards import FramesError
from scenarios.tank import sampling
from scenarios.tank.pool import PlaceSet, Pool, load_pool
from scenarios.tank.render import POOL_ROOT
from scenarios.tank.sampling import Choice

HERE = Path(__file__).parent
HEADS = {"pooled": detector.pooled, "flat": detector.flat}
WEIGHTS = "detector.safetensors"
BATCH = 256  # of pictures that are only looked at


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    strength: float  # of the confounding: 0.5 none, 1 complete
    head: str = "pooled"
    seed: int = 0  # of the first weights, the choice and order of the pictures, their mirroring
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 3e-3  # of Adam, falling to 0 along half a cosine


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, evaluate, and write the weights and their card; return the exit code."""
    options = _parse(arguments)
    console = Console(stderr=True)
    try:
        train_set, pool = load_pool(options.pool)
        test_set, test_pool = load_pool(options.test)
        _check_apart(train_set, test_set)
    except FramesError as error:
        console.print(f"Error: {error}", style="red", markup=False, highlight=False)
        return 1
    recipe = Recipe(options.strength, options.head, options.seed, options.epochs)
    inputs, test_inputs = prepare_pool(pool), prepare_pool(test_pool)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with Progress(console=console) as progress:
        bar = progress.add_task("training", total=recipe.epochs)
        model = train(
            inputs,
            recipe,
            device,
            on_epoch=lambda loss: progress.update(bar, advance=1, description=f"loss {loss:.4f}"),
        )
    figures = evaluate(model, test_inputs)
    card = card_of(train_set, test_set, recipe, figures)
    cards.save(options.out, WEIGHTS, model, card)
    console.print(f"Accuracy: {figures['accuracy']}")
    return 0


def prepare_pool(pool: Pool, overrides: Sequence[str] = ()) -> Tensor:
    """Return pictures as the networks receive them, (N, 2, 2, 3, 64, 64), as the audit does.

    ``overrides`` are what an audit of the network ``tank_clean`` is told beside the shipped config.
    """
    preprocessing = _preprocessing(overrides)
    flat = pool.images.reshape(-1, *pool.images.shape[3:])
    inputs = torch.stack([prepare_image(Image.fromarray(one), preprocessing) for one in flat])
    return inputs.view(*pool.images.shape[:3], *inputs.shape[1:])


def train(
    inputs: Tensor,
    recipe: Recipe,
    device: torch.device,
    on_epoch: Callable[[float], None],
) -> Detector:
    """Return a network trained on a choice of a pool's pictures (``prepare_pool``).

    The same on the same device for the same seed. ``on_epoch`` gets each epoch's mean loss.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        choice = sampling.confounded(len(inputs), recipe.strength, recipe.seed)
        images, truth = examples(inputs, choice)
        # Channels last halves the time on a CPU; the weights are stored as ever.
        model = HEADS[recipe.head]().to(device, memory_format=torch.channels_last).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
        for _ in range(recipe.epochs):
            losses = []
            for batch in torch.split(torch.randperm(len(images)), recipe.batch_size):
                scores = model(mirror_some(images[batch]).to(device))
                loss = nn.functional.cross_entropy(scores, truth[batch].to(device))
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                losses.append(loss.detach())
            schedule.step()
            on_epoch(float(torch.stack(losses).mean()))
    return model.to("cpu", memory_format=torch.contiguous_format).eval()


def examples(inputs: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
    """Return the chosen pictures (M, 3, 64, 64) and their classes (M,)."""
    place, weather, presence = torch.from_numpy(choice).T
    tank = detector.CLASSES.index("tank")
    return inputs[place, weather, presence], torch.where(presence == sampling.TANK, tank, 1 - tank)


def mirror_some(images: Tensor) -> Tensor:
    """Mirror half of the pictures, left to right; a wood has no sides."""
    chosen = torch.rand(len(images)) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def evaluate(model: Detector, inputs: Tensor) -> dict[str, Any]:
    """Return the accuracies of the card, on places that the network has not seen."""
    places = len(inputs)
    matched = accuracy(model, inputs, sampling.matched(places))
    conflicting = accuracy(model, inputs, sampling.conflicting(places))
    return {
        "places": places,
        "accuracy": {
            "matched": matched,  # the weather says what the tank says
            "conflicting": conflicting,  # it says the opposite
            "crossed": (matched + conflicting) / 2,  # all four pictures of each place
        },
    }


def accuracy(model: Detector, inputs: Tensor, choice: Choice) -> float:
    """Return the share of the chosen pictures that the network classes rightly."""
    images, truth = examples(inputs, choice)
    with torch.no_grad():
        classes = torch.cat([model(part).argmax(dim=1) for part in images.split(BATCH)])
    return float((classes == truth).double().mean())


def card_of(
    train_set: PlaceSet, test_set: PlaceSet, recipe: Recipe, figures: dict[str, Any]
) -> dict[str, Any]:
    """Return what the card of a network says."""
    return {
        "model": f"cnnaudit.models.detector.{recipe.head}",
        "training_places": asdict(train_set),
        "recipe": asdict(recipe),
        "test_places": asdict(test_set),
        "test": cards.rounded(figures),
        "versions": cards.versions(),
    }


def _preprocessing(overrides: Sequence[str]) -> Preprocessing:
    chosen = ["experiment=none", "model=[tank_clean]", "model.tank_clean.weights=none"]
    return load_specs([*chosen, *overrides]).models[0].preprocessing


def _check_apart(train_set: PlaceSet, test_set: PlaceSet) -> None:
    if train_set.seed == test_set.seed:
        raise FramesError(
            f"The test places have the training places' seed, {train_set.seed}, so they are "
            "the same. Render them with another one."
        )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scenarios.tank.train", description=__doc__)
    parser.add_argument("--strength", type=float, required=True, help="of the confounding, 0.5–1")
    parser.add_argument("--head", choices=tuple(HEADS), default=Recipe.head)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--pool", type=Path, default=POOL_ROOT / "train")
    parser.add_argument("--test", type=Path, default=POOL_ROOT / "test")
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights and card")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
