"""Interesting regions as files: a picture for each heatmap, and a table that says where it lies."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnnaudit.audit import Invocation, run_audit
from cnnaudit.config import load_specs
from cnnaudit.regions import file_name, write_regions
from cnnaudit.store import Store
from tests.sample_run import EVIL, build_run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The regions of the sample run with hostile names."""
    folder = tmp_path_factory.mktemp("hostile")
    run = build_run(folder)
    pictures = json.loads((run / "results/illustrations.json").read_text())["pictures"]
    write_regions(pictures, Store(folder / "store"), run / "regions")
    return run / "regions"


@pytest.fixture(scope="module")
def table(written: Path) -> pd.DataFrame:
    return pd.read_csv(written / "regions.csv", keep_default_na=False, dtype=str)


def test_every_heatmap_has_a_row_and_every_region_a_picture(
    written: Path, table: pd.DataFrame
) -> None:
    assert len(table) == 2 * (12 * 2 + 2 * 2 * 2)  # models, items by techniques by targets
    there = table[table["reason"] == ""]
    files = {path.relative_to(written).as_posix() for path in written.rglob("*.png")}
    assert files == set(there["file"])
    assert len(files) == len(there)
    assert (table.loc[table["reason"] != "", ["file", "left", "share"]] == "").all(axis=None)


def test_a_box_lies_in_the_picture_where_its_crop_says(written: Path, table: pd.DataFrame) -> None:
    for one in table[table["reason"] == ""].itertuples():
        crop = np.asarray(Image.open(written / one.file))
        left, top, right, bottom = map(int, (one.left, one.top, one.right, one.bottom))
        assert crop.shape == (bottom - top, right - left, 4)
        assert 0 <= left < right <= int(one.width) == 160
        assert 0 <= top < bottom <= int(one.height) == 128
        assert (crop[..., 3] > 0).sum() == pytest.approx(float(one.share) * 160 * 128)
        assert one.threshold == "0.3"


def test_a_heatmap_without_a_region_says_why(table: pd.DataFrame) -> None:
    reasons = set(table["reason"]) - {""}
    assert reasons == {"dead: zero everywhere", f"failed: {EVIL} out of memory"}


def test_names_become_safe_and_stay_apart() -> None:
    names = {"model": "../m", "image_set": "..", "item": "a/b\0", "technique": "t", "target": ""}
    path = file_name(names)
    assert not path.is_absolute()
    assert path.parts[:2] == ("_m", "_")
    assert path.name.startswith("a_b_-t--")
    assert file_name(names | {"item": "a_b_"}) != path
    assert len(file_name(names | {"item": "x" * 999}).name) < 255


def test_a_picture_is_cut_where_the_heatmap_is_over_the_threshold(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    view = np.full((4, 6, 3), 100, np.uint8)
    heat = np.zeros((4, 6), np.uint8)
    heat[1, 2:4] = 255
    store.write("a" * 64, {"view.webp": _png(view)}, {})
    about = json.dumps({"dead": False, "brightest": 1.0}).encode()
    store.write("b" * 64, {"heatmap.png": _png(heat), "heatmap.json": about}, {})
    store.write("c" * 64, {"heatmap.png": _png(heat * 0 + 9), "heatmap.json": about}, {})
    heatmaps = [
        {"technique": name, "target": "all", "key": key * 64, "status": "ok", "reason": ""}
        for name, key in (("one", "b"), ("flat", "c"))
    ]
    channels = {"technique": "view", "target": "", "key": None, "status": "failed", "reason": ""}
    picture = {"model": "m", "image_set": "s", "item": "=i", "key": "a" * 64}
    write_regions([{**picture, "heatmaps": [*heatmaps, channels]}], store, tmp_path / "regions")
    table = pd.read_csv(tmp_path / "regions/regions.csv", keep_default_na=False, dtype=str)
    first, second = table.to_dict("records")
    assert [first[side] for side in ("left", "top", "right", "bottom")] == ["2", "1", "4", "2"]
    assert first["item"] == "'=i"  # what a spreadsheet would run
    assert (second["reason"], second["left"]) == ("flat: the same everywhere", "")


def test_a_run_writes_them_where_it_is_asked(overrides: list[str]) -> None:
    asked = ["experiment=none", "technique=[saliency,activations]", "metric=[mass_in_mask]"]
    audit = load_specs([*overrides, *asked, "regions=true"])
    outcome = run_audit(audit, Invocation("", (), ""))
    table = pd.read_csv(outcome.run_dir / "regions/regions.csv")
    assert set(table["technique"]) == {"saliency"}
    assert table["file"].map(lambda name: (outcome.run_dir / "regions" / name).exists()).all()


def _png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()
