"""The robot's network with the tank's faults: trained with a cue, or spoilt, and audited."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from cnnaudit.audit import compute_rows
from cnnaudit.checks import judge
from cnnaudit.config import load_specs
from cnnaudit.metrics import binary_metrics
from cnnaudit.models.perception import SimpleCNN
from cnnaudit.shipped import locate
from cnnaudit.specs import Preprocessing
from cnnaudit.verdicts import table_of, worst
from scenarios import cards
from scenarios.proof.cues import mark
from scenarios.proof.networks import SPOILS
from scenarios.proof.plan import HERE, NO_CUE, Arm, Proof, label_of
from scenarios.robot import train as training
from scenarios.robot.frames import Frames, FrameSet, load_frames
from scenarios.robot.render import FRAME_SPLITS
from scenarios.robot.train import Recipe

AUDITED = "perception"  # the model of conf/experiment/proof_robot.yaml
CLEAN_WEIGHTS = "scenarios/robot/perception.safetensors"
WEIGHTS = "perception.safetensors"
TRAIN, TEST = FRAME_SPLITS
RED = "red-"  # before the name of a split: the same with red obstacles only
WARNS = 0.5  # the probability of a cell from which the robot warns


@dataclass(frozen=True)
class _Ready:
    weights: Path
    matched: float  # share of frames rightly warned of, or not, where the cue goes with an obstacle
    conflicting: float  # and where it does not


def frame_sets(proof: Proof) -> dict[str, FrameSet]:
    """Return the frames that the networks learn from and are tried on, by their folder's name."""
    if not proof.robot:
        return {}
    plain = {name: FrameSet(seed, count) for name, (count, seed) in FRAME_SPLITS.items()}
    return plain | {RED + name: replace(frames, red=1.0) for name, frames in plain.items()}


def examine_robot(proof: Proof, done: Callable[[], None]) -> pd.DataFrame:
    """Return a line for each arm: what its network is, and the verdict of each check on it."""
    lines = []
    for name in proof.robot:
        ready = _make_ready(proof, name)
        label = label_of(proof.labels, ready.matched, ready.conflicting)
        about = {"arm": name, "label": label}
        about |= {"matched": ready.matched, "conflicting": ready.conflicting}
        lines.append(about | _verdicts(proof, proof.arms[name], ready.weights))
        done()
    return pd.DataFrame(lines)


def _verdicts(proof: Proof, arm: Arm, weights: Path) -> dict[str, str]:
    overrides = [
        "experiment=proof_robot",
        f"model.{AUDITED}.weights={weights}",
        *SPOILS[arm.spoil].overrides(AUDITED),
        f"output_dir={proof.output / 'audits'}",
        "device=cpu",
    ]
    audit = load_specs(overrides, HERE / "conf")
    _, _, rows = compute_rows(audit)
    found = table_of(
        judge(rows, audit.checks, audit.contrasts, audit.seed, binary_metrics(audit.metrics))
    )
    return dict(found.groupby("check", sort=False).verdict.agg(worst))


def _make_ready(proof: Proof, name: str) -> _Ready:
    """Train and spoil a network, or find it where an earlier run left it."""
    folder = proof.output / "networks" / f"robot-{name}"
    card = folder / "card.json"
    if not card.exists():
        _make(proof, proof.arms[name], folder)
    figures = json.loads(card.read_text())["test"]["accuracy"]
    return _Ready(folder / WEIGHTS, figures["matched"], figures["conflicting"])


def _make(proof: Proof, arm: Arm, folder: Path) -> None:
    recipe = Recipe(seed=proof.seed)
    spoil = SPOILS[arm.spoil]
    model = _clean() if arm.strength == NO_CUE else _trained(proof, arm, recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(proof.seed)
        spoil.weights(model)
    accuracy = {
        name: _accuracy(model, _frames(proof, TEST, arm.cue, agrees=agrees), arm)
        for name, agrees in (("matched", True), ("conflicting", False))
    }
    about: dict[str, Any] = {"planted": asdict(arm), "recipe": asdict(recipe)}
    about |= {"test": {"accuracy": accuracy}, "versions": cards.versions()}
    cards.save(folder, WEIGHTS, model, about)


def _clean() -> SimpleCNN:
    model = SimpleCNN()
    model.load_state_dict(load_file(locate(CLEAN_WEIGHTS)))
    return model.eval()


def _trained(proof: Proof, arm: Arm, recipe: Recipe) -> SimpleCNN:
    frames = _frames(proof, TRAIN, arm.cue, agrees=True)
    examples = training.prepare_frames(frames, _preprocessing(arm))
    return training.train(examples, recipe, torch.device("cpu"), on_epoch=lambda _loss: None)


def _frames(proof: Proof, split: str, cue: str, *, agrees: bool) -> Frames:
    """Return frames in which the cue goes with what the sensors meet, or those in which it errs.

    A mark errs where it lies in every other frame; where red errs, the obstacles have any colour.
    """
    red = RED if cue == "red" and agrees else ""
    _, frames = load_frames(proof.frames / f"{red}{split}")
    if cue != "mark":
        return frames
    marked = frames.truth.any(axis=1) == agrees
    nothing = np.zeros(frames.images.shape[1:3], dtype=np.bool_)
    pictures = zip(frames.images, marked, strict=True)
    images = [mark(image, nothing) if given else image for image, given in pictures]
    return replace(frames, images=np.stack(images))


def _accuracy(model: SimpleCNN, frames: Frames, arm: Arm) -> float:
    """Return in which share of frames the robot warns if, and only if, a sensor meets something."""
    with torch.no_grad():
        probability = model(training.prepare_frames(frames, _preprocessing(arm)).images)
    warned = (probability.amax(dim=1) > WARNS).numpy()
    return float((warned == frames.truth.any(axis=1)).mean())


def _preprocessing(arm: Arm) -> Preprocessing:
    overrides = ["model=[perception]", *SPOILS[arm.spoil].overrides(AUDITED)]
    return load_specs(overrides).models[0].preprocessing
