"""A classifier of torchvision over pictures with labels, from the config to the report."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights, resnet18

from cnnaudit.audit import Executed, Invocation, _manifest, prepare, run_audit
from cnnaudit.config import load_specs
from cnnaudit.report.writing import write_report
from cnnaudit.specs import AuditSpec
from cnnaudit.types import AuditError
from tests.conftest import write_manifest
from tests.processes import loads

LABELS = ("tabby", "crane", "kite", "bookcase", "tank", "wood")
TRUTHS = ("tabby", "2", "tank", "")
CALLED = Invocation("test", [], "")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    root = tmp_path / "set"
    root.mkdir()
    mask = np.zeros((90, 120), np.uint8)
    mask[30:60, 40:80] = 255
    Image.fromarray(mask).save(root / "mask.png")
    lines = ["id,image,mask,truth"]
    for number, truth in enumerate(TRUTHS):
        pixels = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        lines.append(f"item {number},{number}.png,mask.png,{truth}")
    (root / "manifest.csv").write_text("\n".join(lines))
    return root


def audit_of(pictures: Path, tmp_path: Path, *overrides: str) -> AuditSpec:
    conf = tmp_path / "conf/image_set"
    conf.mkdir(parents=True, exist_ok=True)
    (conf / "labelled.yaml").write_text(
        f"labelled: {{uses: manifest, root: '{pictures}', exemplars: 4}}\n"
    )
    return load_specs(
        [
            "experiment=none",
            "model=[resnet18]",
            "model.resnet18.weights=none",
            f"model.resnet18.labels=[{','.join(LABELS)}]",
            "model.resnet18.preprocessing.resize=72",
            "model.resnet18.preprocessing.crop=[64,48]",
            "image_set=[labelled]",
            "technique=[saliency,grad_cam]",
            "metric=[mass_in_mask]",
            "device=cpu",
            f"output_dir={tmp_path / 'out'}",
            *overrides,
        ],
        tmp_path / "conf",
    )


def test_truths_that_are_all_of_another_task_are_said(pictures: Path, tmp_path: Path) -> None:
    cells = ("model.resnet18.task=structured_regression", "+model.resnet18.gives=logits")
    audit = audit_of(pictures, tmp_path, *cells)
    assert prepare(audit).audit.left_out == (
        "behaviour of resnet18 on labelled: it has truths, such as 'tabby', but none of a "
        "structured regression, which is a 1 or a 0 for each output with spaces between them, or "
        "a .csv of them",
    )
    manifest = pictures / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("tabby", "1 0 0 1 0 0"))
    outcome = run_audit(audit, CALLED)
    assert not outcome.left_out
    rows = pd.read_parquet(outcome.run_dir / "results/rows.parquet")
    (auc,) = rows[(rows.metric == "auc") & (rows.status == "ok")].itertuples()
    assert auc.item == "item 0"
    assert 'alt="truth map of item 0' in outcome.report.read_text()


def test_classes_on_axes_have_a_report(pictures: Path, tmp_path: Path) -> None:
    axes = ("+model.resnet18.outputs={row:2,column:3}", "target=[outputs]")
    audit = audit_of(pictures, tmp_path, *axes, "target.outputs.of={row:1}", "technique=[edges]")
    outcome = run_audit(audit, CALLED)
    assert outcome.complete
    assert "strongest answers; the truth is tabby" in outcome.report.read_text()


def test_an_audit_of_a_classifier(pictures: Path, tmp_path: Path) -> None:
    outcome = run_audit(audit_of(pictures, tmp_path), CALLED)
    assert outcome.complete
    rows = pd.read_parquet(outcome.run_dir / "results/rows.parquet")
    rows = rows[rows.technique == ""].set_index(["item", "metric"])  # of the answers
    shown = json.loads((outcome.run_dir / "results/illustrations.json").read_text())["pictures"]
    assert len(shown) == len(TRUTHS)
    for picture in shown:
        folder = tmp_path / "out/store" / picture["key"][:2] / picture["key"]
        answer = json.loads((folder / "picture.json").read_text())["prediction"]
        assert answer["labels"] == list(LABELS)
        assert sum(answer["values"]) == pytest.approx(1, abs=1e-3)
        for name in ("view.webp", "region-0.png"):
            with Image.open(folder / name) as image:
                assert image.size == (60, 80)  # 48 × 64 of 96 × 72
        item = picture["item"]
        correct, probability = rows.loc[(item, "correct")], rows.loc[(item, "truth_probability")]
        truth = TRUTHS[int(item[-1])]
        if not truth:
            assert (correct.status, correct.reason) == ("ineligible", "no_truth")
            continue
        index = int(truth) if truth.isdecimal() else LABELS.index(truth)
        assert probability.value == pytest.approx(answer["values"][index], abs=1e-4)
        assert correct.value == (np.argmax(answer["values"]) == index)
    manifest = json.loads((outcome.run_dir / "manifest.json").read_text())
    assert manifest["digests"]["weights"] == {"resnet18": None}
    page = outcome.report.read_text(encoding="utf-8")
    bars = re.findall(r'<table class="bars">(.*?)</table>', page, flags=re.DOTALL)
    rows_of = [re.findall(r'<th scope="row">(\w+)', table) for table in bars]
    best = [LABELS[index] for index in np.argsort(-np.array(answer["values"]), kind="stable")]
    assert len(bars) == len(TRUTHS)
    assert best[:5] in rows_of
    assert all(len(rows) == 5 and {*rows} <= {*LABELS} for rows in rows_of)


def test_labels_decide_what_the_truth_is(pictures: Path, tmp_path: Path) -> None:
    """The heatmaps of a truth are another class's when labels change places; others stay."""
    others = f"model.resnet18.labels=[{','.join(LABELS[::-1])}]"

    def fields_of(target: str, *overrides: str) -> set[str]:
        ready = prepare(audit_of(pictures, tmp_path, f"target=[{target}]", *overrides))
        return {cell.key for cell in ready.plan.cells if cell.request is not None}

    assert fields_of("truth").isdisjoint(fields_of("truth", others))
    assert fields_of("all_outputs") == fields_of("all_outputs", others)


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_page_with_no_picture_to_show(pictures: Path, tmp_path: Path, spoilt: bool) -> None:
    """Since none is asked for, or since the one that is cannot be read."""
    (pictures / "manifest.csv").write_text("id,image,truth\na,0.png,tabby\nb,1.png,kite\n")
    audit = audit_of(pictures, tmp_path, "executor.workers=0")
    (own,) = audit.image_sets
    if spoilt:
        for name in ("0.png", "1.png"):
            content = (pictures / name).read_bytes()
            (pictures / name).write_bytes(content[: len(content) // 2])
    own = replace(own, exemplars=1 if spoilt else 0)
    outcome = run_audit(replace(audit, image_sets=(own,)), CALLED)
    assert outcome.complete is not spoilt
    assert (
        json.loads((outcome.run_dir / "results/illustrations.json").read_text())["pictures"] == []
    )
    assert outcome.report.stat().st_size > 10_000


def test_outputs_lie_where_a_link_points(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "far/away/runs").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far/away/runs")
    places = (f"output_dir={tmp_path / 'link'}", f"store_dir={tmp_path / 'kept'}")
    outcome = run_audit(audit_of(pictures, tmp_path, *places), CALLED)
    assert write_report(outcome.run_dir.resolve()).exists()
    alone = tmp_path / "alone"
    shutil.copytree(outcome.run_dir, alone / "run")
    with pytest.raises(AuditError, match=r"the store .* has no complete cell"):
        write_report(alone / "run")


@pytest.mark.parametrize("key", ["output_dir", "store_dir"])
def test_what_is_written_is_not_audited_by_the_next_run(
    pictures: Path, tmp_path: Path, key: str
) -> None:
    (pictures / "manifest.csv").unlink()
    (pictures / "mask.png").unlink()
    sets = ("image_set=[folder]", f"image_set.folder.root={pictures}")
    with pytest.raises(AuditError, match=rf"{key}: .*/set/out lies below image_set.folder.root"):
        prepare(audit_of(pictures, tmp_path, *sets, f"{key}={pictures / 'out'}"))
    assert not (pictures / "out").exists()


def test_a_label_that_the_model_lacks_is_refused_before_work(
    pictures: Path, tmp_path: Path
) -> None:
    manifest = pictures / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("tank", "tanc"))
    with pytest.raises(AuditError, match=r"item 'item 2': 'tanc'.*Did you mean 'tank'"):
        prepare(audit_of(pictures, tmp_path))


def test_published_weights_count_by_their_content(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    keys, digests = [], []
    (pictures / "manifest.csv").write_text("id,image,truth\na,0.png,bookcase\n")
    for seed in (1, 2):
        torch.manual_seed(seed)
        made = tmp_path / "made.pth"
        torch.save(resnet18(weights=None).state_dict(), made)
        digest = hashlib.sha256(made.read_bytes()).hexdigest()
        source = made.rename(tmp_path / f"resnet18-{digest[:8]}.pth")
        monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", source.as_uri())
        own = ["model.resnet18.weights=DEFAULT", "model.resnet18.labels=null"]
        ready = prepare(audit_of(pictures, tmp_path, *own))
        keys.append({cell.key for cell in ready.plan.cells})
        (model,) = ready.audit.models
        assert model.labels[453] == "bookcase"
        manifest = _manifest(ready, tmp_path, CALLED, {}, Executed([], {}, ()), {})
        digests.append(manifest["digests"]["weights"] == {"resnet18": digest})
    assert not keys[0] & keys[1]
    assert all(digests)


def test_a_config_needs_no_torch() -> None:
    config = "from cnnaudit.config import load_specs"
    code = f"{config}; load_specs(['experiment=none', 'model=[resnet18]'])"
    assert not loads({"torch", "torchvision"}, code)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("preprocessing.crop=null", r"crop is missing: with the shorter side alone, resize: 256"),
        ("preprocessing.crop=[224,300]", r"crop: \[224, 300\] is not a part of what the picture"),
        ("preprocessing.crop=[0,2]", r"crop: \[0, 2\] is not a height and a width, at least 1"),
        ("preprocessing.resize=0", r"resize: 0 is not a whole number, at least 1"),
        ("labels=3", r"labels: 3 is not a list of labels"),
        ("labels=nowhere.txt", r"labels: .*nowhere.txt cannot be read as a text file"),
        ("arch=null", r"arch: None is not a text"),
    ],
)
def test_a_mistake_is_said_with_its_key(override: str, message: str) -> None:
    with pytest.raises(AuditError, match=rf"model.resnet18.*{message}"):
        load_specs(["experiment=none", "model=[resnet18]", f"model.resnet18.{override}"])


