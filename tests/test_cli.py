"""The command line as users have it: real processes, exit codes, messages without tracebacks."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import cnnaudit.cli
from cnnaudit.image_sets import MOST_LEVELS
from cnnaudit.run_log import logged
from tests.processes import RUN, loads, python
from tests.sample_run import build_run


def _run_dir(tmp_path: Path) -> Path:
    return max((tmp_path / "out/robot").iterdir())


def test_from_config_to_html_and_again_from_the_store(overrides: list[str], tmp_path: Path) -> None:
    first = python(str(RUN), *overrides, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "report: " in first.stdout
    run_dir = _run_dir(tmp_path)
    found = {p.relative_to(run_dir).as_posix() for p in run_dir.rglob("*") if p.is_file()}
    assert found == {
        *("config.yaml", "manifest.json", "run.log", "summary.json", "report.html"),
        *("results/rows.parquet", "results/summary.csv", "results/illustrations.json"),
        *("results/contrasts.csv", "results/checks.csv", "results/agreement.csv", "junit.xml"),
        *("results/randomisation.csv", "results/inputs.parquet", "status.json"),
    }
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert manifest["cells"] == {"planned": 9, "found": 0, "computed": 9}
    assert manifest["hardware"]["device"] == "cpu"
    assert manifest["digests"]["weights"]["perception"]
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "COMPLETE"

    shutil.copytree(run_dir, tmp_path / "first")
    second = python(str(RUN), *overrides, cwd=tmp_path)
    assert second.returncode == 0
    run_dir = _run_dir(tmp_path)
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert manifest["cells"] == {"planned": 9, "found": 9, "computed": 0}
    same = ("results/rows.parquet", "results/summary.csv", "results/contrasts.csv")
    for name in (*same, "results/checks.csv", "junit.xml", "summary.json", "config.yaml"):
        assert (run_dir / name).read_bytes() == (tmp_path / "first" / name).read_bytes()
    # Nothing but the outputs is left behind.
    assert {p.name for p in tmp_path.iterdir()} == {"set", "weights.safetensors", "out", "first"}


def test_odd_paths(image_set: Path, weights: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a b, ü=[1]'s $HOME {x}"
    odd.mkdir()
    shutil.move(image_set, odd / "my set")
    shutil.move(weights, odd / "w 1.safetensors")
    ran = python(
        str(RUN),
        *("model=[perception]", "image_set=[robot_lighting]", "technique=[saliency]", "device=cpu"),
        "image_set.robot_lighting.root='my set'",
        "model.perception.weights='w 1.safetensors'",
        cwd=odd,
    )
    assert ran.returncode == 0, ran.stderr
    assert list((odd / "outputs/robot").glob("*/report.html"))


@pytest.mark.parametrize("kept", [slice(-500), slice(20), slice(0)])
def test_an_incomplete_audit_exits_with_4(
    cli: Callable, overrides: list[str], image_set: Path, tmp_path: Path, kept: slice
) -> None:
    """For one picture that is cut, in the middle or where it does not even say what it is."""
    picture = image_set / "images/scene_00-left-equal.png"
    picture.write_bytes(picture.read_bytes()[kept])
    if kept != slice(-500):
        _, out, _ = cli("plan", *overrides)
        assert "1 of 24 pictures cannot be read and will fail, such as image_set.robot_" in out
    code, out, _ = cli("run", *overrides)
    assert code == 4
    assert "INCOMPLETE" in out
    summary = json.loads((_run_dir(tmp_path) / "summary.json").read_text())
    assert summary["status"] == "INCOMPLETE"
    assert summary["failures"][0]["examples"] == ["scene_00-left-equal"]
    assert (_run_dir(tmp_path) / "report.html").exists()


def test_the_package_is_the_command_too(tmp_path: Path) -> None:
    asked = python("-m", "cnnaudit", "compare", "--help", cwd=tmp_path)
    assert asked.returncode == 0
    assert "cnnaudit compare RUN_A RUN_B" in asked.stdout


def test_a_folder_of_pictures_is_an_image_set(cli: Callable, weights: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "masks").mkdir(parents=True)
    for name in ("a", "b"):
        Image.effect_noise((50, 40), 60).convert("RGB").save(photos / f"{name}.jpg")
    mask = Image.new("L", (50, 40))
    mask.paste(255, (10, 10, 30, 30))
    mask.save(photos / "masks/a.png")
    code, _, err = cli(
        *("run", "image_set=[folder]", f"image_set.folder.root={photos}", "device=cpu"),
        *(f"model.perception.weights={weights}", f"output_dir={tmp_path / 'out'}"),
    )
    assert code == 0, err
    rows = pd.read_parquet(_run_dir(tmp_path) / "results/rows.parquet")
    heatmaps = rows[rows.region == "mask"]
    assert set(heatmaps[heatmaps["item"] == "a.jpg"].status) == {"ok"}
    without = heatmaps[heatmaps["item"] == "b.jpg"]
    assert set(without.status) == {"ineligible"}
    assert set(without.reason) == {"no_such_region"}


def test_plan_computes_nothing(cli: Callable, overrides: list[str], tmp_path: Path) -> None:
    code, out, _ = cli("plan", *overrides)
    assert code == 0
    assert "9 cells: 0 in the store, 9 to compute" in out
    assert "passes: 48 images forward, 96 backward" in out  # the network and its untrained twin
    assert re.search(r"about \d+ s on cpu and \d\.\d MB in the store", out)
    assert " why " not in out
    assert not (tmp_path / "out/robot").exists()
    code, out, _ = cli("plan", "--explain", *overrides)
    assert code == 0
    assert out.count("  why perception on robot_lighting, ") == 9
    assert "nothing to explain" not in out


def test_plan_has_nothing_to_explain_where_all_is_there(
    cli: Callable, overrides: list[str]
) -> None:
    asked = ["experiment=none", *overrides, "technique=[edges]"]
    assert cli("run", *asked)[0] == 0
    code, out, _ = cli("plan", "--explain", *asked)
    assert code == 0
    assert "no cell is to be computed, so there is nothing to explain" in out


def test_plan_counts_what_is_made_of_the_cells_as_well(cli: Callable, overrides: list[str]) -> None:
    """Two techniques, each re-initialised, and how far they agree."""
    asked = [
        *("experiment=none", *overrides, "technique=[saliency,grad_cam]", "metric=[]"),
        *("agreement=[techniques]", "sanity=[randomisation]", "sanity.randomisation.items=2"),
    ]
    _, out, _ = cli("plan", *asked)
    assert "agreements: 0 in the store, 1 to compute" in out
    assert "randomisation curves: 0 in the store, 2 to compute" in out
    assert cli("run", *asked)[0] == 0
    _, out, _ = cli("plan", *asked)
    assert "agreements: 1 in the store, 0 to compute" in out
    assert "randomisation curves: 2 in the store, 0 to compute" in out


def test_report_is_made_again_without_torch(
    cli: Callable, overrides: list[str], tmp_path: Path
) -> None:
    assert cli("run", *overrides)[0] == 0
    page = _run_dir(tmp_path) / "report.html"
    before = page.read_bytes()
    page.unlink()
    shutil.rmtree(tmp_path / "set")
    code = (
        "import sys; from cnnaudit.cli import _dispatch; "
        "code = _dispatch('report', sys.argv[1:]); sys.exit(code or 'torch' in sys.modules)"
    )
    ran = python("-c", code, str(page.parent), cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert page.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["technique=[grad_cm]"], "technique: 'grad_cm' is no allowed option. Did you mean 'grad_"),
        (["experiment=robt"], "experiment: 'robt' is no allowed option. Did you mean 'robot'?"),
        (["technique=null"], "technique: null is no option; none is chosen by 'technique=[]'"),
        (["seed=99999999999999999999"], "at least 0, at most 9223372036854775807"),
        (["sed=3"], "sed: 'sed' is no allowed key. Did you mean 'seed'?"),
        (["targt=[truth]"], "targt: 'targt' is no allowed key. Did you mean 'target'?"),
        (["--explain"], "'--explain' is no allowed option. Allowed: --help, "),
        (["--config-dir"], "argument --config-dir/-cd: expected one argument"),
        (["--cfg", "jobs"], "argument --cfg/-c: invalid choice: 'jobs'"),
        (["technique.grad_cam.layr=x"], "technique.grad_cam.layr: 'layr' is no allowed key. Did"),
        (["image_set.folder.root=x"], "'folder' is not part of this audit; choose it: 'image_set"),
        (["model=[]", "model.perception.weights=x"], "'perception' is not part of this audit"),
        (["technique=[saliency"], "no viable alternative at input '[saliency'"),
        (["seed"], "missing EQUAL"),
        (
            ["image_set=[folder]", "image_set.folder.root=nowhere"],
            "relative paths begin where the c",
        ),
        (["image_set=[folder]", "image_set.folder.root=/nowhere"], "there is no folder /nowhere\n"),
        (["--config-dir", ".", "experiment=none", "--cfg", "job", "sed=3"], "sed: 'sed' is no"),
        (["image_set.folder.root=a=b"], "image_set.folder.root=a=b: mismatched input '='"),
        (["contrast.colour.wthin=[light]"], "added by +contrast.colour.wthin=…"),
        (["model.perception.weights=none.safetensors"], "there is no file"),
        (["--config-dir", "nowhere"], "Additional config directory"),
    ],
)
def test_a_mistake_is_one_message_and_exit_1(
    cli: Callable,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("run", *arguments)
    assert code == 1
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert {path.name for path in tmp_path.glob("outputs/*")} <= {"store"}


def test_who_reads_what_is_printed_may_have_seen_enough() -> None:
    command = [sys.executable, "-m", "cnnaudit", "layers", "experiment=none", "model=[perception]"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, cwd=RUN.parent
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_what_is_said_may_have_no_room() -> None:
    command = [sys.executable, "-m", "cnnaudit", "--help"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=RUN.parent
        )
    said = "error: what there is to say cannot be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_file_that_is_in_the_way_is_named(cli: Callable, tmp_path: Path) -> None:
    run_dir = build_run(tmp_path)
    manifest = json.loads((run_dir / "manifest.json").read_text())
    (run_dir / "manifest.json").write_text(json.dumps(manifest | {"report": "folder"}))
    (run_dir / "report").touch()
    code, _, err = cli("report", str(run_dir))
    assert (code, err) == (1, f"error: {run_dir / 'report'}: File exists\n")


def test_a_log_for_which_there_is_no_room_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    with logged(Path("/dev/full")):
        logging.getLogger("cnnaudit").info("a line")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("ends", ["full", "closed", "terminal"])
def test_a_run_survives_its_standard_error(overrides: list[str], tmp_path: Path, ends: str) -> None:
    """A terminal that is closed, a pipe that ends, a disk that is full: a line of progress."""
    if ends == "full":
        gone = os.open("/dev/full", os.O_WRONLY)
    elif ends == "closed":
        reader, gone = os.pipe()
        os.close(reader)
    else:
        reader, gone = pty.openpty()
        os.close(reader)
    ran = subprocess.run(
        [sys.executable, str(RUN), *overrides, "technique=[saliency]"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=gone,
        text=True,
        check=False,
    )
    os.close(gone)
    assert ran.returncode == 0
    assert "report: " in ran.stdout
    status = json.loads((_run_dir(tmp_path) / "status.json").read_text())
    assert status["state"] == "finished"


def test_a_run_needs_no_output_at_all(overrides: list[str], tmp_path: Path) -> None:
    """Schedulers may close it; without any, a file of the store would be opened in its place."""
    called = [sys.executable, str(RUN), *overrides, "technique=[saliency]"]
    closing = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    assert subprocess.run([*closing, *called], cwd=tmp_path, check=False).returncode == 0
    assert (_run_dir(tmp_path) / "report.html").exists()


def test_a_plan_is_of_the_shard_that_is_asked_for(cli: Callable, overrides: list[str]) -> None:
    asked = ("technique=[saliency]", "perturbation=[haze]", "contrast=[]", "check=[]")
    planned = []
    for shard in range(3):
        more = ("executor.shards=3", f"executor.shard={shard}")
        code, out, err = cli("plan", *overrides, *asked, *more)
        assert code == 0, err
        whole = re.search(r"(\d+) cells: 0 in the store", out)
        own = re.search(rf"shard {shard} of 3: (\d+) to compute", out)
        assert whole
        assert own
        planned.append(int(own[1]))
    assert sum(planned) == int(whole[1])
    assert min(planned) > 0


def test_help_and_a_folder_of_runs_are_told_from_a_run(
    cli: Callable, overrides: list[str], tmp_path: Path
) -> None:
    for command in ("report", "reproduce", "init"):
        code, out, _ = cli(command, "--help")
        assert (code, out.startswith(f"cnnaudit {command} ")) == (0, True)
    assert cli("run", *overrides, "technique=[saliency]")[0] == 0
    code, _, err = cli("report", str(tmp_path / "out/robot"))
    (run,) = (tmp_path / "out/robot").iterdir()
    assert code == 1
    assert f"is no run directory: it has no manifest.json; its latest run is {run}" in err


def test_mistakes_in_files_end_a_real_process_without_a_traceback(
    overrides: list[str], image_set: Path, tmp_path: Path
) -> None:
    manifest = image_set / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("masks/scene_01.png", "masks/gone.png"))
    ran = python(str(RUN), *overrides, cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: ")
    assert "gone.png" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_an_output_folder_that_cannot_be_written(
    cli: Callable, overrides: list[str], tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file in the way")
    code, _, err = cli("run", *overrides)
    assert code == 1
    assert err.startswith("error: output_dir: cannot write")


def test_commands_that_do_not_exist(cli: Callable) -> None:
    code, _, err = cli("rum")
    assert code == 1
    assert "Did you mean 'run'" in err
    assert cli("report")[0] == 1
    code, out, err = cli("layers", "--explain")
    assert (code, out, err.count("\n")) == (1, "", 1)


def test_help_and_version_do_not_wait_for_torch() -> None:
    for flag in ("--help", "--version"):
        assert not loads({"torch"}, f"from cnnaudit.cli import _dispatch; _dispatch({flag!r}, [])")


def test_a_multirun_over_seeds_leaves_a_run_each(overrides: list[str], tmp_path: Path) -> None:
    ran = python(str(RUN), "-m", "seed=1,2", "technique=[saliency]", *overrides, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    logs = [path.read_text() for path in tmp_path.glob("out/robot/*/run.log")]
    assert len(logs) == 2
    assert all(" cells, 0 of them in the store" in log for log in logs)  # of the second job, too
    assert {p.name for p in tmp_path.iterdir()} == {"set", "weights.safetensors", "out"}


def test_a_job_that_cannot_run_does_not_keep_the_others_from_it(
    overrides: list[str], tmp_path: Path
) -> None:
    asked = ("-m", "seed=1,x,2", "technique=[saliency]")
    ran = python(str(RUN), *asked, *overrides, cwd=tmp_path)
    assert ran.returncode == 1
    said = ran.stderr.splitlines()[-1]
    assert said.startswith("error: 1 of 3 jobs stopped: seed=x: seed: 'x' ")
    assert "Traceback" not in ran.stderr
    assert len([*tmp_path.glob("out/robot/*/report.html")]) == 2


def test_secrets_from_the_environment_reach_no_output(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", f"{tmp_path}/s3cr3t")
    shutil.move(tmp_path / "set", tmp_path / "s3cr3t")
    broken = tmp_path / "s3cr3t/images/scene_00-left-none.png"
    broken.write_bytes(b"no picture")  # why it fails is told
    place = "image_set.robot_lighting.root=${oc.env:PLACE}"
    ran = python(str(RUN), *overrides, place, "technique=[saliency]", cwd=tmp_path)
    assert ran.returncode == 4, ran.stderr
    (log,) = (tmp_path / "out").glob("robot/*/run.log")
    assert f"{broken.name} cannot be read as a picture" in log.read_text(encoding="utf-8")
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or b"s3cr3t" not in path.read_bytes(), path


def test_a_name_does_not_steer_the_terminal(
    cli: Callable, overrides: list[str], tmp_path: Path
) -> None:
    """Neither the one that prints it now nor the one that shows the log later."""
    name = "bad\x1b]0;owned\x07\x9b2J.png"
    (tmp_path / "set/images" / name).write_bytes(b"no picture")
    with (tmp_path / "set/manifest.csv").open("a", encoding="utf-8") as file:
        file.write(f"bad,images/{name},,,scene_00,,left,none\n")
    code, planned, _ = cli("plan", *overrides, "technique=[saliency]")
    assert code == 0
    assert cli("run", *overrides, "technique=[saliency]")[0] == 4
    (log,) = (tmp_path / "out").glob("robot/*/run.log")
    *_, refused = cli("plan", *overrides, f"image_set.robot_lighting.root='{name}'")
    for said in (planned, log.read_text(encoding="utf-8"), refused):
        assert r"bad\x1b]0;owned\x07\x9b2J.png" in said
        assert not {"\x1b", "\x07", "\x9b"} & set(said)


def test_the_gate_lets_the_verdict_count(cli: Callable, overrides: list[str]) -> None:
    """Three scenes are too few for any verdict."""
    assert cli("run", *overrides)[0] == 0
    code, out, _ = cli("run", *overrides, "gate=true")
    assert code == 5
    assert "verdict: NOT MEASURED" in out
    assert "check sees_the_obstacle: NOT MEASURED (3 units, at least " in out
    code, _, err = cli("run", *overrides, "gate=true", "check=[]")
    assert code == 1
    assert "gate: true, but there is no check that could fail" in err


@pytest.mark.parametrize(("verdict", "code"), [("PASS", 0), ("FAIL", 3), ("INCONCLUSIVE", 5)])
def test_exit_codes_of_verdicts(verdict: str, code: int) -> None:
    assert cnnaudit.cli._verdict_code(verdict) == code


def test_what_is_about_another_image_set_is_left_out_and_said(
    cli: Callable, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    Image.effect_noise((50, 40), 60).convert("RGB").save(tmp_path / "photos/a.png")
    photos = ("image_set=[folder]", f"image_set.folder.root={tmp_path / 'photos'}", "device=cpu")
    own = (f"model.perception.weights={weights}", f"output_dir={tmp_path / 'out'}")
    for command in ("plan", "run"):
        code, out, err = cli(command, *photos, *own)
        assert code == 0
        assert "left out: check sees_the_obstacle: it is about robot_lighting" in err
        assert "experiment=none leaves out what it chooses" in err
        assert "verdict" not in out
    assert "experiment=none" not in cli("plan", *photos, *own, "experiment=robot")[2]


def test_a_factor_that_tells_images_apart_gets_no_means_unless_a_grid_asks(
    cli: Callable, weights: Path, tmp_path: Path
) -> None:
    """A column such as a date would else have a row of every table for each image."""
    (tmp_path / "photos").mkdir()
    lines = ["id,image,kind,date"]
    for number in range(MOST_LEVELS + 1):
        Image.effect_noise((16, 16), 60).convert("RGB").save(tmp_path / f"photos/{number}.png")
        lines.append(f"{number},{number}.png,{'even' if number % 2 else 'odd'},day {number}")
    (tmp_path / "photos/manifest.csv").write_text("\n".join(lines))
    asked = [
        *("run", "image_set=[manifest]", f"image_set.manifest.root={tmp_path / 'photos'}"),
        *("technique=[random]", f"model.perception.weights={weights}", "device=cpu"),
    ]
    code, _, err = cli(*asked, f"output_dir={tmp_path / 'out'}")
    assert code == 0
    said = "means by 'date' of manifest: it has 101 levels, and tables tell at most 100 apart"
    assert said in err
    run = _run_dir(tmp_path)
    assert any(said in text for text in json.loads((run / "summary.json").read_text())["left_out"])
    means = pd.read_csv(run / "results/summary.csv")
    assert {*means["kind"]} == {"*", "even", "odd"}
    assert "date" not in means
    assert "day 7" in {*pd.read_parquet(run / "results/rows.parquet")["date"]}
    grid = "+image_set.manifest.grids=[{rows: kind, cols: date}]"
    code, _, err = cli(*asked, grid, f"output_dir={tmp_path / 'with grid'}")
    assert code == 0
    assert "means by" not in err
    (run,) = (tmp_path / "with grid/robot").iterdir()
    assert "day 7" in {*pd.read_csv(run / "results/summary.csv")["date"]}


def test_an_interrupted_run_says_so_and_exits_with_130(weights: Path, tmp_path: Path) -> None:
    """On the shipped image set, one picture at a time, so that there is something to interrupt."""
    process = subprocess.Popen(
        [sys.executable, str(RUN), "batch_size=1", f"model.perception.weights={weights}"],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # Its first line, not its being there: in between, logging itself is half set up.
    while not any(log.stat().st_size for log in tmp_path.glob("outputs/robot/*/run.log")):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.startswith("interrupted; what was finished is in the store")
    assert "Traceback" not in said
    assert not list(tmp_path.glob("outputs/robot/*/report.html"))


def test_layers_are_listed_in_execution_order(cli: Callable, weights: Path) -> None:
    code, out, _ = cli("layers", "model=[perception]", f"model.perception.weights={weights}")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "perception: 249,539 parameters, input 3×64×80"
    assert [line.split()[:2] for line in lines[1:4]] == [
        *(["0", "encoder.0"], ["1", "encoder.1"], ["2", "encoder.2"])
    ]
    (last,) = (line for line in lines if "last_features" in line)
    assert last.split() == ["7", "encoder.7", "ReLU", "8×16×20", "last_features"]


def test_layers_need_no_weights_and_a_module_called_twice_is_there_twice(cli: Callable) -> None:
    code, out, _ = cli("layers", "model=[resnet18]")  # its weights could not be fetched here
    assert code == 0
    uses = [line.split() for line in out.splitlines() if "layer4.1.relu" in line]
    assert [use[:3] for use in uses] == [
        *(["67", "layer4.1.relu@0", "ReLU"], ["70", "layer4.1.relu", "ReLU"])
    ]


def test_a_command_without_arguments_is_a_command(cli: Callable) -> None:
    code, out, err = cli("layers")
    assert code == 0, err
    assert "perception: 249,539 parameters" in out
