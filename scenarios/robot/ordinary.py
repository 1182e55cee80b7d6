"""Four ordinary frames: what the robot sees every day, composed by hand."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scenarios import blender
from scenarios.description import Colour, Light, Material
from scenarios.image_set import read_light, write_manifest, write_mask, write_picture
from scenarios.robot.description import Obstacle, Scene
from scenarios.robot.frames import SCENE_SCRIPT
from scenarios.robot.geometry import sensor_truth
from scenarios.robot.truths import write_truth

FOLDER = Path(__file__).with_name("ordinary")
COLUMNS = ("id", "image", "mask", "truth", "scene")
QUALITY = {"width": 640, "height": 512, "clamp": 1.0}


def _several() -> Scene:
    """Several obstacles on a dull floor in the afternoon."""
    return Scene(
        Material((0.62, 0.58, 0.52)),
        Light(azimuth=300, elevation=42, softness=3, strength=1.0, sky=0.32),
        (
            _box(-0.02, 0.34, 0.09, 0.08, 0.09, (0.78, 0.20, 0.14), turn=24),
            _cylinder(0.17, 0.46, 0.09, 0.14, (0.12, 0.36, 0.70)),
            _box(-0.27, 0.52, 0.14, 0.10, 0.13, (0.90, 0.66, 0.14), turn=-18),
            _box(0.40, 0.85, 0.15, 0.15, 0.16, (0.20, 0.52, 0.32), turn=35),
            _cylinder(-0.10, 0.86, 0.08, 0.10, (0.55, 0.24, 0.52)),
        ),
    )


def _plant() -> Scene:
    """A plant in a pot, in soft light."""
    leaf = Material((0.16, 0.46, 0.17), roughness=0.5, specular=0.3)
    pot = _cylinder(0.03, 0.38, 0.11, 0.085, (0.74, 0.36, 0.20))
    soil = _cylinder(0.03, 0.38, 0.10, 0.087, (0.20, 0.13, 0.09))
    leaves = (_leaf(pot, leaf, number) for number in range(13))
    return Scene(
        Material((0.66, 0.64, 0.60), roughness=0.55, specular=0.2),
        Light(azimuth=235, elevation=50, softness=20, strength=0.95, sky=0.36),
        (pot, soil, *leaves),
    )


def _white_box() -> Scene:
    """A white box on a pale floor."""
    return Scene(
        Material((0.80, 0.77, 0.71)),
        Light(azimuth=60, elevation=48, softness=8, strength=0.85, sky=0.34),
        (_box(0.0, 0.36, 0.13, 0.10, 0.10, (0.93, 0.93, 0.92), turn=-27),),
    )


def _reflection() -> Scene:
    """A cylinder and a box mirrored in a polished floor."""
    return Scene(
        Material((0.30, 0.33, 0.37), roughness=0.10, specular=0.8),
        Light(azimuth=250, elevation=40, softness=6, strength=1.0, sky=0.40),
        (
            _cylinder(0.02, 0.40, 0.09, 0.11, (0.85, 0.42, 0.10)),
            _box(-0.24, 0.66, 0.13, 0.11, 0.14, (0.14, 0.52, 0.56), turn=20),
        ),
    )


SCENES = {
    "several": _several,
    "plant": _plant,
    "white_box": _white_box,
    "reflection": _reflection,
}
JOBS = 2 * len(SCENES)


def render_set(folder: Path, *, workers: int, on_job: Callable[[], None]) -> None:
    """Render the four frames into a folder, the manifest last."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        batches = [scene_jobs(name, Path(scratch)) for name in SCENES]
        blender.run_batches(SCENE_SCRIPT, batches, workers=workers, on_job=on_job)
        for name in SCENES:
            _store(name, Path(scratch), folder)
    write_manifest(COLUMNS, [_row(name) for name in SCENES], folder)


def scene_jobs(name: str, scratch: Path) -> list[dict[str, Any]]:
    """Return the jobs that render one frame and its mask."""
    scene = asdict(SCENES[name]())
    return [
        {
            "scene": scene,
            "picture": picture,
            "output": str(scratch / f"{name}-{picture}.png"),
            **QUALITY,
            "samples": 48 if picture == "frame" else 1,
            "denoise": picture == "frame",
        }
        for picture in ("frame", "mask")
    ]


def _store(name: str, scratch: Path, folder: Path) -> None:
    write_picture(scratch / f"{name}-frame.png", folder / "images" / f"{name}.webp")
    obstacles = read_light(scratch / f"{name}-mask.png") > 0.5
    write_mask(obstacles, folder / "masks" / f"{name}.png")
    write_truth(sensor_truth(SCENES[name]().obstacles), folder / "truth" / f"{name}.csv")


def _row(name: str) -> dict[str, str]:
    return {
        "id": name,
        "image": f"images/{name}.webp",
        "mask": f"masks/{name}.png",
        "truth": f"truth/{name}.csv",
        "scene": name,
    }


def _box(
    x: float, y: float, width: float, depth: float, height: float, colour: Colour, turn: float
) -> Obstacle:
    return Obstacle("box", x, y, width, depth, height, _painted(colour), turn=turn)


def _cylinder(x: float, y: float, width: float, height: float, colour: Colour) -> Obstacle:
    return Obstacle("cylinder", x, y, width, width, height, _painted(colour))


def _painted(colour: Colour) -> Material:
    return Material(colour, roughness=0.5, specular=0.25)


def _leaf(pot: Obstacle, material: Material, number: int) -> Obstacle:
    """Return one of the leaves that fan out of a pot, each turned by the golden angle."""
    tilt = 8 + 42 * (number % 4) / 3
    reach = 0.005 + 0.0011 * tilt
    turn = number * 137.5
    x, y = _turned(reach, turn)
    return Obstacle(
        "ellipsoid",
        x=pot.x + x,
        y=pot.y + y,
        width=0.008,
        depth=0.034,
        height=0.12,
        material=material,
        turn=turn,
        tilt=tilt,
        base=pot.height - 0.02 - 0.0006 * tilt,
    )


def _turned(length: float, degrees: float) -> tuple[float, float]:
    angle = math.radians(degrees)
    return length * math.cos(angle), length * math.sin(angle)