def test_labels_have_to_be_as_many_as_outputs(pictures: Path, tmp_path: Path) -> None:
    torch.save(resnet18(weights=None, num_classes=3).state_dict(), tmp_path / "w.pt")
    own = f"model.resnet18.weights={tmp_path / 'w.pt'}"
    with pytest.raises(AuditError, match=r"fc.weight has the shape \(3, 512\), \(6, 512\)"):
        prepare(audit_of(pictures, tmp_path, own))


def test_an_image_without_a_truth_has_its_rows_too(
    cli: Callable[..., tuple[int, str, str]], weights: Path, image_set: Path, tmp_path: Path
) -> None:
    """Where the truth is what is explained, it is ineligible, and no row is left out."""
    with (image_set / "manifest.csv").open() as file:
        lines = list(csv.DictReader(file))
    lines[0]["truth"] = ""
    write_manifest(image_set, lines)
    code, _, err = cli(
        *("run", "experiment=none", "model=[perception]", "image_set=[manifest]"),
        *("target=[truth]", "device=cpu", "technique=[saliency]"),
        *(f"image_set.manifest.root={image_set}", f"model.perception.weights={weights}"),
        f"output_dir={tmp_path / 'out'}",
    )
    assert code == 0, err
    (path,) = (tmp_path / "out").glob("*/*/results/rows.parquet")
    rows = pd.read_parquet(path)
    own = rows[(rows.technique == "saliency") & (rows["item"] == lines[0]["id"])]
    assert set(own.status) == {"ineligible"}
    assert set(own.reason) == {"no_truth"}
