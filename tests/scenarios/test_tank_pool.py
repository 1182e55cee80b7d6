"""The pool: four pictures of each place in their order, in shards that are resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scenarios import blender
from scenarios.shards import FramesError
from scenarios.tank import pool
from scenarios.tank.pool import PlaceSet, load_pool, render_pool
from scenarios.tank.sampling import NONE, OVERCAST, SUNNY, TANK

WANTED = PlaceSet(seed=4, count=3)


@pytest.fixture(autouse=True)
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for Blender: red for a tank, blue for the sun, green the seed; note each name."""
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
                scene = job["scene"]
                sun = scene["light"]["strength"] > 0
                colour = (255 * bool(scene["tank"]), scene["seed"], 255 * sun)
                Image.new("RGB", (job["width"], job["height"]), colour).save(job["output"])
                names.append(Path(job["output"]).stem)
                on_job()
            on_batch(number)

    monkeypatch.setattr(blender, "run_batches", run_batches)
    monkeypatch.setattr(pool, "SHARD_SIZE", 2)
    return names


def render(folder: Path, wanted: PlaceSet = WANTED) -> int:
    finished: list[int] = []
    render_pool(wanted, folder, workers=1, on_picture=finished.append)
    return sum(finished)


def test_every_picture_is_where_its_weather_and_presence_say(tmp_path: Path) -> None:
    assert render(tmp_path) == 12
    wanted, loaded = load_pool(tmp_path)
    assert wanted == WANTED
    assert loaded.images.shape == (3, 2, 2, 64, 64, 3)
    pixels = loaded.images[..., 0, 0, :]
    assert (pixels[:, :, TANK, 0] == 255).all()
    assert (pixels[:, :, NONE, 0] == 0).all()
    assert (pixels[:, SUNNY, :, 2] == 255).all()
    assert (pixels[:, OVERCAST, :, 2] == 0).all()
    assert [one[0, 0, 1] for one in pixels] == [0, 1, 2]


def test_the_same_command_continues(tmp_path: Path, rendered: list[str]) -> None:
    render(tmp_path)
    (tmp_path / "frames-000002.npz").unlink()
    rendered.clear()
    assert render(tmp_path) == 12
    assert rendered == [f"000002-{number}" for number in range(4)]


def test_a_folder_of_other_places_is_refused(tmp_path: Path) -> None:
    render(tmp_path)
    with pytest.raises(FramesError, match="holds other frames"):
        render(tmp_path, PlaceSet(seed=5, count=3))
