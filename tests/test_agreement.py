"""How far two heatmaps agree: against scipy on the maps themselves, through the whole run."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

import cnnaudit
from cnnaudit.agreement import ABOUT, _line, agreement_table, find_agreement, to_compare
from cnnaudit.audit import Invocation, compute_rows, run_audit
from cnnaudit.config import load_specs
from cnnaudit.image_sets.files import read_image
from cnnaudit.models import build_model
from cnnaudit.models.preprocessing import prepare_image
from cnnaudit.specs import AuditSpec
from cnnaudit.types import MAPS_FILE, AuditError
from tests.conftest import write_manifest

CALLED = Invocation("test", [], "")
TARGETS = [
    "target=[all_outputs,outputs]",
    "target.outputs.of={sensor: left}",
]


def table_of(audit: AuditSpec) -> pd.DataFrame:
    run_dir = run_audit(audit, CALLED).run_dir
    return pd.read_csv(run_dir / "results/agreement.csv", keep_default_na=False, na_values=[""])


def spec(overrides: list[str], *more: str) -> AuditSpec:
    return load_specs(["experiment=none", *overrides, "metric=[mass_in_mask]", *more])


def images_of(audit: AuditSpec, root: Path, names: list[str]) -> torch.Tensor:
    preprocessing = audit.models[0].preprocessing
    files = [root / f"images/{name}.png" for name in names]
    return torch.stack([prepare_image(read_image(file), preprocessing) for file in files])


def ranked_alike(first: torch.Tensor, second: torch.Tensor) -> list[float]:
    pairs = zip(first.flatten(1).numpy(), second.flatten(1).numpy(), strict=True)
    return [float(spearmanr(*pair).statistic) for pair in pairs]


def test_techniques_and_targets_agree_as_scipy_says(overrides: list[str], image_set: Path) -> None:
    audit = spec(
        overrides, "technique=[saliency,hires_cam]", *TARGETS, "agreement=[targets,techniques]"
    )
    table = table_of(audit)
    names = [path.stem for path in sorted((image_set / "images").glob("*.png"))]
    images = images_of(audit, image_set, names)
    model, score_from = build_model(audit.models[0], 0), audit.models[0].score_from
    sensor_left = torch.tensor([1.0, 0, 0, 0, 0]).repeat(65)
    maps = {
        target: cnnaudit.explain(
            model, images, ["saliency", "hires_cam"], target=weights, score_from=score_from
        )
        for target, weights in (("all_outputs", torch.ones(325)), ("outputs", sensor_left))
    }
    scenes = [name[:8] for name in names]

    def expected(first: torch.Tensor, second: torch.Tensor) -> float:
        by_image = pd.Series(ranked_alike(first, second))
        return float(by_image.groupby(scenes).mean().mean())

    between = table[table.between == "target"].set_index("technique")
    for technique in ("saliency", "hires_cam"):
        wanted = expected(maps["all_outputs"][technique], maps["outputs"][technique])
        assert between.correlation[technique] == pytest.approx(wanted, abs=2e-4)
    between = table[table.between == "technique"].set_index("target")
    for target, both in maps.items():
        wanted = expected(both["saliency"], both["hires_cam"])
        assert between.correlation[target] == pytest.approx(wanted, abs=2e-4)
    assert set(table.units) == {3}
    assert set(table.total) == {24}
    assert (table.low <= table.correlation).all()
    assert (table.correlation <= table.high).all()


def test_a_model_agrees_with_itself_and_a_dead_heatmap_with_nothing(
    overrides: list[str], tmp_path: Path
) -> None:
    audit = spec(
        overrides,
        "technique=[saliency,edges,center_prior]",
        "+model.twin={builder: perception, weights: ${model.perception.weights}, "
        "preprocessing: ${model.perception.preprocessing}, score_from: decoder.3, "
        "task: structured_regression, target: all_outputs}",
        "+model.dead={builder: perception, weights: '" + str(_dead(tmp_path)) + "', "
        "preprocessing: ${model.perception.preprocessing}, score_from: decoder.3, "
        "task: structured_regression, target: all_outputs}",
        "agreement=[models]",
    )
    table = table_of(audit).set_index(["first", "second"])
    assert set(table.technique) == {"saliency"}  # references would agree by construction
    assert table.correlation["perception", "twin"] == pytest.approx(1)
    dead = table.loc["perception", "dead"]
    assert (dead.scored, dead.total, dead.units) == (0, 24, 0)
    assert dead.status.startswith("undefined")
    assert np.isnan(dead.correlation)


def _dead(tmp_path: Path) -> Path:
    from safetensors.torch import save_file

    from cnnaudit.models.perception import SimpleCNN

    path = tmp_path / "dead.safetensors"
    save_file({name: torch.zeros_like(x) for name, x in SimpleCNN().state_dict().items()}, path)
    return path


def test_levels_are_compared_within_the_pairs_of_a_contrast(
    overrides: list[str], image_set: Path
) -> None:
    audit = spec(
        overrides,
        "technique=[saliency,input_x_gradient]",
        "contrast=[colour]",
        "agreement=[levels]",
        "agreement.levels.contrast=colour",
    )
    table = table_of(audit).set_index("within")
    assert set(table.index) == {"left", "overhead"}
    names = [f"scene_0{n}-left-{level}" for level in ("equal", "different") for n in range(3)]
    for technique in ("saliency", "input_x_gradient"):
        maps = cnnaudit.explain(
            build_model(audit.models[0], 0),
            images_of(audit, image_set, names),
            technique,
            target="all_outputs",
            score_from=audit.models[0].score_from,
        )
        assert isinstance(maps, torch.Tensor)
        wanted = np.mean(ranked_alike(maps[:3], maps[3:]))
        left = table[table.technique == technique].loc["left"]
        assert left.correlation == pytest.approx(wanted, abs=2e-4)
        assert (left["first"], left["second"], left.total) == ("equal", "different", 3)


def test_pictures_without_a_level_are_at_none(overrides: list[str], image_set: Path) -> None:
    with (image_set / "manifest.csv").open(newline="", encoding="utf-8") as file:
        lines = [*csv.DictReader(file)]
    write_manifest(
        image_set, [line | {"light": line["light"] if "_02" not in line["id"] else ""}
                    for line in lines]
    )  # fmt: skip
    asked = ("contrast=[colour]", "agreement=[levels]", "agreement.levels.contrast=colour")
    table = table_of(spec(overrides, "technique=[saliency]", *asked))
    assert {*table["within"]} == {"left", "overhead"}
    assert {*table["total"]} == {2}


def test_models_that_see_different_parts_are_compared_where_both_look(tmp_path: Path) -> None:
    """Heatmaps that depend on the picture's own place agree once they are laid over each other."""
    ramp = np.linspace(0, 255, 120).astype(np.uint8)
    pixels = np.stack([np.tile(ramp, (90, 1))] * 3, axis=2)
    rng = np.random.default_rng(2)
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(rng.integers(0, 60, (90, 120, 3), dtype=np.uint8) + pixels // 2).save(
        folder / "one.png"
    )
    model = (
        "{{builder: torchvision, arch: resnet18, weights: none, labels: [a, b], preprocessing: "
        "{{resize: {}, crop: [64, 64], resample: bilinear, channels: rgb, "
        "mean: [0, 0, 0], std: [1, 1, 1]}}, task: classification, target: predicted}}"
    )
    audit = load_specs(
        [
            "experiment=none",
            "model=[]",
            f"+model.part={model.format(80)}",
            f"+model.whole={model.format(64)}",
            "image_set=[folder]",
            f"image_set.folder.root={folder}",
            "technique=[edges]",
            "agreement=[models]",
            "agreement.models.technique=[edges]",
            f"output_dir={tmp_path / 'out'}",
            "device=cpu",
        ]
    )
    (line,) = table_of(audit).to_dict("records")
    assert line["total"] == 1
    assert line["correlation"] > 0.5  # not laid over each other their ranks correlate by 0.01


