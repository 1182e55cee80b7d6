"""Planning: keys depend on what decides the numbers and on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
from safetensors.torch import save_file

from cnnaudit import plan
from cnnaudit.audit import Prepared, prepare
from cnnaudit.config import load_specs
from cnnaudit.image_sets import MOST_LEVELS
from cnnaudit.image_sets.batches import _Parts
from cnnaudit.models.perception import SimpleCNN
from cnnaudit.plan import CHUNK, check_planned, chunks, make_plan, swap_partners
from cnnaudit.specs import GridSpec
from cnnaudit.types import AuditError, File, Item

Plans = Callable[..., Prepared]

NETWORK = {"saliency", "guided_saliency", "grad_cam", "hires_cam", "layer_cam"}
REFERENCES = {"center_prior", "smooth_random", "edges"}  # they see no network


@pytest.fixture
def prepared(overrides: list[str]) -> Plans:
    return lambda *more: prepare(load_specs([*overrides, *more]))


def _keys(ready: Prepared) -> dict[str, str]:
    return {
        cell.request.technique.name if cell.request else "behaviour": cell.key
        for cell in ready.plan.cells
    }


def test_a_cell_per_technique_and_one_for_behaviour(prepared: Plans) -> None:
    ready = prepared()
    techniques = [technique.name for technique in ready.audit.techniques]
    assert sorted(_keys(ready)) == sorted([*techniques, "behaviour"])
    (unit,) = ready.plan.units  # they share one forward pass
    assert len(unit.cells) == len(ready.plan.cells)


def test_who_computes_a_unit_must_have_what_it_was_planned_with(prepared: Plans) -> None:
    ready = prepared()
    (unit,) = ready.plan.units
    check_planned(ready.audit, unit)
    for name in ("torch", "metrics"):
        cells = [replace(cell, fields={**cell.fields, name: "another"}) for cell in unit.cells]
        with pytest.raises(AuditError, match=rf"executor: {name} would be another one on "):
            check_planned(ready.audit, replace(unit, cells=tuple(cells)))


def test_roles_become_module_paths(prepared: Plans) -> None:
    layers = {c.request.layer for c in prepared().plan.cells if c.request}
    assert layers == {"", "encoder.4", "encoder.7"}
    role, path = prepared(), prepared("technique.grad_cam.layer=encoder.7")
    assert _keys(role) == _keys(path)


def test_what_does_not_change_numbers_changes_no_key(prepared: Plans, tmp_path: Path) -> None:
    same = ("batch_size=3", "executor.workers=2", "name=other", f"store_dir={tmp_path / 'else'}")
    assert _keys(prepared(*same)) == _keys(prepared())


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ("technique.grad_cam.layer=encoder.4", {"grad_cam"}),
        ("technique.saliency.reduce=sum", {"saliency"}),
        ("metric.pointing_game.tolerance=3", NETWORK | REFERENCES),
        ("target=[predicted]", NETWORK),
    ],
)
def test_a_change_touches_the_cells_that_it_concerns(
    prepared: Plans, change: str, touched: set[str]
) -> None:
    before, after = _keys(prepared()), _keys(prepared(change))
    assert {name for name in before if before[name] != after[name]} == touched


@pytest.mark.parametrize(
    "change",
    ["seed=1", "determinism=off", "model.perception.preprocessing.resample=bilinear"],
)
def test_what_every_number_depends_on_is_in_every_key(prepared: Plans, change: str) -> None:
    assert not set(_keys(prepared()).values()) & set(_keys(prepared(change)).values())


def test_weights_and_pictures_count_by_their_content(
    prepared: Plans, weights: Path, image_set: Path
) -> None:
    before = _keys(prepared())
    (image_set / "truth/none.csv").touch()  # a new date is no new content
    assert _keys(prepared()) == before
    picture = next((image_set / "images").iterdir())
    original = picture.read_bytes()
    picture.write_bytes(next(p for p in picture.parent.iterdir() if p != picture).read_bytes())
    assert not set(_keys(prepared()).values()) & set(before.values())
    picture.write_bytes(original)
    save_file(SimpleCNN().state_dict(), weights)
    after = _keys(prepared())
    assert {name for name in before if before[name] != after[name]} == NETWORK | {"behaviour"}


def test_a_picture_counts_in_its_chunk_and_a_mask_where_it_is_a_partners_too(
    prepared: Plans, image_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "CHUNK", 4)
    saliency = ("experiment=none", "technique=[saliency]", "metric=[overlap]")

    def keys() -> dict[tuple[str, ...], str]:
        cells = [cell for cell in prepared(*saliency).plan.cells if cell.request]
        return {tuple(item.id for item in cell.chunk): cell.key for cell in cells}

    def touched() -> set[tuple[str, ...]]:
        after = keys()
        return {chunk for chunk in before if before[chunk] != after[chunk]}

    before, ready = keys(), prepared(*saliency)
    partners = swap_partners(ready.image_sets[0])
    assert len(before) > 4
    shown = "scene_01-left-equal"
    picture = image_set / f"images/{shown}.png"
    original = picture.read_bytes()
    picture.write_bytes((image_set / "images/scene_02-left-none.png").read_bytes())
    assert touched() == {chunk for chunk in before if shown in chunk}
    picture.write_bytes(original)
    mask = image_set / "masks/scene_01.png"
    mask.write_bytes((image_set / "masks/scene_02.png").read_bytes())
    masked = {item.id for item in ready.image_sets[0].items if item.regions}
    masked &= {name for name in partners if name.startswith("scene_01")}
    own = {chunk for chunk in before if masked & {*chunk}}
    swapped = {chunk for chunk in before if masked & {partners[name].id for name in chunk}}
    assert touched() == own | swapped > own


def test_how_an_answer_is_read_counts_for_heatmaps_of_the_truth(prepared: Plans) -> None:
    def keys(*more: str) -> dict[str, str]:
        ready = prepared("target=[truth,all_outputs]", "technique=[saliency]", *more)
        return {one.request.target.name: one.key for one in ready.plan.cells if one.request}

    before, after = keys(), keys("+model.perception.gives=logits")
    assert {name for name in before if before[name] != after[name]} == {"truth"}


def test_what_sees_no_network_is_computed_once_for_all_models(prepared: Plans) -> None:
    same = ",".join(
        f"{key}:${{model.perception.{key}}}"
        for key in ("builder", "score_from", "task", "target", "preprocessing", "roles")
    )
    ready = prepared(f"+model.twin={{weights:null,{same}}}")
    cells: dict[str, list[str]] = {name: [] for name in REFERENCES}
    for cell in ready.plan.cells:
        if cell.request and cell.request.technique.name in cells:
            cells[cell.request.technique.name].append(cell.key)
    assert all(len(keys) == 2 and len(set(keys)) == 1 for keys in cells.values())
    assert ready.plan.keys == ready.plan.missing == 2 * (len(NETWORK) + 1) + len(REFERENCES)


def test_swap_partners_are_of_another_unit_at_the_same_levels(prepared: Plans) -> None:
    (image_set,) = prepared().image_sets
    partners = swap_partners(image_set)
    assert set(partners) == {item.id for item in image_set.items}
    for item in image_set.items:
        partner = partners[item.id]
        assert partner.factors["scene"] != item.factors["scene"]
        assert {**partner.factors, "scene": ""} == {**item.factors, "scene": ""}
    assert len({partner.id for partner in partners.values()}) == len(partners)
    alone = replace(image_set, items=image_set.items[:8])
    assert {item.factors["scene"] for item in alone.items} == {"scene_00"}
    assert swap_partners(alone) == {}


def test_a_factor_that_tells_images_apart_leaves_them_their_partners(prepared: Plans) -> None:
    (image_set,) = prepared().image_sets
    items = tuple(
        replace(item, factors={"kind": str(number % 2), "date": f"day {number}"})
        for number, item in enumerate(_items(MOST_LEVELS + 1))
    )
    dated = replace(image_set, items=items, factors=("kind", "date"))
    partners = swap_partners(dated)
    assert len(partners) == len(items)
    assert all(partners[one.id].factors["kind"] == one.factors["kind"] for one in items)
    shown = replace(dated.spec, grids=(GridSpec("kind", "date", ()),))
    assert swap_partners(replace(dated, spec=shown)) == partners  # a grid changes no number
    assert swap_partners(replace(dated, items=items[:-1])) == {}  # few enough to be conditions


def test_a_layer_that_does_not_exist_is_refused_with_those_that_do(prepared: Plans) -> None:
    with pytest.raises(AuditError, match=r"technique.grad_cam.layer: 'encoder.99' .*encoder.7"):
        prepared("technique.grad_cam.layer=encoder.99")
    with pytest.raises(AuditError, match="has no spatial output"):
        prepared("technique.grad_cam.layer=decoder.1")


def test_a_truth_that_does_not_fit_the_model_is_refused(prepared: Plans, image_set: Path) -> None:
    (image_set / "truth/none.csv").write_text("a,b\n1,2\n")
    with pytest.raises(AuditError, match=r"none.csv has 2 values, .*'perception' has 325 outputs"):
        prepared()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("metric.pointing_game.tolerance=-1", r"metric.pointing_game.tolerance: -1 is no radius"),
        ("metric.iou.threshold=2.0", r"metric.iou.threshold: 2.0 is no share"),
    ],
)
def test_parameters_out_of_range_are_refused_before_work_begins(
    prepared: Plans, change: str, message: str
) -> None:
    with pytest.raises(AuditError, match=message):
        prepared(change)


def _items(number: int) -> tuple[Item, ...]:
    return tuple(Item(f"item-{n}", File("x", b""), {}, None, {}) for n in range(number))


@pytest.mark.parametrize("number", [1, CHUNK, 2 * CHUNK, 5 * CHUNK, 8 * CHUNK])
def test_an_added_image_touches_one_chunk(number: int) -> None:
    """Also where that one gets too large, and is split."""
    items = _items(number)
    for name in ("another", "one more", "a third"):
        added = replace(items[0], id=name)
        before, after = (
            {frozenset(item.id for item in part) for part in chunks(some)}
            for some in (items, (*items, added))
        )
        assert len(before - after) == 1
        assert len(after - before) in (1, 2)
        items = (*items, added)


def test_the_order_of_items_is_of_no_account() -> None:
    items = _items(3 * CHUNK)
    assert [*chunks(items)] == [*chunks(items[::-1])]


@pytest.mark.parametrize("number", [1, CHUNK, CHUNK + 1, 7 * CHUNK])
def test_chunks_hold_every_item_once(number: int) -> None:
    parts = list(chunks(_items(number)))
    assert sorted(i.id for part in parts for i in part) == sorted(i.id for i in _items(number))
    assert max(map(len, parts)) <= CHUNK
    assert len(parts) < 2.5 * number / CHUNK + 1


def test_batches_of_one_size_follow_each_other_the_largest_first(prepared: Plans) -> None:
    """Of every model, whose units stay together: its weights are loaded once."""
    ready = prepared("model=[perception,perception_mixed]", "batch_size=32")
    image_set = replace(ready.image_sets[0], items=_items(9 * CHUNK))
    models = ready.audit.models
    units = make_plan(ready.audit, [image_set], {one.name: () for one in models}, ready.store).units
    assert [name for name, _ in groupby(unit.model.name for unit in units)] == [
        one.name for one in models
    ]
    for model in models:
        sizes = [_largest_batch(unit.chunk, 32) for unit in units if unit.model == model]
        assert len({*sizes}) > 2
        assert sizes == sorted(sizes, reverse=True)


def _largest_batch(chunk: tuple[Item, ...], most: int) -> int:
    """Return the size of the largest one, as the pictures are read."""
    parts = _Parts(most)
    parts.begin([(chunk, (None,) * len(chunk))])
    return max(map(len, parts))
