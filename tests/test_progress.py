"""How far a run is, for people and for programs that poll."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cnnaudit.progress import Status, clock, progress, reported
from cnnaudit.store import write_json
from cnnaudit.types import AuditError


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_file_says_what_a_run_does_and_how_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    with reported(path) as status:
        assert _read(path)["state"] == "running"
        assert _read(path)["process"] == os.getpid()
        status.say(stage="execute")
        assert (_read(path)["state"], _read(path)["stage"]) == ("running", "execute")
    assert (_read(path)["state"], _read(path)["stage"]) == ("finished", "execute")
    assert sorted(path.parent.iterdir()) == [path]  # no draft is left


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (KeyboardInterrupt(), "interrupted", None),
        (ValueError("no such thing"), "stopped", "ValueError: no such thing"),
        (SystemExit(0), "stopped", "SystemExit: 0"),
    ],
)
def test_a_run_that_did_not_end_well_says_so(
    error: BaseException, state: str, said: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "status.json"
    with pytest.raises(type(error)), reported(path):
        raise error
    assert (_read(path)["state"], _read(path).get("error")) == (state, said)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), AuditError("store_dir: no space left")])
def test_what_stopped_a_run_is_told_though_the_file_cannot_be_written(
    error: BaseException, tmp_path: Path
) -> None:
    def stop() -> None:
        with reported(tmp_path / "status.json"):
            _put_a_folder_there(tmp_path / "status.json")
            raise error

    with pytest.raises(type(error)) as stopped:
        stop()
    assert stopped.value is error


@pytest.mark.parametrize("state", ["running", "finished"])
def test_a_run_that_is_interrupted_as_it_begins_or_ends_is_not_said_to_run(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, value: dict) -> None:
        write_json(path, value)
        if value["state"] == state:
            raise KeyboardInterrupt

    monkeypatch.setattr("cnnaudit.progress.write_json", interrupted)
    path = tmp_path / "status.json"
    with pytest.raises(KeyboardInterrupt), reported(path):
        pass
    assert _read(path)["state"] == "interrupted"


def test_a_file_for_others_to_poll_ends_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnaudit.progress._POLLED", -1.0)
    path = tmp_path / "status.json"
    status = Status(path)
    with progress({"resnet18": 2}, status) as advance:
        _put_a_folder_there(path)
        advance(1, "resnet18")
        path.rmdir()
        advance(1, "resnet18")
    assert _read(path)["images"] == {"done": 2, "total": 2}


def _put_a_folder_there(path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_images_are_counted_for_each_model_and_in_total(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = Status(tmp_path / "status.json")
    status.say(stage="execute")
    with progress({"first": 3, "second": 5}, status) as advance:
        assert _read(tmp_path / "status.json")["images"] == {"done": 0, "total": 8}  # at once
        advance(3, "first")
        advance(4, "second")
        status.say()
        found = _read(tmp_path / "status.json")
        assert found["images"] == {"done": 7, "total": 8}
        assert found["models"]["second"] == {"done": 4, "total": 5}
        assert found["images_per_second"] > 0
        assert found["seconds_left"] >= 0
        assert capsys.readouterr().err == ""  # a line every few seconds, and at the end
        advance(1, "second")
    assert capsys.readouterr().err.startswith("second: 8/8 images, ")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_name_of_a_model_is_no_markup_and_steers_no_terminal(
    terminal: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "a[/b]\x1b]0;owned\x07"
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(terminal)))
    with progress({name: 1}, Status(tmp_path / "status.json")) as advance:
        advance(1, name)
    said = capsys.readouterr().err
    assert r"a[/b]\x1b]0;owned\x07" in said
    assert "\x1b]" not in said


def test_before_the_first_image_nobody_knows_how_long_it_takes(tmp_path: Path) -> None:
    status = Status(tmp_path / "status.json")
    with progress({"first": 3}, status):
        status.say()
        assert _read(tmp_path / "status.json")["seconds_left"] is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (95, "2 min"),
        (3600, "60 min"),
        (3 * 3600 + 299, "3 h 05 min"),
        (5 * 24 * 3600 + 7200, "5 d 2 h"),
    ],
)
def test_durations_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert clock(seconds) == text
