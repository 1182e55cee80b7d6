"""How far a run is, for people and for programs that poll."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cnnaudit.progress import Status, clock, progress, reported


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
