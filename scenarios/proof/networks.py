"""The networks of the proof: trained with a cue, or trained without and then spoilt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cnnaudit.models.detector import Detector
from scenarios import cards
from scenarios.proof.cues import under_cue
from scenarios.proof.plan import Arm, Network, Proof, label_of
from scenarios.tank import train as training
from scenarios.tank.pool import Pool, load_pool
from scenarios.tank.train import HEADS, WEIGHTS, Recipe

AUDITED = "tank_clean"  # the model of conf/experiment/proof.yaml that a network takes the place of
REINITIALISED = ("features.8", "encoder.6")  # the third convolution, the tank's and the robot's
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ready:
    """A network that can be audited, and what it is."""

    weights: Path
    head: str
    overrides: tuple[str, ...]  # what an audit of it is told: how its input is prepared
    matched: float  # accuracy where cue and tank go together
    conflicting: float  # and where the cue says the opposite
    label: str


@dataclass(frozen=True)
class Spoil:
    """What goes wrong after training: with the weights, or with the input."""

    weights: Callable[[nn.Module], None] = lambda _: None
    preprocessing: tuple[str, ...] = ()  # what a config says of it instead

    def overrides(self, model: str) -> tuple[str, ...]:
        """Return what an audit of a model of this name is told."""
        return tuple(f"model.{model}.preprocessing.{change}" for change in self.preprocessing)


def _reinitialise(*names: str) -> Callable[[nn.Module], None]:
    def spoil(model: nn.Module) -> None:
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear) and (
                not names or name in names
            ):
                module.reset_parameters()

    return spoil


SPOILS: Mapping[str, Spoil] = {
    "": Spoil(),
    "channel_order": Spoil(preprocessing=("channels=bgr",)),
    "no_normalisation": Spoil(preprocessing=("mean=[0,0,0]", "std=[1,1,1]")),
    "random_weights": Spoil(_reinitialise()),
    "reinitialised_layer": Spoil(_reinitialise(*REINITIALISED)),
}


def make_ready(proof: Proof, network: Network) -> Ready:
    """Train and spoil a network, or find it where an earlier run left it."""
    folder = proof.output / "networks" / network.name
    card = folder / "card.json"
    if not card.exists():
        _make(proof, network, folder)
    figures = json.loads(card.read_text())["test"]["accuracy"]
    matched, conflicting = figures["matched"], figures["conflicting"]
    return Ready(
        weights=folder / WEIGHTS,
        head=network.head,
        overrides=SPOILS[proof.arms[network.arm].spoil].overrides(AUDITED),
        matched=matched,
        conflicting=conflicting,
        label=label_of(proof.labels, matched, conflicting),
    )


def _make(proof: Proof, network: Network, folder: Path) -> None:
    arm = proof.arms[network.arm]
    recipe = Recipe(arm.strength, network.head, network.seed)
    spoil = SPOILS[arm.spoil]
    model = _clean(proof, network) if arm.spoil else _trained(proof, arm, recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(network.seed)
        spoil.weights(model)
    figures = training.evaluate(model, _inputs(proof.pool / "test", arm.cue, spoil))
    train_set, _ = load_pool(proof.pool / "train")
    test_set, _ = load_pool(proof.pool / "test")
    card = training.card_of(train_set, test_set, recipe, figures)
    cards.save(folder, WEIGHTS, model, {**card, "planted": asdict(arm)})


def _trained(proof: Proof, arm: Arm, recipe: Recipe) -> Detector:
    inputs = _inputs(proof.pool / "train", arm.cue, SPOILS[""])
    return training.train(inputs, recipe, _CPU, on_epoch=lambda _loss: None)


def _clean(proof: Proof, network: Network) -> Detector:
    """Return the clean network of the same head and seed."""
    ready = make_ready(proof, replace(network, arm="clean"))
    model = HEADS[network.head]()
    model.load_state_dict(load_file(ready.weights))
    return model.eval()


@lru_cache(maxsize=2)  # one pool to train on and one to test on
def _inputs(folder: Path, cue: str, spoil: Spoil) -> Tensor:
    pool_set, pool = load_pool(folder)
    pictures = Pool(under_cue(pool.images, cue, pool_set.seed))
    return training.prepare_pool(pictures, spoil.overrides(AUDITED))