def test_what_does_not_exist_is_refused(overrides: list[str]) -> None:
    for more, message in (
        (["agreement=[targets]", "agreement.targets.technique=[grad_can]"],
         "agreement.targets.technique: 'grad_can' .*Did you mean 'grad_cam'"),
        (["agreement=[levels]", "agreement.levels.contrast=colour"],
         "agreement.levels.contrast: 'colour'"),
        (["agreement=[levels]", "agreement.levels.contrast=colour", "contrast=[colour]",
          "contrast.colour.factor=model", "contrast.colour.levels=[a,b]"],
         "'colour' compares models, not levels of a factor; choose 'agreement=.models.'"),
        (["agreement=[levels]"], "agreement.levels.contrast must be given a value"),
        (["agreement=[targets]", "agreement.targets.between=targets"],
         "agreement.targets.between: 'targets' .*Did you mean 'target'"),
    ):  # fmt: skip
        with pytest.raises(AuditError, match=message):
            spec(overrides, *more)


def test_the_same_command_again_measures_nothing_again(overrides: list[str]) -> None:
    audit = spec(overrides, "technique=[saliency]", *TARGETS, "agreement=[targets]")
    first = run_audit(audit, CALLED).run_dir
    cells = sorted((audit.store_dir).glob("??/*"))
    second = run_audit(audit, CALLED).run_dir
    assert sorted((audit.store_dir).glob("??/*")) == cells
    name = "results/agreement.csv"
    assert (first / name).read_bytes() == (second / name).read_bytes()


