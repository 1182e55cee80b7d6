"""The digests of what a run was given: each says of one thing alone whether it changed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from PIL import Image

from cnnaudit.image_sets import load_image_set
from cnnaudit.inputs import write_inputs
from cnnaudit.specs import ImageSetSpec
from cnnaudit.types import INPUTS


def _table(root: Path) -> pd.DataFrame:
    spec = ImageSetSpec("set", "manifest", root, "scene", 1, (), {}, {})
    write_inputs(root / "inputs.parquet", [load_image_set(spec)])
    return pd.read_parquet(root / "inputs.parquet").set_index("item")


def _changed(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, list[str]]:
    return {name: list(before.index[before[name] != after[name]]) for name in INPUTS}


def test_a_digest_changes_with_what_it_is_of_alone(image_set: Path) -> None:
    before = _table(image_set)
    assert list(before.columns) == ["image_set", *INPUTS]
    assert _changed(before, _table(image_set)) == {"images": [], "masks": [], "truths": []}

    picture = image_set / "images/scene_00-left-equal.png"
    Image.open(picture).transpose(Image.Transpose.ROTATE_180).save(picture)
    found = _changed(before, _table(image_set))
    assert found == {"images": ["scene_00-left-equal"], "masks": [], "truths": []}

    mask = image_set / "masks/scene_01.png"
    Image.open(mask).transpose(Image.Transpose.ROTATE_180).save(mask)
    found = _changed(before, _table(image_set))
    assert len(found["masks"]) == 4  # two lights, two colours
    assert found["truths"] == []

    truth = image_set / "truth/scene_02.csv"
    truth.write_text(truth.read_text().replace("1", "0"))
    assert len(_changed(before, _table(image_set))["truths"]) == 4
