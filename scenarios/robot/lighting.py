"""The lighting image set: the same scenes under four lights, in two colours, and with no obstacle.

Each scene has one box, near and about central. The two pictures of a pair (``equal``, with the
ground's own material, and ``different``) differ in the obstacle's base colour and in nothing else.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scenarios import blender
from scenarios.description import Light, Material, hsv
from scenarios.image_set import Row, read_light, write_manifest, write_mask, write_picture
from scenarios.robot.description import Obstacle, Scene
from scenarios.robot.draws import contrast
from scenarios.robot.frames import SCENE_SCRIPT
from scenarios.robot.geometry import sensor_truth
from scenarios.robot.truths import write_truth

FOLDER = Path(__file__).with_name("lighting")
COLUMNS = ("id", "image", "mask", "mask:shadow", "truth", "scene", "colour", "light", "presence")
SCENES = 24
SEED = 3
# The clamp holds down the rare sample that finds the sun through two mirrors: the denoiser would
# make a blot of it.
QUALITY = {"width": 320, "height": 256, "clamp": 1.0}
LEAST_CONTRAST = 0.35  # of the other colour with the ground's, as a distance of sRGB colours
SHADOWED = 0.75  # a point is in the shadow if it sees less of the sun than this share
MIRRORED = 0.02  # a point mirrors the obstacle if it sends more of its light than this share


def _light(azimuth: float, elevation: float, softness: float, sun: float, sky: float) -> Light:
    """Describe a light by what falls on the ground, from the sun and from the sky."""
    return Light(azimuth, elevation, softness, sun / math.sin(math.radians(elevation)), sky)


LIGHTS = {
    "overhead": _light(180, 65, 40, sun=0.55, sky=0.45),
    "backlight": _light(8, 32, 1.5, sun=0.80, sky=0.25),
    "left": _light(270, 40, 0.5, sun=0.70, sky=0.30),
    "soft_left": _light(270, 40, 40, sun=0.70, sky=0.30),
}


@dataclass(frozen=True)
class Variant:
    """What stands there: presence and colour as the manifest says them, and how it is rendered."""

    presence: str
    colour: str
    picture: str  # a picture of scene.py

    @property
    def name(self) -> str:
        """Return the variant's part of an image's id."""
        return self.colour or self.presence


VARIANTS = (
    Variant("obstacle", "equal", "frame"),
    Variant("obstacle", "different", "frame"),
    Variant("none", "", "frame"),
    Variant("shadow", "", "shadow"),
)


JOBS = SCENES * (len(LIGHTS) * (len(VARIANTS) + 1) + 2)


@dataclass(frozen=True)
class Place:
    """One scene of the set, before a light and a variant are chosen."""

    name: str
    ground: Material
    box: Obstacle  # in the ground's own material
    other: Material  # the same but for its colour

    def scene(self, light: str, variant: Variant) -> Scene:
        """Return the scene of one picture; the renderer's seed is the same for all of a place."""
        seed = int(self.name.rpartition("_")[2])
        if variant.presence == "none":
            return Scene(self.ground, LIGHTS[light], (), seed)
        material = self.other if variant.colour == "different" else self.ground
        return Scene(self.ground, LIGHTS[light], (replace(self.box, material=material),), seed)


def draw_place(index: int) -> Place:
    """Draw the scene with this number: ground, box, and the box's other colour."""
    rng = np.random.default_rng([SEED, index])
    tone = hsv(rng.uniform(), rng.uniform(0.03, 0.25), rng.uniform(0.4, 0.75))
    matt = rng.uniform() < 0.5
    roughness, specular = (1.0, 0.0) if matt else (rng.uniform(0.12, 0.35), rng.uniform(0.15, 0.5))
    colour = tone
    while contrast(colour, tone) < LEAST_CONTRAST:
        colour = hsv(rng.uniform(), rng.uniform(0.6, 0.9), rng.uniform(0.5, 0.85))
    ground = Material(tone, roughness, specular)
    box = Obstacle(
        "box",
        x=rng.uniform(-0.05, 0.05),
        y=rng.uniform(0.24, 0.42),
        width=rng.uniform(0.08, 0.14),
        depth=rng.uniform(0.06, 0.12),
        height=rng.uniform(0.07, 0.12),
        material=ground,
        turn=rng.uniform(-40, 40),
    )
    return Place(f"scene_{index:02}", ground, box, replace(ground, colour=colour))


