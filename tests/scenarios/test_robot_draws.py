"""The drawn training scenes: reproducible, sensible, and never in the ground's colour by chance."""

from __future__ import annotations

import colorsys
from itertools import combinations

import numpy as np
import pytest

from scenarios.robot.draws import LEAST_HUE_CONTRAST, RED, draw_scene, hue_contrast
from scenarios.robot.geometry import sensor_truth

SCENES = [draw_scene(seed=5, index=index) for index in range(200)]


def test_a_scene_depends_on_seed_and_index_only() -> None:
    assert draw_scene(5, 17) == SCENES[17]
    assert draw_scene(6, 17) != SCENES[17]
    assert len(set(SCENES)) == len(SCENES)


def test_some_scenes_are_empty_and_some_are_full() -> None:
    counts = [len(scene.obstacles) for scene in SCENES]
    assert min(counts) == 0
    assert max(counts) == 3


def test_obstacles_differ_from_the_ground_in_hue() -> None:
    for scene in SCENES:
        for obstacle in scene.obstacles:
            difference = hue_contrast(obstacle.material.colour, scene.ground.colour)
            assert difference >= LEAST_HUE_CONTRAST


def test_shade_is_no_contrast_of_hue() -> None:
    assert hue_contrast((0.8, 0.6, 0.4), (0.4, 0.3, 0.2)) == pytest.approx(0, abs=1e-6)
    assert hue_contrast((1, 0, 0), (0, 1, 0)) == pytest.approx(2)


def test_a_share_of_obstacles_can_have_the_grounds_material() -> None:
    assert all(
        obstacle.material == scene.ground
        for scene in (draw_scene(5, index, ground_coloured=1.0) for index in range(20))
        for obstacle in scene.obstacles
    )


@pytest.mark.parametrize(("share", "low", "high"), [(1.0, 1.0, 1.0), (0.5, 0.4, 0.7), (0, 0, 0.2)])
def test_a_share_of_obstacles_can_be_red(share: float, low: float, high: float) -> None:
    scenes = [draw_scene(5, index, red=share) for index in range(200)]
    colours = [obstacle.material.colour for scene in scenes for obstacle in scene.obstacles]
    hues = [colorsys.rgb_to_hsv(*colour)[0] for colour in colours]
    assert low <= np.mean([min(hue, 1 - hue) <= RED + 1e-6 for hue in hues]) <= high


def test_that_obstacles_are_red_changes_little_else() -> None:
    red = [draw_scene(5, index, red=1.0) for index in range(200)]
    assert all(one.ground == other.ground for one, other in zip(SCENES, red, strict=True))
    assert np.mean([one.light == other.light for one, other in zip(SCENES, red, strict=True)]) > 0.5


def test_obstacles_do_not_overlap() -> None:
    for scene in SCENES:
        for first, second in combinations(scene.obstacles, 2):
            apart = (first.x - second.x) ** 2 + (first.y - second.y) ** 2
            assert (
                apart > ((min(first.width, first.depth) + min(second.width, second.depth)) / 2) ** 2
            )


def test_no_sensor_sees_an_obstacle_before_the_camera_does() -> None:
    # The picture's lower edge shows the ground from 0.08 m on; what is nearer cannot be learnt.
    for scene in SCENES:
        assert all(obstacle.y > 0.1 for obstacle in scene.obstacles)


def test_neither_few_nor_most_cells_are_true() -> None:
    share = sum(sensor_truth(scene.obstacles).mean() for scene in SCENES) / len(SCENES)
    assert 0.05 < share < 0.2
