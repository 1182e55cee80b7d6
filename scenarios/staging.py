"""What the scene scripts share, in Blender's own Python: jobs, daylight, meshes, surfaces.

Imports bpy, NumPy and the standard library only. A jobs file holds a list of jobs, each with a
``scene`` (a description as JSON), the ``picture`` wanted of it, the ``output`` path of an 8-bit
PNG, and the render settings; a line ``DONE <output>`` follows each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import bpy
import numpy as np

ROUND_SIDES = 64

Description = dict[str, Any]


def run_jobs(jobs_file: str, stage: Any, pictures: Mapping[str, Callable[[Any], None]]) -> None:
    """Render every job of a file, one after the other, in this one process."""
    for job in json.loads(Path(jobs_file).read_text()):
        stage.set_scene(job["scene"])
        _set_quality(stage.scene, job)
        pictures[job["picture"]](stage)
        _render_to(stage.scene, Path(job["output"]))
        print(f"DONE {job['output']}", flush=True)


def empty_scene() -> Any:
    """Return Blender's scene with nothing in it, set up for Cycles."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    set_up_cycles(scene)
    return scene


class Daylight:
    """A sun, an even sky that lights, and a sky that is seen."""

    def __init__(self, scene: Any) -> None:
        self.sun = add(scene, "sun", bpy.data.lights.new("sun", "SUN"))
        self.sky = _add_sky(scene)
        self.world = _make_world(scene)

    def set(self, light: Description) -> None:
        """Make it the light of a description (``description.Light``)."""
        _aim(self.sun, light["azimuth"], light["elevation"])
        self.sun.data.angle = math.radians(light["softness"])
        self.sun.data.energy = math.pi * light["strength"]
        self.sky.data.energy = math.pi * light["sky"]
        self.set_sky_colours(light["horizon"], light["zenith"])

    def set_sky_colours(self, horizon: list[float], zenith: list[float]) -> None:
        """Colour the sky as the camera and the reflections see it."""
        elements = self.world.node_tree.nodes["Color Ramp"].color_ramp.elements
        elements[0].color = linear(horizon)
        elements[1].color = linear(zenith)

    def show_sunlight(self) -> None:
        """Leave the sun alone, so strong that level white ground which sees all of it is white."""
        elevation = math.pi / 2 - self.sun.rotation_euler.x
        self.sun.data.energy = math.pi / math.sin(elevation)
        self.sky.data.energy = 0.0
        self.set_sky_colours([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])

    def turn_off(self) -> None:
        """Let nothing shine but what glows."""
        self.sun.data.energy = 0.0
        self.sky.data.energy = 0.0
        self.set_sky_colours([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])


def _set_quality(scene: Any, job: Description) -> None:
    """Set the size in pixels, the samples per pixel, their limit, and whether to denoise."""
    scene.render.resolution_x = job["width"]
    scene.render.resolution_y = job["height"]
    scene.cycles.samples = job["samples"]
    scene.cycles.sample_clamp_indirect = job["clamp"]
    scene.cycles.use_denoising = job["denoise"]


def set_up_cycles(scene: Any) -> None:
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.use_adaptive_sampling = False
    scene.render.use_persistent_data = True
    # A box filter, so that box downsampling of any multiple of a size expects the same picture.
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


def set_up_mask(scene: Any, index: int) -> None:
    """Let the compositor show where things of this index are, white on black.

    It does so while ``scene.use_nodes`` is on. Things have the index 0 unless it is set, and so
    has the sky.
    """
    scene.view_layers[0].use_pass_object_index = True
    scene.use_nodes = True
    nodes, links = scene.node_tree.nodes, scene.node_tree.links
    nodes.clear()
    layers = nodes.new("CompositorNodeRLayers")
    chosen = nodes.new("CompositorNodeIDMask")
    chosen.index = index
    output = nodes.new("CompositorNodeComposite")
    links.new(layers.outputs["IndexOB"], chosen.inputs[0])
    links.new(chosen.outputs[0], output.inputs["Image"])


def add(scene: Any, name: str, data: Any) -> Any:
    thing = bpy.data.objects.new(name, data)
    scene.collection.objects.link(thing)
    return thing


def _add_sky(scene: Any) -> Any:
    """Add the sky's light on the ground: a lamp as wide as the sky, since lamps can be linked."""
    sky = add(scene, "sky", bpy.data.lights.new("sky", "SUN"))
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


def plane_mesh(half_size: float) -> Any:
    corners = [(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)]
    points = [tuple(half_size * value for value in corner) for corner in corners]
    return make_mesh("plane", points, [(0, 1, 2, 3)])


def box_mesh() -> Any:
    points = [(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return make_mesh("box", points, faces)


def cylinder_mesh() -> Any:
    angles = np.linspace(0, 2 * np.pi, ROUND_SIDES, endpoint=False)
    ring = [(0.5 * math.cos(angle), 0.5 * math.sin(angle)) for angle in angles]
    points = [(x, y, -0.5) for x, y in ring] + [(x, y, 0.5) for x, y in ring]
    lower, upper = range(ROUND_SIDES), range(ROUND_SIDES, 2 * ROUND_SIDES)
    around = [(i, (i + 1) % ROUND_SIDES) for i in lower]
    sides = [(i, j, j + ROUND_SIDES, i + ROUND_SIDES) for i, j in around]
    mesh = make_mesh("cylinder", points, [*sides, tuple(reversed(lower)), tuple(upper)])
    for face in mesh.polygons[:ROUND_SIDES]:
        face.use_smooth = True
    return mesh


def ball_mesh() -> Any:
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
    mesh = make_mesh("ball", points, faces)
    for face in mesh.polygons:
        face.use_smooth = True
    return mesh


def make_mesh(name: str, points: list[Any], faces: list[Any]) -> Any:
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(points, [], faces)
    mesh.validate()
    mesh.update()
    return mesh


def surface(description: Description) -> Any:
    material = bpy.data.materials.new("surface")
    material.use_nodes = True
    inputs = material.node_tree.nodes["Principled BSDF"].inputs
    inputs["Base Color"].default_value = linear(description["colour"])
    inputs["Roughness"].default_value = description["roughness"]
    inputs["Specular IOR Level"].default_value = description["specular"]
    return material


def glowing() -> Any:
    material = bpy.data.materials.new("glowing")
    material.use_nodes = True
    inputs = material.node_tree.nodes["Principled BSDF"].inputs
    inputs["Base Color"].default_value = (0.0, 0.0, 0.0, 1.0)
    inputs["Specular IOR Level"].default_value = 0.0
    inputs["Emission Color"].default_value = (1.0, 1.0, 1.0, 1.0)
    inputs["Emission Strength"].default_value = 1.0
    return material


def linear(colour: list[float]) -> tuple[float, float, float, float]:
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