def test_who_belongs_together_and_the_image_sets_name_count(
    overrides: list[str], image_set: Path
) -> None:
    """The heatmaps stay as they are, and are found in the store."""
    asked = (*overrides, "technique=[saliency]", *TARGETS, "agreement=[targets]")
    before = table_of(spec([*asked]))
    with (image_set / "manifest.csv").open(newline="", encoding="utf-8") as file:
        lines = [*csv.DictReader(file)]
    write_manifest(image_set, [line | {"scene": line["scene"][:7] + "0"} for line in lines])
    audit = spec([*asked])
    after = table_of(audit)
    assert (after["units"] < before["units"]).all()
    (own,) = audit.image_sets
    renamed = replace(audit, image_sets=(replace(own, name="renamed"),))
    assert set(table_of(renamed)["image_set"]) == {"renamed"}


def test_what_failed_once_is_measured_when_it_is_there(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (*TARGETS, "agreement=[targets]", "executor.workers=0")
    audit = spec(overrides, "technique=[saliency]", *own)
    with monkeypatch.context() as patched:
        patched.setattr("cnnaudit.image_sets.batches.read_picture", lambda _item: 1 / 0)
        assert set(table_of(audit)["scored"]) == {0}
    assert table_of(audit)["scored"].min() > 0


def test_heatmaps_that_are_damaged_after_the_plan_are_named(overrides: list[str]) -> None:
    """There may be gigabytes: they are not read as a whole, to be verified once more."""
    audit = spec(overrides, "technique=[saliency]", *TARGETS, "agreement=[targets]")
    ready, _, _ = compute_rows(audit)
    compared = to_compare(ready.audit, ready.image_sets, ready.plan.cells)
    damaged = next(ready.store.root.glob(f"??/*/{MAPS_FILE}"))
    os.truncate(damaged, 1000)
    with pytest.raises(AuditError, match=rf"{MAPS_FILE} cannot be read .*; run the audit again"):
        agreement_table(compared, ready.store)


def test_findings_say_it_in_words() -> None:
    about = {"image_set": "folder", "between": "target", "within": "*", "model": "net"}
    table = pd.DataFrame(
        {**about, "target": "", "technique": technique, "first": "predicted", "second": other,
         "correlation": value}
        for technique, other, value in (
            ("saliency", "bookcase", 0.9), ("saliency", "cat", 0.8),
            ("cam", "bookcase", 0.1), ("cam", "cat", 0.3), ("cam", "dog", np.nan),
        )
    )  # fmt: skip
    (finding,) = find_agreement(table, {"saliency": "Saliency", "cam": "CAM"})
    assert finding["text"] == (
        "Heatmaps of two targets agree by 0.85 under Saliency and 0.20 under CAM (mean rank "
        "correlation on folder); most alike are predicted and cat (0.55), least predicted and "
        "bookcase (0.50)."
    )
    turned = table.assign(correlation=-table.correlation)
    (finding,) = find_agreement(turned, {})
    assert "by −0.20 under cam and −0.85 under saliency" in finding["text"]
    assert finding["text"].endswith(
        "predicted and bookcase (−0.50), least predicted and cat (−0.55)."
    )


def test_a_unit_without_a_correlation_is_counted_and_not_averaged() -> None:
    pairs = pd.DataFrame({"unit": ["a", "b", "c"], "correlation": [0.2, np.nan, 0.4]})
    line = _line([""] * len(ABOUT), pairs)
    assert line["correlation"] == pytest.approx(0.3)
    assert (line["units"], line["scored"], line["total"]) == (2, 2, 3)
