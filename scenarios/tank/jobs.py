"""What is asked of Blender: one view of a place, as a picture or as a region."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from scenarios.tank.description import Place
from scenarios.tank.geometry import tank_parts

SCENE_SCRIPT = Path(__file__).with_name("scene.py")


def view(place: Place, weather: str, presence: str) -> dict[str, Any]:
    """Return one of a place's four scenes, as the scene script reads it."""
    return {
        "camera": asdict(place.camera),
        "ground": place.ground,
        "patches": place.patches,
        "wood": [asdict(solid) for solid in place.wood],
        "tank": [asdict(part) for part in tank_parts(place.tank)] if presence == "tank" else [],
        "light": asdict(place.lights[weather]),
        "seed": place.seed,
    }


def job(
    scene: dict[str, Any], picture: str, output: Path, size: int, samples: int
) -> dict[str, Any]:
    """Return the job that renders a picture of a scene, or a region (a key of PICTURES)."""
    return {
        "scene": scene,
        "picture": picture,
        "output": str(output),
        "width": size,
        "height": size,
        "samples": samples,
        "clamp": 0.0,  # light does not bounce, so there is nothing to clamp
        "denoise": False,
    }
