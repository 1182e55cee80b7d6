"""Render described scenes with Blender: ``python scene.py jobs.json``, in Blender's own Python.

Imports bpy, NumPy and the standard library only. The jobs file holds a list of jobs, each with a
``scene`` (a ``description.Scene`` as JSON), the ``picture`` wanted of it (a key of ``PICTURES``),
the ``output`` path of an 8-bit PNG, and the render settings; a line ``DONE <output>`` follows each.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import bpy
import numpy as np

CAMERA_HEIGHT = 0.12
CAMERA_PITCH = 22.0  # degrees below the horizon
CAMERA_VIEW = 75.0  # degrees, horizontally
OBSTACLE_INDEX = 1
ROUND_SIDES = 64

Description = dict[str, Any]


def main(jobs_file: str) -> None:
    """Render every job of a file, one after the other, in this one process."""
    stage = Stage()
    for job in json.loads(Path(jobs_file).read_text()):
        stage.set_scene(job["scene"])
        stage.set_quality(job)
        PICTURES[job["picture"]](stage)
        _render_to(stage.scene, Path(job["output"]))
        print(f"DONE {job['output']}", flush=True)


class Stage:
    """What every scene has (ground, camera, sun, sky), kept from one frame to the next."""

    def __init__(self) -> None:
        bpy.ops.wm.read_factory_settings(use_empty=True)
        self.scene = bpy.context.scene
        _set_up_cycles(self.scene)
        _set_up_mask_compositor(self.scene)
        _add_camera(self.scene)
        self.world = _make_world(self.scene)
        self.ground = _add(self.scene, "ground", _plane_mesh(half_size=30.0))
        self.no_blockers = bpy.data.collections.new("no blockers")
        self.sun = _add(self.scene, "sun", bpy.data.lights.new("sun", "SUN"))
        self.sky = _add_sky(self.scene)
        self.meshes = {"box": _box_mesh(), "cylinder": _cylinder_mesh(), "ellipsoid": _ball_mesh()}
        self.obstacles: list[Any] = []

    def set_scene(self, description: Description) -> None:
        """Set the stage for a scene, whatever picture was taken before."""
        self._clear()
        self.scene.cycles.seed = description["seed"]
        self.ground.data.materials.append(_surface(description["ground"]))
        self.obstacles = [self._place(obstacle) for obstacle in description["obstacles"]]
        self._set_light(description["light"])

    def set_quality(self, job: Description) -> None:
        """Set the size in pixels, the samples per pixel, their limit, and whether to denoise."""
        self.scene.render.resolution_x = job["width"]
        self.scene.render.resolution_y = job["height"]
        self.scene.cycles.samples = job["samples"]
        self.scene.cycles.sample_clamp_indirect = job["clamp"]
        self.scene.cycles.use_denoising = job["denoise"]

    def _clear(self) -> None:
        for thing in self.obstacles:
            bpy.data.meshes.remove(thing.data)  # and the object with it
        self.ground.data.materials.clear()
        for material in list(bpy.data.materials):
            bpy.data.materials.remove(material)
        self.scene.use_nodes = False
        self.sky.light_linking.blocker_collection = None

    def _place(self, description: Description) -> Any:
        thing = _add(self.scene, "obstacle", self.meshes[description["shape"]].copy())
        size = [description[side] for side in ("width", "depth", "height")]
        thing.scale = size
        middle = description["base"] + description["height"] / 2
        thing.location = (description["x"], description["y"], middle)
        thing.rotation_euler = (
            0,
            math.radians(description["tilt"]),
            math.radians(description["turn"]),
        )
        thing.data.materials.append(_surface(description["material"]))
        thing.pass_index = OBSTACLE_INDEX
        self.no_blockers.objects.link(thing)
        self.no_blockers.collection_objects[-1].light_linking.link_state = "EXCLUDE"
        return thing

    def _set_light(self, light: Description) -> None:
        _aim(self.sun, light["azimuth"], light["elevation"])
        self.sun.data.angle = math.radians(light["softness"])
        self.sun.data.energy = math.pi * light["strength"]
        self.sky.data.energy = math.pi * light["sky"]
        self.set_sky_colours(light["horizon"], light["zenith"])

    def set_sky_colours(self, horizon: list[float], zenith: list[float]) -> None:
        """Colour the sky as the camera and the reflections see it."""
        elements = self.world.node_tree.nodes["Color Ramp"].color_ramp.elements
        elements[0].color = _linear(horizon)
        elements[1].color = _linear(zenith)

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
    stage.sky.light_linking.blocker_collection = stage.no_blockers


def _sunlight(stage: Stage) -> None:
    """Show which share of the sun each point of the ground sees: white all of it, black none."""
    _shadow(stage)
    stage.ground.data.materials[0] = _surface(
        {"colour": (1.0, 1.0, 1.0), "roughness": 1.0, "specular": 0.0}
    )
    elevation = math.pi / 2 - stage.sun.rotation_euler.x
    stage.sun.data.energy = math.pi / math.sin(elevation)
    stage.sky.data.energy = 0.0
    stage.set_sky_colours([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])


def _mask(stage: Stage) -> None:
    """Show where the obstacles are, white on black, from Blender's object index pass."""
    stage.scene.use_nodes = True


