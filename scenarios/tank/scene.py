"""Render the wood with Blender: ``python scene.py jobs.json``, in Blender's own Python.

Imports bpy, NumPy, the standard library and ``scenarios.staging`` only, which says what a jobs
file holds; a ``scene`` is what ``jobs.view`` returns, a ``picture`` a key of ``PICTURES``.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import bpy
import numpy as np

from scenarios import staging
from scenarios.staging import Description

SKY_INDEX, TANK_INDEX, WOOD_INDEX = 0, 1, 2
CONE_SIDES = 16
RUGGEDNESS = 0.14  # by which share of its radius a crown's surface goes up and down


class Stage:
    """What every scene has (ground, camera, light), kept from one picture to the next."""

    def __init__(self) -> None:
        self.scene = staging.empty_scene()
        self.camera = bpy.data.cameras.new("camera")
        self.scene.camera = staging.add(self.scene, "camera", self.camera)
        self.ground = staging.add(self.scene, "ground", staging.plane_mesh(half_size=400.0))
        self.ground.pass_index = WOOD_INDEX
        self.light = staging.Daylight(self.scene)
        self.soil = _Soil()
        self.paint = _painted()
        self.white = staging.surface({"colour": [1.0, 1.0, 1.0], "roughness": 1.0, "specular": 0.0})
        self.meshes = {
            "box": staging.box_mesh(),
            "cylinder": staging.cylinder_mesh(),
            "cone": _cone_mesh(),
            "ball": staging.ball_mesh(),
            "crown": _crown_mesh(),
        }
        for mesh in (self.ground.data, *self.meshes.values()):
            mesh.materials.append(None)
        self.things: list[Any] = []

    def set_scene(self, description: Description) -> None:
        """Set the stage for a view, whatever picture was taken before."""
        for thing in self.things:
            bpy.data.objects.remove(thing)
        self.scene.use_nodes = False
        self.scene.cycles.seed = description["seed"]
        self._aim(description["camera"])
        self.soil.set(description["ground"], description["patches"])
        self.set_materials(self.soil.material, self.paint)
        wood = [self._place(solid, WOOD_INDEX) for solid in description["wood"]]
        tank = [self._place(solid, TANK_INDEX) for solid in description["tank"]]
        self.things = [*wood, *tank]
        self.light.set(description["light"])

    def set_materials(self, ground: Any, others: Any) -> None:
        """Let the ground, and all that stands on it, be of these."""
        self.ground.data.materials[0] = ground
        for mesh in self.meshes.values():
            mesh.materials[0] = others

    def _aim(self, camera: Description) -> None:
        self.camera.angle = math.radians(camera["view"])
        self.scene.camera.location = (0.0, 0.0, camera["height"])
        self.scene.camera.rotation_euler = (math.radians(90 - camera["pitch"]), 0.0, 0.0)

    def _place(self, solid: Description, index: int) -> Any:
        thing = staging.add(self.scene, "solid", self.meshes[solid["shape"]])
        thing.location = solid["middle"]
        thing.scale = solid["size"]
        thing.rotation_euler = (0, math.radians(solid["lean"]), math.radians(solid["turn"]))
        thing.color = staging.linear(solid["colour"])
        thing.pass_index = index
        return thing


class _Soil:
    """The ground's material: two tones in patches."""

    def __init__(self) -> None:
        self.material = bpy.data.materials.new("soil")
        self.material.use_nodes = True
        nodes, links = self.material.node_tree.nodes, self.material.node_tree.links
        where = nodes.new("ShaderNodeNewGeometry")
        self.noise = nodes.new("ShaderNodeTexNoise")
        self.mix = nodes.new("ShaderNodeValToRGB")
        self.mix.color_ramp.elements[0].position = 0.4
        self.mix.color_ramp.elements[1].position = 0.6
        links.new(where.outputs["Position"], self.noise.inputs["Vector"])
        links.new(self.noise.outputs["Fac"], self.mix.inputs["Fac"])
        _end_in(self.material, self.mix.outputs["Color"])

    def set(self, tones: list[list[float]], patches: float) -> None:
        self.noise.inputs["Scale"].default_value = patches
        for element, tone in zip(self.mix.color_ramp.elements, tones, strict=True):
            element.color = staging.linear(tone)


def _picture(stage: Stage) -> None:
    """Show what the camera sees."""


def _sunlight(stage: Stage) -> None:
    """Show how much of the sun each point gets."""
    stage.set_materials(stage.white, stage.white)
    stage.light.show_sunlight()


def _tank_mask(stage: Stage) -> None:
    """Show where the tank is, white on black."""
    staging.set_up_mask(stage.scene, TANK_INDEX)


def _sky_mask(stage: Stage) -> None:
    """Show where nothing but the sky is, white on black."""
    staging.set_up_mask(stage.scene, SKY_INDEX)


PICTURES = {
    "picture": _picture,
    "sunlight": _sunlight,
    "tank": _tank_mask,
    "sky": _sky_mask,
}


def _painted() -> Any:
    """Return the one material of all solids: each in its own colour, mottled."""
    material = bpy.data.materials.new("paint")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    own, where = nodes.new("ShaderNodeObjectInfo"), nodes.new("ShaderNodeNewGeometry")
    noise, mottled = nodes.new("ShaderNodeTexNoise"), nodes.new("ShaderNodeVectorMath")
    mottle = nodes.new("ShaderNodeMapRange")
    mottle.inputs["To Min"].default_value, mottle.inputs["To Max"].default_value = 0.4, 1.6
    noise.inputs["Scale"].default_value = 2.5
    mottled.operation = "MULTIPLY"
    links.new(where.outputs["Position"], noise.inputs["Vector"])
    links.new(noise.outputs["Fac"], mottle.inputs["Value"])
    links.new(own.outputs["Color"], mottled.inputs[0])
    links.new(mottle.outputs["Result"], mottled.inputs[1])
    _end_in(material, mottled.outputs["Vector"])
    return material


def _end_in(material: Any, colour: Any) -> None:
    """Make it a matt material of this colour."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    diffuse = nodes.new("ShaderNodeBsdfDiffuse")
    links.new(colour, diffuse.inputs["Color"])
    links.new(diffuse.outputs["BSDF"], nodes["Material Output"].inputs["Surface"])


def _cone_mesh() -> Any:
    around = np.linspace(0, 2 * np.pi, CONE_SIDES, endpoint=False)
    ring = [(0.5 * math.cos(angle), 0.5 * math.sin(angle), -0.5) for angle in around]
    sides = [(i, (i + 1) % CONE_SIDES, CONE_SIDES) for i in range(CONE_SIDES)]
    faces = [*sides, tuple(reversed(range(CONE_SIDES)))]
    return staging.make_mesh("cone", [*ring, (0.0, 0.0, 0.5)], faces)


def _crown_mesh() -> Any:
    """Make a rugged ball, always the same one; turned, it looks like another."""
    mesh = staging.ball_mesh()
    mesh.name = "crown"
    rng = np.random.default_rng(0)
    for vertex in mesh.vertices:
        vertex.co *= 1 + RUGGEDNESS * float(rng.uniform(-1, 1))
    for face in mesh.polygons:
        face.use_smooth = False
    mesh.update()
    return mesh


if __name__ == "__main__":
    staging.run_jobs(sys.argv[1], Stage(), PICTURES)
