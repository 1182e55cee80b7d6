"""The journey: its notebook, its experiment planned in full, and a small real run of it."""

from __future__ import annotations

import copy
import json
import re
import sys
from itertools import product
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image
from torchvision.models import resnet18

from cnnaudit import shipped
from cnnaudit.audit import Invocation, prepare, run_audit
from cnnaudit.config import load_specs
from cnnaudit.image_sets import load_image_set
from cnnaudit.specs import AuditSpec, GridSpec
from cnnaudit.types import AuditError

NOTEBOOK = shipped.locate("scenarios/journey/journey.ipynb")
CALLED = Invocation("test", [], "")
TRAINED = ("alexnet", "vgg16", "resnet18", "resnet34", "resnet101", "resnet152")
TWINS = ("alexnet_untrained", "resnet18_untrained")
PICTURES = ("chelsea.png", "coffee.png", "astronaut.png", "motorcycle_left.png")
CLASSES = ("class 231", "class 285", "class 453")
VIEWS = ("first_layer", "first_pool", "deep_layer")


def journey(tmp_path: Path, models: tuple[str, ...], *more: str) -> AuditSpec:
    """Return the journey of some networks and the twins, on small inputs, nothing fetched."""
    models = (*models, *TWINS)
    small = {"weights": "none", "labels": "IMAGENET1K_V1"}
    small |= {"preprocessing.resize": "72", "preprocessing.crop": "[64,64]"}
    return load_specs(
        [
            "experiment=journey",
            f"model=[{','.join(models)}]",
            *(f"model.{model}.{key}={value}" for model in models for key, value in small.items()),
            f"output_dir={tmp_path / 'out'}",
            "device=cpu",
            *more,
        ]
    )


# --- the notebook ---------------------------------------------------------------------------------


def test_the_notebook_shows_what_it_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    committed = nbformat.read(NOTEBOOK, as_version=4)
    executed = copy.deepcopy(committed)
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(executed, timeout=60, kernel_name="python3", resources=where).execute()
    before, after = shown(committed), shown(executed)
    assert len(before) == len(after) > 5
    for one, other in zip(before, after, strict=True):
        assert (one is None) == (other is None)  # a picture
        if one is not None and other is not None:
            assert words(one) == words(other)
            # Another processor or torch rounds otherwise in the last digit that is shown.
            assert numbers(one) == pytest.approx(numbers(other), abs=0.02)


def shown(notebook: nbformat.NotebookNode) -> list[str | None]:
    """Return each output's text, or None of a picture; what is printed or warned of is refused."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert {output.output_type for output in outputs} == {"execute_result", "display_data"}
    return [
        None if "image/png" in output.data else str(output.data["text/plain"]) for output in outputs
    ]


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


def words(text: str) -> list[str]:
    return re.findall(r"[a-zA-Z_]+", text)


def test_the_notebook_can_be_committed() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 400_000
    assert not re.search(r"/(home|root|tmp|usr|Users|work)/", text)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    run = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert run == list(range(1, len(run) + 1))


# --- the experiment -------------------------------------------------------------------------------


def test_all_of_it_composes_and_plans(tmp_path: Path) -> None:
    ready = prepare(journey(tmp_path, TRAINED))
    audit = ready.audit
    assert [model.name for model in audit.models] == [*TRAINED, *TWINS]
    for twin in TWINS:
        (own,) = (model for model in audit.models if model.name == twin)
        assert (own.weights, own.pretrained) == (None, "")
    assert [spec.between for spec in audit.agreements] == ["target", "model"]
    (image_set,) = audit.image_sets
    assert image_set.grids == (GridSpec("image", "model", ()), GridSpec("image", "target", ()))
    planned = [(cell.model.name, cell.request) for cell in ready.plan.cells if cell.request]
    asked = {(model, one.technique.name, one.target.name) for model, one in planned}
    heatmaps = ("saliency", "guided_saliency", "cam", "grad_cam")
    assert {*product((*TRAINED, *TWINS), heatmaps, ("predicted", *CLASSES))} <= asked
    layers = {(model, one.technique.name): one.layer for model, one in planned}
    found = {model: [layers[model, view] for view in VIEWS] for model in (*TRAINED, *TWINS)}
    resnet, alexnet = ["conv1", "maxpool", "layer4"], ["features.0", "features.2", "features.11"]
    assert found == {
        "alexnet": alexnet,
        "vgg16": ["features.0", "features.4", "features.29"],
        **dict.fromkeys(("resnet18", "resnet34", "resnet101", "resnet152"), resnet),
        "alexnet_untrained": alexnet,
        "resnet18_untrained": resnet,
    }


def test_trained_weights_are_what_it_asks_for() -> None:
    by_name = {model.name: model for model in load_specs(["experiment=journey"]).models}
    assert {by_name[name].pretrained for name in TRAINED} == {"DEFAULT"}
    assert {by_name[name].preprocessing.size for name in by_name} == {(224, 224)}


def test_without_the_package_of_its_pictures_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(AuditError, match=r"'skimage' is not installed.*'cnnaudit\[journey\]'"):
        load_specs(["experiment=journey"])


def test_your_own_pictures_take_one_override(tmp_path: Path) -> None:
    folder = tmp_path / "meine Bilder, größere (2)"
    folder.mkdir()
    names = ("Katze auf Sofa.png", "кошка.png", "猫.jpg")
    for name in names:
        Image.new("RGB", (90, 70), (40, 90, 10)).save(folder / name)
    audit = journey(tmp_path, ("alexnet", "resnet18"), f"image_set.folder.root='{folder}'")
    found = load_image_set(audit.image_sets[0])
    assert sorted(item.id for item in found.items) == sorted(names)
    ready = prepare(audit)
    assert {item.id for cell in ready.plan.cells for item in cell.chunk} == {*names}
    assert len(audit.image_sets[0].grids) == 2


# --- a run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks, one with other weights than its untrained twin, on the default pictures."""
    tmp_path = tmp_path_factory.mktemp("journey")
    torch.manual_seed(7)
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "w.pt")
    audit = journey(
        tmp_path,
        ("alexnet", "resnet18"),
        f"model.resnet18.weights={tmp_path / 'w.pt'}",
        "technique=[saliency,guided_saliency,grad_cam,kernels]",
        "target.class.of=[285]",
    )
    outcome = run_audit(audit, CALLED)
    assert outcome.complete
    assert any("two targets" in finding for finding in outcome.findings)
    return outcome.run_dir