def _influence(stage: Stage) -> None:
    """Show where light from the obstacles reaches the camera, directly or by a reflection."""
    for thing in stage.obstacles:
        thing.data.materials[0] = _glowing()
        thing.visible_diffuse = False  # it is seen and mirrored, but lights nothing
    stage.sun.data.energy = 0.0
    stage.sky.data.energy = 0.0
    stage.set_sky_colours([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])


PICTURES = {
    "frame": _frame,
    "shadow": _shadow,
    "sunlight": _sunlight,
    "mask": _mask,
    "influence": _influence,
}


def _set_up_cycles(scene: Any) -> None:
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.use_adaptive_sampling = False
    scene.render.use_persistent_data = True
    # A box filter, so that box downsampling of any multiple of 80×64 expects the same picture.
    scene.cycles.pixel_filter_type = "BOX"
    scene.cycles.denoising_prefilter = "FAST"
    # No light from one surface colours another: an obstacle's colour stays on the obstacle.
    scene.cycles.diffuse_bounces = 0
    scene.cycles.glossy_bounces = 2
    scene.cycles.max_bounces = 2
    scene.view_settings.view_transform = "Standard"
    scene.display_settings.display_device = "sRGB"
    scene.render.dither_intensity = 0.0
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGB"
    scene.render.image_settings.compression = 15
    scene.render.threads_mode = "FIXED"
    scene.render.threads = 1  # the launcher runs one process per core


def _set_up_mask_compositor(scene: Any) -> None:
    scene.view_layers[0].use_pass_object_index = True
    scene.use_nodes = True
    nodes, links = scene.node_tree.nodes, scene.node_tree.links
    nodes.clear()
    layers = nodes.new("CompositorNodeRLayers")
    chosen = nodes.new("CompositorNodeIDMask")
    chosen.index = OBSTACLE_INDEX
    output = nodes.new("CompositorNodeComposite")
    links.new(layers.outputs["IndexOB"], chosen.inputs[0])
    links.new(chosen.outputs[0], output.inputs["Image"])


def _add(scene: Any, name: str, data: Any) -> Any:
    thing = bpy.data.objects.new(name, data)
    scene.collection.objects.link(thing)
    return thing


def _add_camera(scene: Any) -> None:
    camera = bpy.data.cameras.new("camera")
    camera.sensor_fit = "HORIZONTAL"
    camera.angle = math.radians(CAMERA_VIEW)
    camera.clip_start = 0.01
    scene.camera = _add(scene, "camera", camera)
    scene.camera.location = (0.0, 0.0, CAMERA_HEIGHT)
    scene.camera.rotation_euler = (math.radians(90 - CAMERA_PITCH), 0.0, 0.0)


def _add_sky(scene: Any) -> Any:
    """Add the sky's light on the ground: a lamp as wide as the sky, since lamps can be linked."""
    sky = _add(scene, "sky", bpy.data.lights.new("sky", "SUN"))
    sky.data.angle = math.pi
    sky.visible_glossy = False  # reflections show the world's sky
    return sky


def _make_world(scene: Any) -> Any:
    """Make the sky that is seen: a ramp of colour from the horizon up; it lights nothing."""
    world = bpy.data.worlds.new("sky")
    scene.world = world
    world.use_nodes = True
    world.cycles_visibility.diffuse = False
    world.cycles.sampling_method = "NONE"  # the map for sampling it takes most of a second
    nodes, links = world.node_tree.nodes, world.node_tree.links
    direction = nodes.new("ShaderNodeTexCoord")
    axes = nodes.new("ShaderNodeSeparateXYZ")
    ramp = nodes.new("ShaderNodeValToRGB")
    links.new(direction.outputs["Generated"], axes.inputs[0])
    links.new(axes.outputs["Z"], ramp.inputs["Fac"])
    links.new(ramp.outputs["Color"], nodes["Background"].inputs["Color"])
    return world


