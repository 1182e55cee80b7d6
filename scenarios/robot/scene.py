"""Render described scenes with Blender: ``python scene.py jobs.json``, in Blender's own Python.

Imports bpy, NumPy, the standard library and ``scenarios.staging`` only, which says what a jobs
file holds; a ``scene`` is a ``description.Scene``, a ``picture`` a key of ``PICTURES``.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import bpy

from scenarios import staging
from scenarios.staging import Description

CAMERA_HEIGHT = 0.12
CAMERA_PITCH = 22.0  # degrees below the horizon
CAMERA_VIEW = 75.0  # degrees, horizontally
OBSTACLE_INDEX = 1


class Stage:
    """What every scene has (ground, camera, sun, sky), kept from one frame to the next."""

    def __init__(self) -> None:
        self.scene = staging.empty_scene()
        staging.set_up_mask(self.scene, OBSTACLE_INDEX)
        _add_camera(self.scene)
        self.ground = staging.add(self.scene, "ground", staging.plane_mesh(half_size=30.0))
        self.no_blockers = bpy.data.collections.new("no blockers")
        self.light = staging.Daylight(self.scene)
        self.meshes = {
            "box": staging.box_mesh(),
            "cylinder": staging.cylinder_mesh(),
            "ellipsoid": staging.ball_mesh(),
        }
        self.obstacles: list[Any] = []

    def set_scene(self, description: Description) -> None:
        """Set the stage for a scene, whatever picture was taken before."""
        self._clear()
        self.scene.cycles.seed = description["seed"]
        self.ground.data.materials.append(staging.surface(description["ground"]))
        self.obstacles = [self._place(obstacle) for obstacle in description["obstacles"]]
        self.light.set(description["light"])

    def _clear(self) -> None:
        for thing in self.obstacles:
            bpy.data.meshes.remove(thing.data)  # and the object with it
        self.ground.data.materials.clear()
        for material in list(bpy.data.materials):
            bpy.data.materials.remove(material)
        self.scene.use_nodes = False
        self.light.sky.light_linking.blocker_collection = None

    def _place(self, description: Description) -> Any:
        thing = staging.add(self.scene, "obstacle", self.meshes[description["shape"]].copy())
        size = [description[side] for side in ("width", "depth", "height")]
        thing.scale = size
        middle = description["base"] + description["height"] / 2
        thing.location = (description["x"], description["y"], middle)
        thing.rotation_euler = (
            0,
            math.radians(description["tilt"]),
            math.radians(description["turn"]),
        )
        thing.data.materials.append(staging.surface(description["material"]))
        thing.pass_index = OBSTACLE_INDEX
        self.no_blockers.objects.link(thing)
        self.no_blockers.collection_objects[-1].light_linking.link_state = "EXCLUDE"
        return thing

    def hide_obstacles(self) -> None:
        """Keep the obstacles in the light's way, but out of sight."""
        for thing in self.obstacles:
            thing.visible_camera = False
            thing.visible_glossy = False


def _frame(stage: Stage) -> None:
    """Show what the robot's camera sees."""


def _shadow(stage: Stage) -> None:
    """Show the shadow alone: what the obstacles keep from the sun, with nothing standing there.

    The sky shines through them; or else the ground under them, which nobody ever sees, would be
    pitch black.
    """
    stage.hide_obstacles()
    stage.light.sky.light_linking.blocker_collection = stage.no_blockers


def _sunlight(stage: Stage) -> None:
    """Show which share of the sun each point of the ground sees: white all of it, black none."""
    _shadow(stage)
    stage.ground.data.materials[0] = staging.surface(
        {"colour": (1.0, 1.0, 1.0), "roughness": 1.0, "specular": 0.0}
    )
    stage.light.show_sunlight()


def _mask(stage: Stage) -> None:
    """Show where the obstacles are, white on black, from Blender's object index pass."""
    stage.scene.use_nodes = True


def _influence(stage: Stage) -> None:
    """Show where light from the obstacles reaches the camera, directly or by a reflection."""
    for thing in stage.obstacles:
        thing.data.materials[0] = staging.glowing()
        thing.visible_diffuse = False  # it is seen and mirrored, but lights nothing
    stage.light.turn_off()


PICTURES = {
    "frame": _frame,
    "shadow": _shadow,
    "sunlight": _sunlight,
    "mask": _mask,
    "influence": _influence,
}


def _add_camera(scene: Any) -> None:
    camera = bpy.data.cameras.new("camera")
    camera.sensor_fit = "HORIZONTAL"
    camera.angle = math.radians(CAMERA_VIEW)
    camera.clip_start = 0.01
    scene.camera = staging.add(scene, "camera", camera)
    scene.camera.location = (0.0, 0.0, CAMERA_HEIGHT)
    scene.camera.rotation_euler = (math.radians(90 - CAMERA_PITCH), 0.0, 0.0)


if __name__ == "__main__":
    staging.run_jobs(sys.argv[1], Stage(), PICTURES)