SHOWN = ("alexnet, untrained", "resnet18", *TWINS)  # as the report calls them


@pytest.fixture(scope="module")
def page(run_dir: Path) -> str:
    return (run_dir / "report.html").read_text(encoding="utf-8")


def panels(page: str, heading: str) -> list[tuple[list[str], list[str]]]:
    """Return the columns and rows of each panel below a heading, without the picture's own."""
    found = []
    for part in page.split(f"<summary>{heading}</summary>")[1:]:
        for panel in part.split("</details>")[0].split("<h4>")[1:]:
            columns = re.findall(r'<th scope="col">(.*?)</th>', panel)
            found.append((columns[1:], re.findall(r'<tr><th scope="row">(.*?)</th>', panel)))
    return found


def test_the_report_sets_pictures_against_models_and_targets(page: str) -> None:
    for technique in ("Saliency", "Guided saliency", "Grad-CAM"):
        across = panels(page, f"image × model: {technique}")
        assert len(across) == 2  # a panel for each target
        assert all(found == ([*SHOWN], [*PICTURES]) for found in across)
    across = panels(page, "image × target")
    assert len(across) == 4 * 3  # models by techniques
    assert all(found == (["predicted", "class"], [*PICTURES]) for found in across)


def test_the_report_shows_layers_and_what_the_network_receives(page: str) -> None:
    views = page.split('<section id="layers">')[1]
    for view in VIEWS:
        assert f"Activations ({view})" in views
    assert views.count('alt="Filters of ') == 4
    for section in ("agreement", "received", "regions"):
        assert f'id="{section}"' in page


def test_agreement_has_a_number_for_targets_and_models(run_dir: Path) -> None:
    table = pd.read_csv(run_dir / "results/agreement.csv", keep_default_na=False, na_values=[""])
    assert set(table.technique) == {"saliency", "guided_saliency", "grad_cam"}
    targets, models = (table[table.between == kind] for kind in ("target", "model"))
    assert set(zip(targets["first"], targets.second, strict=True)) == {("predicted", "class")}
    assert set(targets.model) == {"alexnet", "resnet18", *TWINS}
    assert len(models) == 6 * 3 * 2  # pairs, techniques, targets
    assert (table.total == len(PICTURES)).all()
    pairs = models.set_index(["first", "second", "technique", "target"]).correlation
    twins = pairs["alexnet", "alexnet_untrained", "saliency", "class"]
    assert twins == pytest.approx(1)  # both are untrained here, from one seed
    assert abs(pairs["resnet18", "resnet18_untrained", "saliency", "class"]) < 0.9


def test_kernels_have_their_numbers(run_dir: Path) -> None:
    kernels = json.loads((run_dir / "results/illustrations.json").read_text())["kernels"]
    by_model = {one["model"]: one for one in kernels}
    assert {name: (one["layer"], one["size"]) for name, one in by_model.items()} == {
        "alexnet": ("features.0", [11, 11]),
        "resnet18": ("conv1", [7, 7]),
        "alexnet_untrained": ("features.0", [11, 11]),
        "resnet18_untrained": ("conv1", [7, 7]),
    }
    for one in kernels:
        assert one["status"] == "ok"
        assert np.abs([one["smoothness"], one["untrained"]]).max() < 0.1  # noise, all of them
    resnets = by_model["resnet18"], by_model["resnet18_untrained"]
    assert resnets[0]["smoothness"] != resnets[1]["smoothness"]
    assert resnets[0]["untrained"] == resnets[1]["untrained"]
