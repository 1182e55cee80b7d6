"""Training: the same seed gives the same network; mirroring and the card's figures are right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cnnaudit.config import load_specs
from cnnaudit.models.perception import SimpleCNN
from cnnaudit.specs import Preprocessing
from scenarios.description import Material
from scenarios.robot import train as training
from scenarios.robot.description import Obstacle
from scenarios.robot.frames import Frames, FrameSet
from scenarios.robot.geometry import sensor_truth
from scenarios.robot.train import Examples, Recipe

CPU = torch.device("cpu")
ONE_EPOCH = Recipe(epochs=1, batch_size=4)
COMMITTED = Path(training.HERE)


@pytest.fixture(scope="module")
def frames() -> Frames:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 128, 160, 3), dtype=np.uint8)
    return Frames(images, rng.random((10, 325)) < 0.1, np.arange(10, dtype=np.uint8) % 2)


@pytest.fixture(scope="module")
def examples(frames: Frames) -> Examples:
    return training.prepare_frames(frames, _preprocessing())


def _preprocessing() -> Preprocessing:
    return load_specs(["model=[perception]"]).models[0].preprocessing


def test_frames_become_the_networks_input(examples: Examples) -> None:
    assert examples.images.shape == (10, 3, 64, 80)
    assert examples.truth.shape == (10, 325)


def test_the_same_seed_gives_the_same_weights(examples: Examples) -> None:
    first, second = (_weights(examples, ONE_EPOCH) for _ in range(2))
    other = _weights(examples, Recipe(epochs=1, batch_size=4, seed=1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["decoder.1.weight"], other["decoder.1.weight"])


def _weights(examples: Examples, recipe: Recipe) -> dict[str, torch.Tensor]:
    losses: list[float] = []
    return training.train(examples, recipe, CPU, losses.append).state_dict()


def test_training_lowers_the_loss(examples: Examples) -> None:
    losses: list[float] = []
    training.train(examples, Recipe(epochs=8, batch_size=5), CPU, on_epoch=losses.append)
    assert losses[-1] < losses[0]


def test_scores_are_what_the_sigmoid_receives() -> None:
    model, images = SimpleCNN().eval(), torch.randn(2, 3, 64, 80)
    assert torch.allclose(training.scores(model, images).sigmoid(), model(images))


def test_a_mirrored_frame_has_the_mirrored_scenes_truth() -> None:
    paint = Material((0.5, 0.5, 0.5))
    truth = _cells(Obstacle("box", 0.1, 0.4, 0.1, 0.1, 0.1, paint, turn=20))
    expected = _cells(Obstacle("box", -0.1, 0.4, 0.1, 0.1, 0.1, paint, turn=-20))
    image = torch.randn(1, 3, 64, 80)
    seen = set()
    order = torch.Generator().manual_seed(0)
    for _ in range(20):
        images, cells = training.mirror_some(image, truth, order)
        mirrored = torch.equal(images, image.flip(3))
        assert torch.equal(cells, expected if mirrored else truth)
        seen.add(mirrored)
    assert seen == {True, False}


def _cells(obstacle: Obstacle) -> torch.Tensor:
    return torch.from_numpy(sensor_truth([obstacle]).astype(np.float32)).view(1, 325)


def test_figures_tell_scenes_with_and_without_obstacles_apart(frames: Frames) -> None:
    truth = frames.truth & (frames.obstacles > 0)[:, None]
    figures = training.evaluate(
        SimpleCNN().eval(), Frames(frames.images, truth, frames.obstacles), _preprocessing()
    )
    assert len(figures["auc_per_distance_centre_sensor"]) == 65
    assert figures["with_obstacles"]["scenes"] == figures["without_obstacles"]["scenes"] == 5
    assert figures["without_obstacles"]["auc"] is None
    assert 0.3 < figures["auc"] < 0.7  # untrained, and the truth is noise


def test_held_out_frames_of_the_training_seed_are_refused() -> None:
    with pytest.raises(training.FramesError, match="the same scenes"):
        training._check_apart(FrameSet(1, 100), FrameSet(1, 10))


def test_a_command_without_frames_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert training.main(["--frames", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "There are no frames" in said
    assert "Traceback" not in said


def test_the_committed_network_is_the_one_of_its_card() -> None:
    card = json.loads((COMMITTED / "card.json").read_text())
    SimpleCNN().load_state_dict(load_file(COMMITTED / "perception.safetensors"))
    assert card["held_out"]["auc"] >= 0.988
    assert card["training_frames"]["ground_coloured"] == 0
    assert card["training_frames"]["seed"] != card["held_out_frames"]["seed"]
    assert len(card["held_out"]["auc_per_distance_centre_sensor"]) == 65
