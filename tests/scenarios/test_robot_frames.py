"""Shards of frames: what is there is kept, what is missing is rendered, what is wrong is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scenarios import blender
from scenarios.robot import frames
from scenarios.robot.draws import draw_scene
from scenarios.robot.frames import FrameSet, load_frames, render_frames
from scenarios.robot.geometry import sensor_truth
from scenarios.shards import FramesError

WANTED = FrameSet(seed=4, count=7)


@pytest.fixture(autouse=True)
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for Blender: a grey picture whose tone is the renderer's seed; note each name."""
    names: list[str] = []

    def run_batches(
        script: Path,
        batches: Sequence[Sequence[dict[str, Any]]],
        *,
        workers: int,
        on_job: Callable[[], None],
        on_batch: Callable[[int], None],
    ) -> None:
        for number, batch in enumerate(batches):
            for job in batch:
                size, tone = (job["width"], job["height"]), job["scene"]["seed"]
                Image.new("RGB", size, (tone, tone, tone)).save(job["output"])
                names.append(Path(job["output"]).stem)
                on_job()
            on_batch(number)

    monkeypatch.setattr(blender, "run_batches", run_batches)
    monkeypatch.setattr(frames, "SHARD_SIZE", 3)
    return names


def render(folder: Path, wanted: FrameSet = WANTED) -> int:
    finished: list[int] = []
    render_frames(wanted, folder, workers=1, on_frame=finished.append)
    return sum(finished)


def test_shards_hold_every_frame_in_order_with_its_truth(tmp_path: Path) -> None:
    assert render(tmp_path) == 7
    wanted, loaded = load_frames(tmp_path)
    assert wanted == WANTED
    assert loaded.images.shape == (7, 128, 160, 3)
    assert loaded.images[:, 0, 0, 0].tolist() == list(range(7))
    scenes = [draw_scene(4, index) for index in range(7)]
    assert np.array_equal(loaded.truth, [sensor_truth(s.obstacles).ravel() for s in scenes])
    assert loaded.obstacles.tolist() == [len(scene.obstacles) for scene in scenes]


def test_the_same_command_continues(tmp_path: Path, rendered: list[str]) -> None:
    render(tmp_path)
    (tmp_path / "frames-000003.npz").unlink()
    rendered.clear()
    assert render(tmp_path) == 7
    assert rendered == ["000003", "000004", "000005"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"frames-{start:06d}.npz" for start in (0, 3, 6)),
        "frames.json",
    ]


def test_a_folder_of_other_frames_is_refused(tmp_path: Path) -> None:
    render(tmp_path)
    with pytest.raises(FramesError, match="holds other frames"):
        render(tmp_path, FrameSet(seed=5, count=7))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    render(tmp_path)
    (tmp_path / "frames-000006.npz").unlink()
    with pytest.raises(FramesError, match=r"1 of 3 shards .* frames-000006\.npz"):
        load_frames(tmp_path)
