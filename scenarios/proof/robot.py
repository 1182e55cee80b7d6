"""The robot's network, spoilt as the tank's are, beside itself as it is."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from cnnaudit.api import load_run
from cnnaudit.audit import Invocation, run_audit
from cnnaudit.checks import worst
from cnnaudit.config import load_specs
from cnnaudit.models.perception import SimpleCNN
from cnnaudit.shipped import locate
from scenarios.proof.networks import SPOILS
from scenarios.proof.plan import HERE, Proof

WEIGHTS = "scenarios/robot/perception.safetensors"


def examine_robot(proof: Proof) -> pd.DataFrame:
    """Return the verdict of each check on the network as it is, and on each way it is spoilt."""
    lines = []
    for name in SPOILS:
        checks = _audit(proof, name).groupby("check", sort=False).verdict.agg(worst)
        lines.append({"spoil": name, **checks})
    return pd.DataFrame(lines)


def _audit(proof: Proof, spoil: str) -> pd.DataFrame:
    overrides = [
        "experiment=proof_robot",
        f"model.perception.weights={_weights(proof, spoil)}",
        *SPOILS[spoil].overrides("perception"),
        f"output_dir={proof.output / 'audits'}",
        "device=cpu",
    ]
    audit = load_specs(overrides, HERE / "conf")
    outcome = run_audit(audit, Invocation("python -m scenarios.proof", overrides, config=""))
    return load_run(outcome.run_dir).checks


def _weights(proof: Proof, spoil: str) -> Path:
    model = SimpleCNN()
    model.load_state_dict(load_file(locate(WEIGHTS)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(proof.seed)
        SPOILS[spoil].weights(model)
    path = proof.output / "networks" / f"robot-{spoil or 'as_it_is'}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), path)
    return path
