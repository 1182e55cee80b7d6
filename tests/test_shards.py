"""An audit in shares: no share knows of another, and joined they are the whole run."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import cnnaudit.jobs
from cnnaudit.audit import prepare
from cnnaudit.config import load_specs, stored_specs
from cnnaudit.plan import stored_fields
from cnnaudit.shards import share_of
from cnnaudit.stored import stored_audit
from cnnaudit.types import AuditError
from tests.processes import RUN, python

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def few(overrides: list[str]) -> list[str]:
    """Four chunks of work: the pictures as they are, and hazy ones."""
    return [
        *(*overrides, "technique=[saliency]", "check=[]", "contrast=[]"),
        *("perturbation=[haze]", "perturbation.haze.severities=[1,3,5]"),
    ]


def _shards_dir(tmp_path: Path) -> Path:
    (run_dir,) = (tmp_path / "out/robot").glob("*-shards")
    return run_dir


def test_the_jobs_of_an_array_joined_are_the_whole_run(
    cli: Cli, few: list[str], tmp_path: Path
) -> None:
    """Submitit's local mode: a process for each job, as SLURM would start it elsewhere."""
    array = ("hydra/launcher=submitit_local", "executor.shards=2", "executor.shard=range(0,2)")
    one_thread = {"OMP_NUM_THREADS": "1"}
    ran = python(str(RUN), "-m", *few, *array, cwd=tmp_path, environment=one_thread)
    assert ran.returncode == 0, ran.stderr
    run_dir = _shards_dir(tmp_path)
    shares = [json.loads((run_dir / f"shards/{n}.json").read_bytes()) for n in (0, 1)]
    assert [share["units"] for share in shares] == [2, 2]
    assert not any("executor.shard=" in text for share in shares for text in share["overrides"])
    assert not (run_dir / "report.html").exists()

    code, out, err = cli("report", str(run_dir))
    assert code == 0, err
    assert "report: " in out
    manifest = json.loads((run_dir / "manifest.json").read_bytes())
    assert manifest["cells"] == {"planned": 8, "found": 8, "computed": 0}

    whole = tmp_path / "whole"
    assert cli("run", *few, f"output_dir={whole}")[0] == 0
    (local,) = (whole / "robot").iterdir()
    tables = ("rows.parquet", "summary.csv", "contrasts.csv", "checks.csv", "agreement.csv")
    for name in tables:
        assert (run_dir / "results" / name).read_bytes() == (local / "results" / name).read_bytes()


def test_a_share_is_the_same_whatever_the_store_has(few: list[str]) -> None:
    def shares() -> list[set[str]]:
        plan = prepare(audit).plan
        return [
            {cell.key for unit in share_of(plan, 3, shard) for cell in unit.cells}
            for shard in range(3)
        ]

    audit = load_specs(few)
    before, ready = shares(), prepare(audit)
    assert sorted(map(len, before)) == [2, 2, 4]
    assert set().union(*before) == {cell.key for cell in ready.plan.cells}
    for unit in share_of(ready.plan, 3, 1):
        for cell in unit.cells:
            ready.store.write(cell.key, {}, stored_fields(unit)[cell.key])
    assert shares() == [before[0], set(), before[2]]


def test_what_is_missing_is_named_and_what_was_joined_is_joined_again(
    cli: Cli, few: list[str], tmp_path: Path
) -> None:
    few = [*few, "perturbation.haze.severities=[1]", "executor.shards=3"]
    code, _, err = cli("run", *few)
    assert code == 1
    assert "executor.shard: say which one is to be computed here, 0 to 2" in err
    assert cli("run", *few, "executor.shard=1")[0] == 0
    run_dir = str(_shards_dir(tmp_path))
    code, _, err = cli("report", run_dir)
    assert code == 1
    assert "of its 3 shards 2 have not finished: executor.shard=0,2" in err

    assert cli("run", "-m", *few, "executor.shard=0,2")[0] == 0
    (cell, *_) = (tmp_path / "out/store").glob("*/*/rows.arrow")
    shutil.move(cell.parent, tmp_path / "elsewhere")
    code, _, err = cli("report", run_dir)
    assert code == 1
    assert "lacks 1 of 4 cells" in err
    shutil.move(tmp_path / "elsewhere", cell.parent)

    joined = cli("report", run_dir)
    assert (joined[0], "perception" in joined[1]) == (0, True)
    assert cli("report", run_dir) == joined
    code, _, err = cli("report", run_dir, "gaet=true")
    assert (code, "Did you mean 'gate'" in err) == (1, True), err
    (Path(run_dir) / "shards/1.json").write_text('{"schema": 1, "shard": 1}')
    code, _, err = cli("report", run_dir)
    assert (code, "1.json cannot be read; run that shard again" in err) == (1, True), err
    assert cli("run", *few, "executor.shard=1")[0] == 0
    assert cli("report", run_dir) == joined


