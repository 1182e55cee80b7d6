"""The launcher: which interpreter it takes, what it says when something is wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Lock

import pytest

from scenarios import blender
from scenarios.blender import BlenderError
from scenarios.robot.render import main

OBEDIENT = """
import json, sys
for job in json.load(open(sys.argv[1])):
    print("some chatter of Blender's")
    open(job["output"], "w").write(job["word"])
    print("DONE", job["output"], flush=True)
"""
FAILING = """
import sys
print("\\n".join(f"line {n}" for n in range(100)), file=sys.stderr)
sys.exit("the camera fell over")
"""


@pytest.fixture(autouse=True)
def this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(blender.VARIABLE, sys.executable)


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv(blender.VARIABLE)
    monkeypatch.setattr(blender, "ENVIRONMENT", tmp_path / "venv")
    return tmp_path / "venv"


def script(folder: Path, text: str) -> Path:
    path = folder / "script.py"
    path.write_text(text)
    return path


def test_every_job_runs_and_is_counted(tmp_path: Path) -> None:
    outputs = [tmp_path / f"{number}.txt" for number in range(5)]
    jobs = [{"output": str(path), "word": path.stem} for path in outputs]
    finished: list[int] = []
    counted, lock = [0], Lock()

    def count() -> None:
        with lock:
            counted[0] += 1

    blender.run_batches(
        script(tmp_path, OBEDIENT),
        [jobs[:2], jobs[2:4], jobs[4:]],
        workers=2,
        on_job=count,
        on_batch=finished.append,
    )
    assert [path.read_text() for path in outputs] == ["0", "1", "2", "3", "4"]
    assert counted == [5]
    assert sorted(finished) == [0, 1, 2]


def test_a_failing_script_shows_the_end_of_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(BlenderError) as caught:
        blender.run_batches(script(tmp_path, FAILING), [[], [], []], workers=2, on_job=lambda: None)
    message = str(caught.value)
    assert "script.py" in message
    assert "exit code 1" in message
    assert message.endswith("the camera fell over")
    assert "line 99" in message
    assert "line 50" not in message


def test_an_interpreter_that_does_not_exist_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(blender.VARIABLE, "/no/such/python")
    with pytest.raises(BlenderError, match=r"CNNAUDIT_BLENDER_PYTHON is '/no/such/python'"):
        blender.interpreter()
    monkeypatch.setenv(blender.VARIABLE, str(tmp_path))
    with pytest.raises(BlenderError, match="no such Python interpreter"):
        blender.find_interpreter()


def test_the_command_says_it_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(blender.VARIABLE, "/no/such/python")
    assert main(["--split", "test", "--count", "1", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "Error: CNNAUDIT_BLENDER_PYTHON" in said
    assert "Traceback" not in said


def test_without_an_environment_there_is_no_interpreter_yet(no_environment: Path) -> None:
    assert blender.find_interpreter() is None
    no_environment.mkdir()
    assert blender.find_interpreter() is None  # interrupted: nothing says that it is whole


def test_an_environment_with_todays_pins_is_used(no_environment: Path) -> None:
    no_environment.mkdir()
    pins = no_environment / blender.REQUIREMENTS.name
    pins.write_bytes(blender.REQUIREMENTS.read_bytes())
    assert blender.find_interpreter() == no_environment / "bin" / "python"
    pins.write_text("bpy==0\n")
    assert blender.find_interpreter() is None


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for venv and pip, which take long, and note what they were asked."""
    asked: list[str] = []

    def call(command: list[str], what: str) -> None:
        asked.append(what)
        if "venv" in command:
            (Path(command[-1]) / "bin").mkdir(parents=True)
        elif "fails" in blender.REQUIREMENTS.read_text():
            raise BlenderError("no such release")

    monkeypatch.setattr(blender, "_check_call", call)
    monkeypatch.setattr(blender, "_base_python", lambda: sys.executable)
    return asked


def test_the_environment_is_made_once(no_environment: Path, steps: list[str]) -> None:
    assert blender.interpreter() == no_environment / "bin" / "python"
    assert blender.interpreter() == no_environment / "bin" / "python"
    assert steps == ["making the environment", "installing Blender's package"]


def test_the_remains_of_an_interruption_are_replaced(
    no_environment: Path, steps: list[str]
) -> None:
    (no_environment / "half").mkdir(parents=True)
    blender.interpreter()
    assert not (no_environment / "half").exists()


def test_a_failed_installation_leaves_nothing_behind(
    no_environment: Path, steps: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    requirements = tmp_path / "blender-requirements.txt"
    requirements.write_text("fails\n")
    monkeypatch.setattr(blender, "REQUIREMENTS", requirements)
    with pytest.raises(BlenderError, match="no such release"):
        blender.interpreter()
    assert list(tmp_path.iterdir()) == [requirements]


def test_another_python_than_blenders_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blender.sys, "version_info", (3, 12, 0))
    monkeypatch.setattr(blender.shutil, "which", lambda name: None)
    with pytest.raises(BlenderError, match=r"needs python3\.11"):
        blender._base_python()
