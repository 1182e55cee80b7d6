"""``cnnaudit init``: what it writes runs as printed, from folders of any name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.processes import Process, command

UNTRAINED = "model.resnet18.weights=none"  # what is published would have to be fetched


def _process(said: str, *more: str, cwd: Path) -> Process:
    return command(*shlex.split(said)[1:], *more, cwd=cwd)


@pytest.fixture
def init(cli: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable:
    monkeypatch.chdir(tmp_path)
    return partial(cli, "init")


def _files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def _add_a_picture(images: Path) -> None:
    Image.effect_noise((50, 40), 60).convert("RGB").save(images / "cat-1.jpg")
    mask = Image.new("L", (50, 40))
    mask.paste(255, (10, 10, 30, 30))
    mask.save(images / "cat-1-mask.png")


def test_the_printed_commands_work_as_printed(tmp_path: Path) -> None:
    made = _process("cnnaudit init 'my audit, ü'", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    root = tmp_path / "my audit, ü"
    expected = {"conf/experiment/my_audit_u.yaml", "conf/image_set/my_audit_u.yaml"}
    assert _files(root) == {*expected, "images/manifest.csv"}
    manifest = root / "images/manifest.csv"
    assert manifest.read_text() == "id,image,mask,truth,light\n"

    plan, run = made.stdout.splitlines()[-2:]
    empty = _process(run, cwd=tmp_path)
    assert empty.returncode == 1
    assert re.fullmatch(r"error: .*manifest.csv has no line yet; .*\n", empty.stderr)
    example = empty.stderr.strip().partition("such as ")[2]

    _add_a_picture(root / "images")
    with manifest.open("a") as file:
        file.write(f"{example}\n")
    planned = _process(plan, UNTRAINED, "device=cpu", cwd=tmp_path)
    assert "4 cells: 0 in the store, 4 to compute" in planned.stdout, planned.stderr
    ran = _process(run, UNTRAINED, "device=cpu", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    (run_dir,) = (tmp_path / "outputs/my_audit_u").iterdir()
    rows = pd.read_parquet(run_dir / "results/rows.parquet")
    assert set(rows[rows.technique != ""].status) == {"ok"}
    assert (run_dir / "report.html").exists()


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("my_audit", "my_audit"),
        ("a/b/2024-tanks", "my_2024_tanks"),
        ("robot", "my_robot"),  # an option that is shipped
        ("folder", "my_folder"),
        ("null", "my_null"),
        ("日本", "my_audit"),
        ('a b, ü=[1]\'s $HOME {x} "q"', "a_b_u_1_s_HOME_x_q"),
        ("x${y}z", "x_y_z"),
        ("~x", "x"),
        ("shipped:x", "shipped_x"),
        ("./-x", "x"),
    ],
)
def test_any_folder_gives_a_config_that_runs(
    init: Callable, cli: Callable, folder: str, name: str, tmp_path: Path
) -> None:
    code, out, err = init(folder)
    assert code == 0, err
    assert (tmp_path / folder / f"conf/experiment/{name}.yaml").exists()
    run = shlex.split(out.splitlines()[-1])
    assert run[-1] == f"experiment={name}"
    manifest = tmp_path / folder / "images/manifest.csv"
    assert cli(*run[1:])[2].startswith(f"error: {manifest} has no line yet")


def test_nothing_is_written_over(init: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine/images").mkdir(parents=True)
    (tmp_path / "mine/images/manifest.csv").write_text("mine")
    code, out, err = init("mine")
    assert (code, out) == (1, "")
    assert "mine/images/manifest.csv is there already; name another folder" in err
    assert _files(tmp_path / "mine") == {"images/manifest.csv"}
    assert (tmp_path / "mine/images/manifest.csv").read_text() == "mine"
    (tmp_path / "mine/images/manifest.csv").unlink()
    assert init("mine")[0] == 0
    assert init("mine")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "init takes one folder: cnnaudit init my_audit"),
        (("a", "b"), "init takes one folder"),
        (("",), "init takes one folder"),
        (("--hlp",), "init takes one folder"),
        (("a\nb",), "init takes one folder"),
        (("file/x",), "cannot write file/x/conf/experiment/x.yaml (Not a directory)"),
    ],
)
def test_a_mistake_is_one_message(
    init: Callable, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    code, out, err = init(*arguments)
    assert (code, out) == (1, "")
    assert message in err
    assert _files(tmp_path) == {"file"}