def test_a_verdict_counts_however_often_shards_are_joined(
    cli: Cli, overrides: list[str], tmp_path: Path
) -> None:
    asked = [*overrides, "technique=[grad_cam]", "gate=true", "executor.shards=1"]
    assert cli("run", *asked, "executor.shard=0")[0] == 0
    codes = [cli("report", str(_shards_dir(tmp_path)))[0] for _ in range(2)]
    assert codes == [5, 5] or codes == [3, 3], codes


def test_shards_of_relative_paths_are_joined_from_anywhere(
    cli: Cli, few: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = [*few, "output_dir=out", "store_dir=out/kept", "executor.shards=1"]
    assert cli("run", *asked, "executor.shard=0")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = cli("report", f"../out/robot/{_shards_dir(tmp_path).name}")
    assert code == 0, err
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_what_failed_in_a_shard_is_incomplete_and_not_missing(
    cli: Cli, overrides: list[str], image_set: Path, tmp_path: Path
) -> None:
    picture = image_set / "images/scene_00-left-equal.png"
    picture.write_bytes(picture.read_bytes()[:-500])
    arguments = (*overrides, "technique=[saliency]", "executor.shards=1", "executor.shard=0")
    code, out, _ = cli("run", *arguments)
    assert code == 4
    assert "INCOMPLETE: something failed in 2 of them" in out
    code, out, _ = cli("report", str(_shards_dir(tmp_path)))
    assert code == 4
    assert "INCOMPLETE" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["executor.shards=2", "executor.shard=2"], "executor.shard: 2 is not below executor.sha"),
        (["executor.shards=0"], "executor.shards: 0 is not a whole number, at least 1"),
        (["executor.shards=2", "executor.shard=-1"], "executor.shard: -1 is not a whole number"),
    ],
)
def test_shards_that_there_are_not(arguments: list[str], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        load_specs(arguments)


def test_a_stored_config_cannot_allow_code(tmp_path: Path) -> None:
    """What a run directory says about its own command line counts for nothing."""
    (tmp_path / "config.yaml").write_text("allow_code: true\nplugins: [evil]\n")
    called = {"command": "cnnaudit run allow_code=true", "overrides": ["allow_code=true"]}
    (tmp_path / "manifest.json").write_text(json.dumps(called))
    said = f"allow_code: this run used code of your own: cnnaudit reproduce {tmp_path} allow_code=t"
    with pytest.raises(AuditError, match=said):
        stored_audit(tmp_path)
    with pytest.raises(AuditError, match=r"alow_code: 'alow_code' .*Did you mean 'allow_code'"):
        stored_audit(tmp_path, ["alow_code=true"])
    with pytest.raises(AuditError, match="is no run directory"):
        stored_audit(tmp_path / "else")


def test_a_stored_config_of_aliases_is_not_unfolded() -> None:
    """Thirty lines of it would stand for a billion values, and nothing would end."""
    lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 31))]
    with pytest.raises(AuditError, match=r"the stored config has an alias \(\*name\)"):
        stored_specs("\n".join(lines), (), "cnnaudit reproduce run")


def test_shards_are_not_joined_where_a_link_lies(tmp_path: Path) -> None:
    """The log of joining them, with names that others chose, would be written where it leads."""
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent/run.log").symlink_to(tmp_path / ".profile")
    with pytest.raises(AuditError, match=r"run.log is a link, which may lead anywhere"):
        stored_audit(tmp_path / "sent")


def test_how_a_job_ended_comes_back_from_another_process() -> None:
    ends = cnnaudit.jobs._ends
    ends.clear()
    sent = pickle.dumps(cnnaudit.jobs._End("seed=1", 4, AuditError("no")))
    ends.clear()
    pickle.loads(sent)
    assert [(end.job, end.code, str(end.stopped)) for end in ends] == [("seed=1", 4, "no")]
    ends.clear()
