"""What is to be planted and measured: ``proof.yaml``, ``arms/`` and the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import cast

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnaudit.config import load_specs
from scenarios.proof.cues import CUES, PAINTED, WEATHER
from scenarios.tank.train import HEADS

HERE = Path(__file__).parent
AUDIT = ("experiment=proof", "image_set.alike.root=none")  # as it is before a network is chosen
NO_CUE = 0.5  # the strength of a cue that goes with the tank as often as without it
SPOILS = ("channel_order", "no_normalisation", "random_weights", "reinitialised_layer")


class ProofError(Exception):
    """The proof is asked for what it cannot do; the message is meant for the user."""


@dataclass
class Arm:
    """Networks with one fault, or with none; the keys of a file of ``arms/``, and ``seeds``."""

    seeds: int = MISSING
    cue: str = WEATHER
    strength: float = NO_CUE  # of the cue in training: from there to 1, which is complete
    spoil: str = ""  # what is done to a trained network; "" nothing


@dataclass
class Labels:
    """The accuracies that make a network clean or faulty."""

    clean: float = MISSING
    faulty: float = MISSING


@dataclass
class Proof:
    """The whole of it; the keys of ``proof.yaml``."""

    seed: int = MISSING
    places: int = MISSING
    heads: list[str] = field(default_factory=list)
    arms: dict[str, Arm] = field(default_factory=dict)
    robot: list[str] = field(default_factory=list)  # the arms of which the robot has a network
    labels: Labels = field(default_factory=Labels)
    evidence: dict[str, list[str]] = field(default_factory=dict)
    sanity: int = MISSING
    pool: Path = MISSING
    frames: Path = MISSING
    output: Path = MISSING
    report: Path = MISSING


@dataclass(frozen=True)
class Network:
    """One network of an arm."""

    arm: str
    head: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.head}-{self.seed}"


def load_proof(overrides: Sequence[str] = ()) -> Proof:
    """Read ``proof.yaml`` with overrides such as ``arms.mark.seeds=3``; raise ProofError."""
    try:
        declared = OmegaConf.load(HERE / "proof.yaml")
        planted = {name: OmegaConf.load(HERE / "arms" / f"{name}.yaml") for name in declared.arms}
        config = OmegaConf.merge(
            OmegaConf.structured(Proof),
            declared,
            {"arms": planted},
            OmegaConf.from_dotlist(list(overrides)),
        )
        proof = cast(Proof, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise ProofError(where + str(error).splitlines()[0]) from error
    _check(proof)
    return proof


def networks_of(proof: Proof) -> list[Network]:
    """Return all networks, arm by arm, the seeds of an arm in their order."""
    return [
        Network(name, head, proof.seed + number)
        for name, arm in proof.arms.items()
        for number, head in product(range(arm.seeds), proof.heads)
    ]


def claim(proof: Proof) -> None:
    """Write down what the output folder holds; raise ProofError if that is another proof's.

    The numbers of networks may differ: more of them join those that are there.
    """
    about = asdict(proof)
    for arm in about["arms"].values():
        del arm["seeds"]
    kept = ("seed", "places", "arms", "robot", "labels", "evidence", "sanity")
    audit = {path.name: path.read_text() for path in sorted((HERE / "conf").rglob("*.yaml"))}
    content = json.dumps({name: about[name] for name in kept} | {"audit": audit}, indent=1) + "\n"
    record = proof.output / "proof.json"
    if record.exists() and record.read_text() != content:
        raise ProofError(
            f"output: {proof.output} holds another proof's networks (see {record.name} there). "
            "Remove it, or choose another folder."
        )
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(content)


def label_of(labels: Labels, matched: float, conflicting: float) -> str:
    """Return "clean", "faulty" or "between": what a network is, by what it does."""
    if min(matched, conflicting) >= labels.clean:
        return "clean"
    return "faulty" if min(matched, conflicting) < labels.faulty else "between"


def _check(proof: Proof) -> None:
    asked = [("heads", head, tuple(HEADS)) for head in proof.heads]
    for name, arm in proof.arms.items():
        asked += [(f"arms.{name}.cue", arm.cue, CUES)]
        asked += [(f"arms.{name}.spoil", arm.spoil, ("", *SPOILS))]
        if not NO_CUE <= arm.strength <= 1:
            raise ProofError(f"arms.{name}.strength: {arm.strength}; it lies between 0.5 and 1")
        if arm.spoil and arm.seeds > proof.arms["clean"].seeds:
            raise ProofError(f"arms.{name}.seeds: there are {proof.arms['clean'].seeds} clean ones")
    for_robot = tuple(name for name, arm in proof.arms.items() if _suits_robot(arm))
    asked += [("robot", name, for_robot) for name in proof.robot]
    checks = tuple(check.name for check in load_specs(AUDIT, HERE / "conf").checks)
    for kind, names in proof.evidence.items():
        asked += [(f"evidence.{kind}", name, checks) for name in names]
    for key, found, allowed in asked:
        if found not in allowed:
            raise ProofError(f"{key}: {found!r}; allowed are {', '.join(map(repr, allowed))}")


def _suits_robot(arm: Arm) -> bool:
    """Return whether there are frames for it: its cue, if any, is complete, and no weather."""
    return arm.strength == NO_CUE or (arm.strength == 1 and arm.cue in PAINTED)
