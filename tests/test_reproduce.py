"""A stored run, once more from scratch: what agrees, what does not, and what is different now."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from cnnaudit.models.perception import SimpleCNN

PANEL = ["technique=[saliency,grad_cam]", "metric=[mass_in_mask]", "contrast=[]", "check=[]"]


@pytest.fixture
def run_dir(cli: Callable, overrides: list[str], tmp_path: Path) -> Path:
    code, _, err = cli("run", *overrides, *PANEL)
    assert code == 0, err
    (found,) = (tmp_path / "out/robot").iterdir()
    return found


def test_the_same_machine_gives_the_same_numbers(cli: Callable, run_dir: Path) -> None:
    before = sorted(run_dir.rglob("*"))
    code, out, err = cli("reproduce", str(run_dir))
    assert code == 0, err
    assert "perception on robot_lighting, saliency of all_outputs: 24 rows agree exactly" in out
    assert "perception on robot_lighting, behaviour: " in out
    assert "different now: nothing in the environment" in out
    assert sorted(run_dir.rglob("*")) == before  # and it keeps nothing


def test_a_number_that_is_not_reproduced_is_said(cli: Callable, run_dir: Path) -> None:
    path = run_dir / "results/rows.parquet"
    rows = pd.read_parquet(path)
    scored = rows.index[(rows.technique == "grad_cam") & (rows.status == "ok")]
    rows.loc[scored[0], "value"] += 0.25
    rows["reason"] = rows["reason"].astype(str)
    rows.loc[rows.index[rows.technique == ""][0], "reason"] = "another one"
    rows.drop(index=rows.index[rows.technique == "saliency"][:2]).to_parquet(path)
    manifest = json.loads((run_dir / "manifest.json").read_text())
    manifest["packages"]["torch"] = "1.0"
    (run_dir / "manifest.json").write_text(json.dumps(manifest))
    code, out, _ = cli("reproduce", str(run_dir))
    assert code == 1
    assert "grad_cam of all_outputs: 1 of 24 rows DIFFER, by up to 0.25" in out
    assert "saliency of all_outputs: 2 of 24 rows DIFFER, 2 are on one side only" in out
    assert re.search(r"behaviour: 1 of \d+ rows DIFFER, in what is said of them", out)
    assert "different now: packages.torch is 2." in out


def test_curves_and_agreement_are_computed_again(
    cli: Callable, overrides: list[str], tmp_path: Path
) -> None:
    more = ("agreement=[techniques]", "sanity=[randomisation]", "sanity.randomisation.items=2")
    assert cli("run", *overrides, *PANEL, *more)[0] == 0
    (run_dir,) = (tmp_path / "out/robot").iterdir()
    code, out, _ = cli("reproduce", str(run_dir))
    assert code == 0
    curve = "perception on robot_lighting, randomised, saliency of all_outputs: 5 rows agree"
    agreement = "perception on robot_lighting, agreement, all_outputs: "
    assert f"{curve} exactly" in out
    assert f"{agreement}1 row agree exactly" in out

    for name in ("randomisation", "agreement"):
        path = run_dir / f"results/{name}.csv"
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
        last = table.index[table.correlation.notna()][-1]
        table.loc[last, "correlation"] += 0.25
        table.to_csv(path, index=False)
    code, out, _ = cli("reproduce", str(run_dir))
    assert code == 1
    assert "of all_outputs: 1 of 5 rows DIFFER, by up to 0.25" in out
    assert "of all_outputs: 5 rows agree exactly" in out
    assert f"{agreement}1 of 1 row DIFFER, by up to 0.25" in out


def test_inputs_that_changed_are_named(
    cli: Callable,
    run_dir: Path,
    weights: Path,
) -> None:
    torch.manual_seed(6)
    save_file(SimpleCNN().state_dict(), weights)
    code, out, _ = cli("reproduce", str(run_dir))
    assert code == 1
    assert "different now: digests.weights.perception is " in out


def test_what_is_no_run_is_refused(cli: Callable, tmp_path: Path) -> None:
    code, _, err = cli("reproduce", str(tmp_path))
    assert code == 1
    assert str(tmp_path) in err