def render_set(folder: Path, *, workers: int, on_job: Callable[[], None]) -> None:
    """Render the whole set into a folder, the manifest last."""
    places = [draw_place(index) for index in range(SCENES)]
    folder.mkdir(parents=True, exist_ok=True)
    write_truth(sensor_truth([]), folder / "truth" / "none.csv")
    with tempfile.TemporaryDirectory() as scratch:
        blender.run_batches(
            SCENE_SCRIPT,
            [place_jobs(place, Path(scratch)) for place in places],
            workers=workers,
            on_job=on_job,
            on_batch=lambda index: _store_place(places[index], Path(scratch), folder),
        )
    rows = [
        manifest_row(place, light, variant, folder)
        for place in places
        for light in LIGHTS
        for variant in VARIANTS
    ]
    write_manifest(COLUMNS, rows, folder)


def place_jobs(place: Place, scratch: Path) -> list[dict[str, Any]]:
    """Return the jobs of one place: its pictures, and what its regions are made from."""
    pictures = [picture_job(place, light, v, scratch) for light in LIGHTS for v in VARIANTS]
    suns = [_region_job(place, light, "sunlight", scratch) for light in LIGHTS]
    regions = [_region_job(place, "left", picture, scratch) for picture in ("mask", "influence")]
    return [*pictures, *suns, *regions]


def picture_job(place: Place, light: str, variant: Variant, scratch: Path) -> dict[str, Any]:
    """Return the job that renders one picture of the set."""
    return {
        "scene": asdict(place.scene(light, variant)),
        "picture": variant.picture,
        "output": str(scratch / f"{image_id(place, light, variant)}.png"),
        **QUALITY,
        "samples": 24,
        "denoise": True,
    }


def image_id(place: Place, light: str, variant: Variant) -> str:
    """Return the id of a picture, such as ``scene_03-left-equal``."""
    return f"{place.name}-{light}-{variant.name}"


def manifest_row(place: Place, light: str, variant: Variant, folder: Path) -> Row:
    """Return the manifest's line for a picture; a region with no pixel is not declared."""
    name = image_id(place, light, variant)
    stands = variant.presence == "obstacle"
    row = {
        "id": name,
        "image": f"images/{name}.webp",
        "truth": f"truth/{place.name if stands else 'none'}.csv",
        "scene": place.name,
        "colour": variant.colour,
        "light": light,
        "presence": variant.presence,
    }
    if stands:
        row["mask"] = f"masks/{place.name}.png"
    shadow = shadow_path(place, light, variant)
    if shadow and (folder / shadow).exists():
        row["mask:shadow"] = shadow
    return row


def shadow_path(place: Place, light: str, variant: Variant) -> str:
    """Return where the shadow's mask lies; a shadow alone is whole, the other partly hidden."""
    if variant.presence == "none":
        return ""
    alone = "_alone" if variant.presence == "shadow" else ""
    return f"shadows/{place.name}_{light}{alone}.png"


def _region_job(place: Place, light: str, picture: str, scratch: Path) -> dict[str, Any]:
    return {
        "scene": asdict(place.scene(light, VARIANTS[0])),
        "picture": picture,
        "output": str(scratch / f"{place.name}-{light}-{picture}.png"),
        **QUALITY,
        # A mask has no half-tones: one sample, at the pixel's middle.
        "samples": 1 if picture == "mask" else 16,
        "denoise": picture != "mask",
    }


def _store_place(place: Place, scratch: Path, folder: Path) -> None:
    for light in LIGHTS:
        for variant in VARIANTS:
            name = image_id(place, light, variant)
            write_picture(scratch / f"{name}.png", folder / "images" / f"{name}.webp")
    write_truth(sensor_truth([place.box]), folder / "truth" / f"{place.name}.csv")
    _store_regions(place, scratch, folder)


def _store_regions(place: Place, scratch: Path, folder: Path) -> None:
    obstacle = read_light(scratch / f"{place.name}-left-mask.png") > 0.5
    influence = read_light(scratch / f"{place.name}-left-influence.png") > MIRRORED
    write_mask(obstacle, folder / "masks" / f"{place.name}.png")
    write_mask(influence & ~obstacle, folder / "reflections" / f"{place.name}.png")
    for light in LIGHTS:
        shadow = read_light(scratch / f"{place.name}-{light}-sunlight.png") < SHADOWED
        for variant, region in ((VARIANTS[0], shadow & ~obstacle), (VARIANTS[3], shadow)):
            if region.any():
                write_mask(region, folder / shadow_path(place, light, variant))
