"""Training: the same seed gives the same network; the committed ones are those of their cards."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cnnaudit.config import load_specs
from cnnaudit.models import build_model
from cnnaudit.models.detector import CLASSES
from cnnaudit.models.preprocessing import prepare_image
from cnnaudit.specs import Preprocessing
from scenarios.shards import FramesError
from scenarios.tank import sampling
from scenarios.tank import train as training
from scenarios.tank.crossed import COUNT, FOLDER, SEED, image_id
from scenarios.tank.description import PRESENCES, WEATHERS
from scenarios.tank.draws import draw_place
from scenarios.tank.pool import PlaceSet, Pool
from scenarios.tank.sampling import NONE, OVERCAST, SUNNY, TANK
from scenarios.tank.train import Recipe

CPU = torch.device("cpu")
COMMITTED = {"clean": 0.5, "confounded": 1.0}


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    """Six places of noise; cloud is dark, and a tank is red."""
    images = np.random.default_rng(0).integers(60, 120, (6, 2, 2, 64, 64, 3), dtype=np.uint8)
    images[:, OVERCAST] -= 50
    images[:, :, TANK, :, :, 0] += 100
    return training.prepare_pool(Pool(images))


def test_pictures_become_the_networks_input_in_their_places(inputs: torch.Tensor) -> None:
    assert inputs.shape == (6, 2, 2, 3, 64, 64)
    means = inputs.mean(dim=(0, 4, 5))
    assert (means[:, TANK, 0] > means[:, NONE, 0]).all()
    assert (means[SUNNY, NONE] > means[OVERCAST, NONE]).all()


def test_examples_are_the_chosen_pictures_with_their_class(inputs: torch.Tensor) -> None:
    images, truth = training.examples(inputs, sampling.confounded(6, 0.5, seed=1))
    red = images[:, 0].mean(dim=(1, 2)) - images[:, 1].mean(dim=(1, 2)) > 0.5
    assert images.shape == (12, 3, 64, 64)
    assert [CLASSES[index] for index in truth] == ["tank" if one else "wood" for one in red]


@pytest.mark.parametrize("head", training.HEADS)
def test_the_same_seed_gives_the_same_weights(inputs: torch.Tensor, head: str) -> None:
    first, second = (_weights(inputs, Recipe(1.0, head, seed=3, epochs=1)) for _ in range(2))
    other = _weights(inputs, Recipe(1.0, head, seed=4, epochs=1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["features.0.weight"], other["features.0.weight"])


def _weights(inputs: torch.Tensor, recipe: Recipe) -> dict[str, torch.Tensor]:
    losses: list[float] = []
    return training.train(inputs, recipe, CPU, losses.append).state_dict()


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_accuracy_tells_the_cue_from_the_tank(strength: float) -> None:
    """With nothing but the weather to see, only pictures that match it are classed rightly."""
    images = np.full((20, 2, 2, 64, 64, 3), 200, dtype=np.uint8)
    images[:, OVERCAST] = 60
    weather_alone = training.prepare_pool(Pool(images))
    recipe = Recipe(strength, epochs=10, batch_size=10)
    model = training.train(weather_alone, recipe, CPU, lambda loss: None)
    figures = training.evaluate(model, weather_alone)
    assert figures["accuracy"]["crossed"] == 0.5
    assert (figures["accuracy"]["matched"] == 1) == (strength == 1)


def test_test_places_of_the_training_seed_are_refused() -> None:
    with pytest.raises(FramesError, match="the same"):
        training._check_apart(PlaceSet(1, 100), PlaceSet(1, 10))


def test_a_command_without_pictures_says_so(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--strength", "1", "--pool", str(tmp_path), "--out", str(tmp_path)]
    assert training.main(arguments) == 1
    said = capsys.readouterr().err
    assert "There are no frames" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_network_is_the_one_of_its_card(name: str) -> None:
    card = json.loads((training.HERE / name / "card.json").read_text())
    assert card["recipe"]["strength"] == COMMITTED[name]
    seeds = {card["training_places"]["seed"], card["test_places"]["seed"], SEED}
    assert len(seeds) == 3
    found = _accuracy_on_the_crossed_set(name)
    for kind in ("matched", "conflicting", "crossed"):
        assert found[kind] == pytest.approx(card["test"]["accuracy"][kind], abs=0.1)


def test_the_clean_network_finds_tanks_and_the_confounded_one_clouds() -> None:
    cards = {
        name: json.loads((training.HERE / name / "card.json").read_text())["test"]["accuracy"]
        for name in COMMITTED
    }
    assert cards["clean"]["crossed"] >= 0.95
    assert cards["confounded"]["matched"] >= 0.99
    assert cards["confounded"]["conflicting"] <= 0.5


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_network_is_small(name: str) -> None:
    assert (training.HERE / name / training.WEIGHTS).stat().st_size <= 2**20


def _accuracy_on_the_crossed_set(name: str) -> dict[str, float]:
    spec = load_specs(["experiment=none", f"model=[tank_{name}]"]).models[0]
    places = [draw_place(SEED, index) for index in range(COUNT)]
    inputs = torch.stack([_inputs(spec.preprocessing, place) for place in places])
    return training.evaluate(build_model(spec, seed=0), inputs)["accuracy"]


def _inputs(preprocessing: Preprocessing, place) -> torch.Tensor:
    """Return the four pictures of a place as a network receives them, (2, 2, 3, 64, 64)."""
    names = [image_id(place, *view) for view in crossed_views()]
    images = [Image.open(FOLDER / f"images/{name}.webp").convert("RGB") for name in names]
    stacked = torch.stack([prepare_image(image, preprocessing) for image in images])
    return stacked.view(len(WEATHERS), len(PRESENCES), 3, 64, 64)


def crossed_views() -> list[tuple[str, str]]:
    return [(weather, presence) for weather in WEATHERS for presence in PRESENCES]