def _aim(sun: Any, azimuth: float, elevation: float) -> None:
    # A sun of Blender shines down its −z axis; turned by (tilt, 0, spin) it stands at that place.
    sun.rotation_euler = (math.radians(90 - elevation), 0.0, math.radians(180 - azimuth))


def _plane_mesh(half_size: float) -> Any:
    corners = [(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)]
    points = [tuple(half_size * value for value in corner) for corner in corners]
    return _mesh("plane", points, [(0, 1, 2, 3)])


def _box_mesh() -> Any:
    points = [(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return _mesh("box", points, faces)


def _cylinder_mesh() -> Any:
    angles = np.linspace(0, 2 * np.pi, ROUND_SIDES, endpoint=False)
    ring = [(0.5 * math.cos(angle), 0.5 * math.sin(angle)) for angle in angles]
    points = [(x, y, -0.5) for x, y in ring] + [(x, y, 0.5) for x, y in ring]
    lower, upper = range(ROUND_SIDES), range(ROUND_SIDES, 2 * ROUND_SIDES)
    around = [(i, (i + 1) % ROUND_SIDES) for i in lower]
    sides = [(i, j, j + ROUND_SIDES, i + ROUND_SIDES) for i, j in around]
    mesh = _mesh("cylinder", points, [*sides, tuple(reversed(lower)), tuple(upper)])
    for face in mesh.polygons[:ROUND_SIDES]:
        face.use_smooth = True
    return mesh


def _ball_mesh() -> Any:
    """Make a sphere of diameter 1 out of rings of quadrilaterals, closed at the poles."""
    rings = ROUND_SIDES // 4
    polar = np.linspace(0, np.pi, rings + 1)
    around = np.linspace(0, 2 * np.pi, ROUND_SIDES, endpoint=False)
    points = [
        (0.5 * np.sin(p) * np.cos(a), 0.5 * np.sin(p) * np.sin(a), 0.5 * np.cos(p))
        for p in polar
        for a in around
    ]
    step = ROUND_SIDES  # from a point to the one below it, in the next ring
    sides = [(j, (j + 1) % step) for j in range(step)]
    starts = range(0, rings * step, step)
    faces = [(i + j, i + step + j, i + step + k, i + k) for i in starts for j, k in sides]
    mesh = _mesh("ball", points, faces)
    for face in mesh.polygons:
        face.use_smooth = True
    return mesh


def _mesh(name: str, points: list[Any], faces: list[Any]) -> Any:
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(points, [], faces)
    mesh.validate()
    mesh.update()
    return mesh


def _surface(description: Description) -> Any:
    material = bpy.data.materials.new("surface")
    material.use_nodes = True
    inputs = material.node_tree.nodes["Principled BSDF"].inputs
    inputs["Base Color"].default_value = _linear(description["colour"])
    inputs["Roughness"].default_value = description["roughness"]
    inputs["Specular IOR Level"].default_value = description["specular"]
    return material


def _glowing() -> Any:
    material = bpy.data.materials.new("glowing")
    material.use_nodes = True
    inputs = material.node_tree.nodes["Principled BSDF"].inputs
    inputs["Base Color"].default_value = (0.0, 0.0, 0.0, 1.0)
    inputs["Specular IOR Level"].default_value = 0.0
    inputs["Emission Color"].default_value = (1.0, 1.0, 1.0, 1.0)
    inputs["Emission Strength"].default_value = 1.0
    return material


def _linear(colour: list[float]) -> tuple[float, float, float, float]:
    """Return Blender's linear RGBA of an sRGB display colour (IEC 61966-2-1)."""
    low = [value / 12.92 for value in colour]
    high = [((value + 0.055) / 1.055) ** 2.4 for value in colour]
    red, green, blue = (b if v > 0.04045 else a for v, a, b in zip(colour, low, high, strict=True))
    return red, green, blue, 1.0


def _render_to(scene: Any, output: Path) -> None:
    """Render to a temporary name first: a file under its own name is a finished one."""
    partial = output.with_name(f"partial-{output.name}")
    scene.render.filepath = str(partial)
    bpy.ops.render.render(write_still=True)
    partial.replace(output)


if __name__ == "__main__":
    main(sys.argv[1])
