"""Two runs compared: the numbers, what they mean, what is refused, and what is said of it."""

from __future__ import annotations

import copy
import csv
import itertools
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from scipy import stats

import cnnaudit.cli
from cnnaudit.comparing import Comparison, Refused, compare
from cnnaudit.comparing.changes import (
    BETTER,
    CHANGED,
    NARROWER,
    NOT_MEASURED,
    SAME,
    WIDER,
    WORSE,
    change_table,
    is_exactly_equal,
    why_not_measured,
)
from cnnaudit.comparing.effects import _meaning, declared_apart
from cnnaudit.comparing.findings import MIXED, find_changes, told_apart
from cnnaudit.comparing.forests import _record
from cnnaudit.comparing.judged import checks_of
from cnnaudit.comparing.page import told as told_of
from cnnaudit.comparing.page import write_comparison
from cnnaudit.comparing.pairing import Mismatch, Models, definitions, left_out, pair_models
from cnnaudit.comparing.side_by_side import _panel, tiles_of_both
from cnnaudit.models.perception import SimpleCNN
from cnnaudit.report.contrasts import _notes
from cnnaudit.report.run import Run, load
from cnnaudit.report.tiles import EXEMPLAR
from cnnaudit.types import AuditError
from tests.conftest import write_image_set
from tests.sample_run import EVIL, build_run
from tests.test_contrasts import make_rows

SCENES = [f"scene_{number:02}" for number in range(11)]
TECHNIQUES = "technique=[saliency,grad_cam,center_prior]"
TRUE_CELLS, MASS = "true_cell_probability", "mass_in_mask"


@dataclass(frozen=True)
class Runs:
    """One image set under two networks, and runs whose inputs are not the same."""

    before: Path
    after: Path
    painted: Path  # one of its pictures is another
    remasked: Path  # one of its masks is another
    bleached: Path  # its pictures are prepared in another way


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    root = write_image_set(folder / "set", SCENES)
    for name, seed in (("before", 5), ("after", 6)):
        torch.manual_seed(seed)
        save_file(SimpleCNN().state_dict(), folder / f"{name}.safetensors")
    for changed, what in (
        ("painted", "images/scene_03-left-equal"),
        ("remasked", "masks/scene_03"),
    ):
        shutil.copytree(root, folder / changed)
        path = folder / changed / f"{what}.png"
        Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path)
    return Runs(
        before=_run(folder, "before", "before"),
        after=_run(folder, "after", "after"),
        painted=_run(folder, "painted", "after", root=folder / "painted"),
        remasked=_run(folder, "remasked", "after", root=folder / "remasked"),
        bleached=_run(
            folder, "bleached", "after", "model.perception.preprocessing.mean=[.4,.5,.5]"
        ),
    )


def _run(folder: Path, name: str, weights: str, *more: str, root: Path | None = None) -> Path:
    arguments = [
        *("run", "model=[perception]", "image_set=[robot_lighting]", TECHNIQUES, "device=cpu"),
        f"metric=[{MASS}]",
        f"image_set.robot_lighting.root={root or folder / 'set'}",
        f"model.perception.weights={folder / weights}.safetensors",
        *(f"output_dir={folder / 'out'}", f"name={name}", *more),
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["cnnaudit", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cnnaudit.cli.main()
    assert stopped.value.code == 0
    (run_dir,) = (folder / "out" / name).iterdir()
    return run_dir


@pytest.fixture(scope="module")
def both(runs: Runs) -> tuple[Run, Run]:
    return load(runs.before), load(runs.after)


@pytest.fixture(scope="module")
def found(both: tuple[Run, Run]) -> Comparison:
    return compare(*both)


def _at(table: pd.DataFrame, **about: str) -> Mapping[str, Any]:
    chosen = table[np.logical_and.reduce([table[name] == value for name, value in about.items()])]
    assert len(chosen) == 1
    return chosen.iloc[0]


def _page(found: Comparison, folder: Path) -> Path:
    return write_comparison(found, find_changes(found), folder / "page.html")[0]


# --- the numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "technique", "region"), [(TRUE_CELLS, "", ""), (MASS, "saliency", "mask")]
)
def test_a_difference_is_what_rows_say_by_another_way(
    runs: Runs, found: Comparison, metric: str, technique: str, region: str
) -> None:
    tables = [pd.read_parquet(run / "results/rows.parquet") for run in (runs.before, runs.after)]
    values = {"": [], "light · colour": []}
    for table in tables:
        own = table[(table.metric == metric) & (table.technique == technique)]
        own = own[(own.status == "ok") & (own.colour != "")].set_index("item").sort_index()
        values["light · colour"].append(own[(own.light == "left") & (own.colour == "equal")])
    before, after = values["light · colour"]
    assert len(before) == len(SCENES)
    difference = (after.value - before.value).groupby(before.unit.astype(str)).mean().to_numpy()
    one = _at(found.changes, metric=metric, technique=technique, within="left · equal")
    low, high = stats.t.interval(
        0.95, len(difference) - 1, difference.mean(), stats.sem(difference)
    )
    assert one["region"] == region
    assert one["difference"] == pytest.approx(difference.mean())
    assert (one["low"], one["high"]) == (pytest.approx(low), pytest.approx(high))
    assert (one["before"], one["after"]) == (
        pytest.approx(before.value.mean()),
        pytest.approx(after.value.mean()),
    )
    signs = np.array(list(itertools.product((-1, 1), repeat=len(difference))))
    p = (np.abs(signs @ difference) >= abs(difference.sum()) * (1 - 1e-9)).mean()
    assert one["p"] == pytest.approx(p)
    assert (one["units"], one["paired"], one["items"]) == (11, 11, 11)


def test_p_is_adjusted_within_one_metric_of_one_image_set(found: Comparison) -> None:
    for _, family in found.changes.groupby(["image_set", "metric", "region"]):
        ordered = family.sort_values("p", kind="stable")
        adjusted, worst = [], 0.0
        for place, p in enumerate(ordered.p):
            worst = max(worst, min(1.0, p * (len(family) - place)))
            adjusted.append(worst)
        assert ordered.p_holm.to_numpy() == pytest.approx(adjusted)


def test_scenes_are_the_units_whatever_is_pooled(found: Comparison) -> None:
    pooled = _at(found.changes, metric=TRUE_CELLS, within="*")
    assert pooled["units"] == len(SCENES)
    assert pooled["paired"] == 4 * len(SCENES)  # two lights, two colours: elsewhere nothing is true


def test_places_are_the_declared_grids_in_their_order(found: Comparison) -> None:
    own = found.changes[found.changes.metric == "absolute_error"]
    assert own.within.tolist() == [
        "*",
        *("overhead · equal", "overhead · different", "left · equal", "left · different"),
        *("overhead · shadow", "overhead · none", "left · shadow", "left · none"),
    ]


def _with_another_image_set(run: Run) -> Run:
    """Return a run that measured a second image set: the same items, of another kind of unit."""
    again = run.rows.assign(image_set="again", unit="again " + run.rows["unit"].astype(str))
    again["light"] = run.rows["light"].astype(str).map({"left": "overhead", "overhead": "left"})
    more = with_rows(run, pd.concat([run.rows.astype({"light": str}), again], ignore_index=True))
    catalogue = copy.deepcopy(dict(run.manifest["catalogue"]))
    catalogue["image_sets"]["again"] = catalogue["image_sets"]["robot_lighting"]
    return replace(more, manifest={**run.manifest, "catalogue": catalogue})


def test_image_sets_whose_items_are_called_alike_are_apart(
    both: tuple[Run, Run], found: Comparison
) -> None:
    doubled = compare(*map(_with_another_image_set, both)).changes
    first, again = (doubled[doubled.image_set == name] for name in ("robot_lighting", "again"))
    numbers = ["difference", "units", "paired", "p", "p_holm"]
    assert first[numbers].to_numpy().tolist() == found.changes[numbers].to_numpy().tolist()
    turned = {"left · equal": "overhead · equal", "*": "*"}
    for mine, theirs in turned.items():
        own = first[(first.within == mine) & (first.metric == TRUE_CELLS)]
        other = again[(again.within == theirs) & (again.metric == TRUE_CELLS)]
        assert other[numbers].to_numpy().tolist() == own[numbers].to_numpy().tolist()


def test_a_region_that_one_run_alone_measured_is_not_compared(both: tuple[Run, Run]) -> None:
    before, after = both
    sky = before.rows[before.rows.metric == MASS].assign(region="sky")
    more = with_rows(before, pd.concat([before.rows.astype({"region": str}), sky]))
    assert set(compare(more, after).changes.region) == {"", "mask"}


def test_references_see_no_network_and_are_not_compared(found: Comparison) -> None:
    assert set(found.changes.technique) == {"", "saliency", "grad_cam"}


def test_an_effect_changes_by_the_difference_of_differences(runs: Runs, found: Comparison) -> None:
    effects = []
    for run in (runs.before, runs.after):
        table = pd.read_parquet(run / "results/rows.parquet")
        own = table[(table.metric == TRUE_CELLS) & (table.light == "left") & (table.status == "ok")]
        wide = own.assign(unit=own.unit.astype(str), colour=own.colour.astype(str)).pivot_table(
            index="unit", columns="colour", values="value", observed=True
        )
        effects.append((wide["equal"] - wide["different"]).to_numpy())
    one = _at(found.effects, contrast="colour", metric=TRUE_CELLS, within="left")
    change = effects[1] - effects[0]
    low, high = stats.t.interval(0.95, len(change) - 1, change.mean(), stats.sem(change))
    assert (one["before"], one["after"]) == tuple(
        pytest.approx(effect.mean()) for effect in effects
    )
    assert one["difference"] == pytest.approx(change.mean())
    assert (one["low"], one["high"]) == (pytest.approx(low), pytest.approx(high))


# --- the numbers, of rows that are made up --------------------------------------------------------


def _paired(rows: pd.DataFrame, before: Any = 0.5, after: Any = 0.5) -> pd.DataFrame:
    """Return rows of 12 scenes under two lights as pairs of two runs."""
    measured = {"value@before": before, "value@after": after, "flag@before": "", "flag@after": ""}
    rows = rows.assign(**measured)
    return rows.assign(value=rows["value@after"] - rows["value@before"])


def _changes_of(rows: pd.DataFrame, **more: Any) -> pd.DataFrame:
    about = {"higher_is_better": True}
    plain = {"binary": (), "factors": lambda _: ["light"], "grids": lambda _: []}
    levels = {"light": ("overhead", "left"), "colour": ("different", "equal")}
    run = SimpleNamespace(**plain | {"levels": lambda _: levels, "about": lambda *_: about} | more)
    other = SimpleNamespace(about=lambda *_: {"higher_is_better": True})
    return change_table(rows, other, run, 0).set_index("within")  # type: ignore[arg-type]


def test_without_a_grid_each_factor_has_its_places() -> None:
    rows = _paired(make_rows(), after=0.7)
    plain = _changes_of(rows)
    assert list(plain.index) == ["*", "overhead", "left"]
    for name, value in (("before", 0.5), ("after", 0.7), ("difference", 0.2)):
        assert plain[name].to_numpy() == pytest.approx(value)
    both = ["overhead · different", "overhead · equal", "left · different", "left · equal"]
    grid = {"rows": "colour", "cols": "light", "levels": ()}
    named = {"factors": lambda _: ["light", "colour"]}
    assert list(_changes_of(rows, **named, grids=lambda _: [grid]).index) == ["*", *both]
    narrow = {**grid, "levels": ("equal",)}
    found = _changes_of(rows, **named, grids=lambda _: [narrow])
    assert list(found.index) == ["*", "overhead · equal", "left · equal"]
    assert list(_changes_of(rows, grids=lambda _: [grid]).index) == ["*", "overhead", "left"]
    assert set(found.outcome) == {BETTER}
    unlike = {"about": lambda *_: {"higher_is_better": False}}
    assert set(_changes_of(rows, **unlike).outcome) == {CHANGED}


def test_a_family_of_tests_is_of_all_models_and_of_one_region() -> None:
    rows = _paired(make_rows(), after=0.7)
    every = [rows.assign(model=m, region=r) for m in ("m", "other") for r in ("mask", "sky")]
    found = _changes_of(pd.concat(every, ignore_index=True))
    assert (found.p_holm / found.p).to_numpy() == pytest.approx(6)  # two models at three places


def test_hits_that_are_the_same_are_no_certainty() -> None:
    rows = _paired(make_rows(), 1.0, 1.0)
    found = _changes_of(rows, binary={"mass"})
    low, high = stats.t.interval(0.95, 13, 0, stats.sem([*[0] * 12, -1, 1]))
    assert found.low.to_numpy() == pytest.approx(low)
    assert found.high.to_numpy() == pytest.approx(high)
    assert (_changes_of(rows)[["difference", "low", "high"]] == 0).all(axis=None)


def test_dead_heatmaps_are_counted_in_each_run_among_the_pairs() -> None:
    rows = _paired(make_rows())
    left = rows.light == "left"
    rows.loc[left & (rows.unit < "scene_03"), "flag@before"] = "dead"
    rows.loc[left & (rows.unit < "scene_06"), "flag@after"] = "dead"
    gone = left & (rows.unit < "scene_02")
    rows.loc[gone, ["value", "value@before", "value@after", "status"]] = [
        *[np.nan] * 3,
        "undefined",
    ]
    found = _changes_of(rows)
    assert list(found.dead_before) == pytest.approx([2 / 44, 0, 1 / 10])
    assert list(found.dead_after) == pytest.approx([8 / 44, 0, 4 / 10])
    assert list(zip(found.paired, found["items"], found.units, strict=True)) == [
        *((44, 48, 12), (24, 24, 12), (20, 24, 10))
    ]


def test_a_place_without_a_pair_has_no_numbers() -> None:
    rows = _paired(make_rows())
    gone = rows.light == "left"
    rows.loc[gone, ["value", "value@before", "value@after", "status"]] = [
        *[np.nan] * 3,
        "undefined",
    ]
    left = _changes_of(rows).loc["left"]
    assert left[["before", "after", "difference", "low", "p", "dead_before"]].isna().all()
    assert (left.units, left.paired, left["items"], left.outcome) == (0, 0, 24, NOT_MEASURED)


def test_equal_is_what_was_measured_and_is_0_everywhere() -> None:
    def of(*known: tuple[str, float]) -> bool:
        return is_exactly_equal(pd.DataFrame(known, columns=["outcome", "difference"]))

    assert of((SAME, 0.0), (NOT_MEASURED, 0.3))
    assert not of((SAME, 0.0), (SAME, 0.1))
    assert not of((NOT_MEASURED, 0.0))


def test_how_few_units_there_were_is_said_of_each_image_set() -> None:
    lines = [("z", 5), ("z", 2), ("a", 3), ("a", 3)]
    table = pd.DataFrame(lines, columns=["image_set", "units"]).assign(outcome=NOT_MEASURED)
    more = pd.DataFrame([("z", 30)], columns=["image_set", "units"]).assign(outcome=SAME)
    table = pd.concat([table, more])
    told = why_not_measured(table, lambda name: {"z": "scene", "a": "place"}[name])
    assert told == "too few units: 2 to 5 scenes of z, 3 places of a"
    measured = table.assign(outcome=np.where(table.image_set == "z", SAME, NOT_MEASURED))
    assert why_not_measured(measured, lambda _: "place") == "too few units: 3 places of a"
    alone = table[table.image_set == "a"]
    assert why_not_measured(alone, lambda _: "place") == "too few units: 3 places"


# --- what it means --------------------------------------------------------------------------------


def test_an_effect_that_turned_got_neither_narrower_nor_wider() -> None:
    shown = {"status": "ok", "p_holm": 0.001, "difference": -0.58}
    assert _meaning({**shown, "before": 0.30, "after": -0.28}) == CHANGED
    assert _meaning({**shown, "before": -0.30, "after": -0.88}) == WIDER
    assert _meaning({**shown, "before": 0.60, "after": 0.02}) == NARROWER


def test_a_run_compared_with_itself_shows_nothing(both: tuple[Run, Run]) -> None:
    same = compare(both[0], both[0])
    assert (same.changes.difference == 0).all()
    assert (same.changes[["low", "high"]] == 0).all(axis=None)
    assert (same.effects.difference == 0).all()
    assert set(same.changes.outcome) | set(same.effects.outcome) == {SAME}
    assert same.environment == same.config == ()
    assert all(one.before == one.after for one in same.checks)


def test_the_other_way_round_signs_and_meanings_turn(
    both: tuple[Run, Run], found: Comparison
) -> None:
    turned = compare(both[1], both[0])
    keys = ["metric", "technique", "within", "region"]
    for name in ("changes", "effects"):
        by = [*keys, "contrast"]
        first, second = (getattr(one, name).set_index(by).sort_index() for one in (found, turned))
        assert first.index.equals(second.index)
        assert (first.difference == -second.difference).all()
        assert (first.low == -second.high).all()
        assert (first[["p", "p_holm"]] == second[["p", "p_holm"]]).all(axis=None)
        opposite = {BETTER: WORSE, WORSE: BETTER, NARROWER: WIDER, WIDER: NARROWER}
        assert [opposite.get(one, one) for one in first.outcome] == second.outcome.tolist()
    assert {BETTER, WORSE, SAME} <= set(found.changes.outcome)
    assert set(found.effects.outcome) & {NARROWER, WIDER}
    nearer = found.effects.after.abs() < found.effects.before.abs()
    assert set(nearer[found.effects.outcome == NARROWER]) <= {True}
    assert set(nearer[found.effects.outcome == WIDER]) <= {False}


def test_places_stand_in_the_order_of_their_levels(
    found: Comparison, both: tuple[Run, Run]
) -> None:
    declared = both[1].levels("robot_lighting")["light"]
    for _, part in found.effects.groupby(["contrast", "metric", "technique", "region"], sort=False):
        assert [*part.within] == [level for level in declared if level in {*part.within}]


def test_a_contrast_that_is_declared_differently_is_named(both: tuple[Run, Run]) -> None:
    config = yaml.safe_load(both[1].config)
    config["contrast"]["colour"]["within"] = []
    other = replace(both[1], config=yaml.safe_dump(config))
    assert [*declared_apart(both[0], other)] == [
        "declared differently in both runs: contrast colour"
    ]


def test_a_config_is_parsed_once_a_run(
    both: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    parse, parsed = yaml.safe_load, []
    monkeypatch.setattr(yaml, "safe_load", lambda text: parsed.append(text) or parse(text))
    compare(*map(replace, both))  # copies, which have parsed nothing yet
    assert parsed.count(both[0].config) == parsed.count(both[1].config) == 1


def test_another_version_of_a_metric_is_told(both: tuple[Run, Run]) -> None:
    manifest = copy.deepcopy(dict(both[1].manifest))
    manifest["catalogue"]["metrics"][MASS]["version"] = "99"
    models = [Models("perception", "perception")]
    told = definitions(both[0], replace(both[1], manifest=manifest), models)
    assert "99" in told["metrics", MASS]


def test_what_a_metric_or_technique_came_to_is_compared(both: tuple[Run, Run]) -> None:
    def told(group: str, name: str, config: str = "", **about: Any) -> str:
        manifest = copy.deepcopy(dict(both[0].manifest))
        manifest["catalogue"][group][name].update(about)
        other = replace(both[0], manifest=manifest, config=config or both[0].config)
        return definitions(both[0], other, [Models("perception", "mended")]).get((group, name), "")

    where = "layer of perception → mended encoder.7 → "
    assert told("techniques", "grad_cam", layer={"mended": "encoder.4"}) == f"{where}encoder.4"
    assert told("techniques", "grad_cam", layer={}) == f"{where}None"
    config = yaml.safe_load(both[0].config)
    config["technique"]["grad_cam"]["layer"] = "encoder.7"  # as was found
    assert config != yaml.safe_load(both[0].config)
    said = told("techniques", "grad_cam", yaml.safe_dump(config), layer={"mended": "encoder.7"})
    assert said == ""
    assert told("metrics", MASS, higher_is_better=False) == "higher_is_better True → False"
    assert told("metrics", MASS, kind="distance").endswith("→ distance")
    assert told("metrics", MASS, range=[0, 2]).endswith("→ [0, 2]")


def test_what_numbers_depend_on_is_told_and_where_they_lie_is_not(both: tuple[Run, Run]) -> None:
    run = both[0]
    other = {"seed": 7, "tf32": True, "amp": "bfloat16", "determinism": "off"}
    config = {**yaml.safe_load(run.config), "output_dir": "else", "executor": {}, "report": {}}
    found = compare(
        run, replace(run, manifest={**run.manifest, **other}, config=yaml.safe_dump(config))
    )
    assert {path: now for path, _, now in found.environment} == other
    assert found.config == ()


def test_the_layer_that_is_told_is_the_second_runs(both: tuple[Run, Run]) -> None:
    before, after = both
    rows = after.rows.assign(layer=after.rows.layer.astype(str).replace("encoder.7", "encoder.4"))
    first = (rows["item"] == "scene_00-left-different") & (rows.technique == "grad_cam")

    def layer(rows: pd.DataFrame) -> set[str]:
        changes = compare(before, with_rows(after, rows)).changes
        return set(changes[(changes.technique == "grad_cam") & (changes.within == "*")].layer)

    assert layer(rows) == {"encoder.4"}
    assert layer(after.rows[~first]) == {"encoder.7"}  # of an item that the first run alone has


def test_how_many_items_differ_is_said_of_those_of_both(both: tuple[Run, Run]) -> None:
    before, after = both
    rows = after.rows[after.rows.unit.astype(str) < "scene_09"].astype({"light": str})
    rows.loc[rows["item"] == "scene_01-left-equal", "light"] = "overhead"
    with pytest.raises(Refused, match="the light of robot_lighting differ: of 1 of 72 items"):
        compare(before, with_rows(after, rows))


def test_a_run_of_answers_alone_lacks_no_target(both: tuple[Run, Run]) -> None:
    rows = both[0].rows[both[0].rows.target != ""]
    assert left_out(both[0], with_rows(both[0], rows), [Models(*["perception"] * 2)]) == []


def test_a_mismatch_concerns_its_own_image_set() -> None:
    assert not Mismatch("x", image_set="a").concerns("b", "m")
    assert Mismatch("x", image_set="a").concerns("a", "m")
    assert not Mismatch("x", model="m").concerns("a", "n")
    assert Mismatch("x", model="m").concerns("a", "m")


def with_rows(run: Run, rows: pd.DataFrame) -> Run:
    """Return a run whose folder has other rows."""
    folder = Path(tempfile.mkdtemp(dir=run.folder.parent))
    shutil.copytree(run.folder / "results", folder / "results")
    rows.to_parquet(folder / "results" / "rows.parquet", index=False)
    return replace(run, folder=folder)


def test_better_follows_what_each_metric_calls_better(found: Comparison) -> None:
    tested = found.changes[found.changes.outcome.isin([BETTER, WORSE])]
    for one in tested.to_dict("records"):
        higher_is_better = one["metric"] in (TRUE_CELLS, MASS, "auc")
        assert (one["outcome"] == BETTER) == ((one["difference"] > 0) == higher_is_better)
        assert one["p_holm"] <= 0.05


def test_heat_on_what_is_not_the_object_is_changed_and_no_more(both: tuple[Run, Run]) -> None:
    elsewhere = [
        with_rows(run, run.rows.assign(region=run.rows.region.astype(str).replace("mask", "sky")))
        for run in both
    ]
    found = compare(*elsewhere)
    heat = found.changes[found.changes.region == "sky"]
    assert set(heat.outcome) == {CHANGED, SAME}


def test_too_few_units_are_not_measured(both: tuple[Run, Run]) -> None:
    few = [with_rows(run, run.rows[run.rows.unit.astype(str) < "scene_04"]) for run in both]
    found = compare(*few)
    assert set(found.changes.outcome) == {NOT_MEASURED}
    assert all("could not be compared" in one.text for one in find_changes(found))


def test_what_was_not_measured_is_no_equality(both: tuple[Run, Run], tmp_path: Path) -> None:
    few = with_rows(both[0], both[0].rows[both[0].rows["unit"].astype(str) < "scene_04"])
    found = compare(few, few)
    why = "too few units: 4 scenes"
    says = [
        f"On robot_lighting nothing could be compared ({why}).",
        f"None of 47 differences could be measured ({why}).",
    ]
    assert [line for line in told_of(found, find_changes(found)) if "4 scenes" in line] == says
    text = _page(found, tmp_path).read_text()
    assert all(sentence in text for sentence in says)
    assert "exactly 0" not in text


def test_what_was_measured_is_told_apart_from_what_was_not(both: tuple[Run, Run]) -> None:
    rows = both[0].rows
    lacking = (rows["metric"] == TRUE_CELLS) & (rows["unit"].astype(str) > "scene_02")
    some = with_rows(both[0], rows[~lacking])
    found = compare(some, some)
    assert told_of(found, find_changes(found))[-2] == (
        "Of 47 differences: 42 exactly 0; 5 could not be measured (too few units: 3 scenes)."
    )


def test_each_metric_of_each_technique_has_a_sentence_made_of_its_numbers(
    found: Comparison,
) -> None:
    findings = find_changes(found)
    assert len(findings) == found.changes.groupby(["metric", "technique"]).ngroups
    kinds = [found.after.about("metrics", one.metric)["kind"] for one in findings]
    assert kinds == sorted(kinds)  # behaviour comes first
    for one in findings:
        own = found.changes[
            (found.changes.metric == one.metric) & (found.changes.technique == one.technique)
        ]
        own = own[own.within != "*"]
        changed = own[~own.outcome.isin([SAME])]
        most = (changed if len(changed) else own).difference.abs().max()
        assert f"{most:.2f}"[:4] in one.text
        assert sum(one.counts.values()) == len(own)
        if one.outcome == MIXED:
            assert {BETTER, WORSE} <= set(own.outcome)
        else:
            assert one.outcome in set(own.outcome)


@pytest.mark.parametrize(
    ("values", "scale", "texts"),
    [
        ((0.0712, 0.3), (0, 1), ("0.07", "0.30")),
        ((0.0712, 0.0689), (0, 1), ("0.071", "0.069")),
        ((0.5, 0.5), (0, 1), ("0.50", "0.50")),
        ((0.4986, 0.49864), (0, 1), ("0.49860", "0.49864")),
        ((-0.002, 0.001), (-1, 1), ("−0.002", "0.001")),
        ((12.31, 12.34), (0, np.inf), ("12.31", "12.34")),
        ((0.044491, 0.0445), (0, np.inf), ("0.04449", "0.04450")),
        ((123_456.1, 123_456.2), (0, np.inf), ("123,456.1", "123,456.2")),
        ((0.0, 0.0), (0, np.inf), ("0", "0")),
        ((np.nan, np.nan), (0, np.inf), ("–", "–")),
    ],
)
def test_numbers_that_differ_do_not_read_alike(
    values: tuple[float, float], scale: tuple[float, float], texts: tuple[str, str]
) -> None:
    assert told_apart(*values, scale=scale) == texts


def test_what_got_worse_leads(both: tuple[Run, Run]) -> None:
    rows, run = both[0].rows.copy(), both[0]
    heat = (rows.metric == MASS) & (rows.technique == "saliency") & (rows.colour == "equal")
    rows.loc[heat & (rows.light == "left"), "value"] += 0.5
    rows.loc[heat & (rows.light == "overhead"), "value"] -= 0.01
    rows.loc[rows.metric == TRUE_CELLS, "value"] += 0.2
    found = compare(run, with_rows(run, rows))
    findings = find_changes(found)
    lines = told_of(found, findings)
    assert lines[0].startswith("Under overhead light, for an obstacle of the ground's colour, the")
    assert re.search(r"mass in mask of Saliency fell .*: worse; better in hard light", lines[0])
    assert re.search(r"true cells rose .*: better;", lines[1])
    assert [one.technique for one in findings][:2] == ["", ""]  # as ever where all are listed


def test_what_got_better_by_less_than_can_be_seen_is_counted_only(both: tuple[Run, Run]) -> None:
    rows, run = both[0].rows.copy(), both[0]
    heat = (rows.metric == MASS) & (rows.technique == "saliency") & (rows.colour == "equal")
    rows.loc[heat & (rows.light == "left"), "value"] += 0.00001
    rows.loc[heat & (rows.light == "overhead"), "value"] -= 0.1
    found = compare(run, with_rows(run, rows))
    (line,) = (one for one in told_of(found, find_changes(found)) if "of Saliency fell" in one)
    assert re.search(r"worse; of \d+ places: 1 better, 1 worse", line)


def test_a_sentence_has_the_p_that_decides(found: Comparison) -> None:
    for one in find_changes(found):
        own = found.changes[
            (found.changes.metric == one.metric) & (found.changes.technique == one.technique)
        ]
        told = re.findall(r"p (?:=|<) (\d\.\d{3})\)", one.text)
        known = {f"{max(p, 0.001):.3f}" for p in own.p_holm}
        assert told
        assert {*told} <= known
        sides = re.findall(r"from (\S+) to (\S+) \((\S+) \[(\S+), (\S+)\]", one.text)
        assert all(before != after and low != high for before, after, _, low, high in sides)


def test_a_place_is_said_as_a_place(runs: Runs) -> None:
    said = _run(
        runs.before.parents[2],
        "said",
        "after",
        "image_set.robot_lighting.words.light={left: a lit picture, overhead: a picture}",
        "+image_set.robot_lighting.places.light={left: lit from the left, overhead: lit above}",
    )
    texts = [one.text for one in find_changes(compare(load(runs.before), load(said)))]
    told = [text for text in texts if text.startswith(("Lit from the left, for ", "Lit above, "))]
    assert len(told) > 2
    assert not [text for text in texts if "picture," in text]


def test_checks_stand_beside_each_other(runs: Runs, found: Comparison) -> None:
    before, after = (json.loads((run / "summary.json").read_text()) for run in
                     (runs.before, runs.after))  # fmt: skip
    assert {one.check: (one.before, one.after) for one in found.checks} == {
        name: (before["checks"][name], after["checks"][name]) for name in after["checks"]
    }
    assert found.verdicts == {"perception": (before["verdict"], after["verdict"])}
    for one in found.checks:
        assert all(a and b and a["within"] == b["within"] for a, b in one.judgements)


def test_items_without_a_value_in_one_run_are_left_out_and_counted(both: tuple[Run, Run]) -> None:
    before, after = both
    rows = after.rows.copy()
    rows["status"], rows["reason"] = rows["status"].astype(str), rows["reason"].astype(str)
    place = (rows.light == "left") & (rows.colour == "equal") & (rows.metric == TRUE_CELLS)
    failed = rows.index[place][:2]
    rows.loc[failed, ["value", "status", "reason"]] = [np.nan, "failed", "out of memory"]
    gone = rows.index[place][2:3]  # and one that this run does not have at all
    summary = {**after.summary, "status": "INCOMPLETE"}
    found = compare(before, replace(with_rows(after, rows.drop(gone)), summary=summary))
    one = _at(found.changes, metric=TRUE_CELLS, within="left · equal")
    assert (one["paired"], one["items"], one["units"]) == (8, 11, 8)
    assert found.incomplete == ["the second run"]
    assert found.verdicts["perception"][1] == "INCOMPLETE"


def test_what_could_have_no_value_has_not_failed(both: tuple[Run, Run]) -> None:
    """A picture without the region, which one run could read and the other could not."""
    before, after = both
    rows = after.rows.copy()
    rows["status"] = rows["status"].astype(str)
    rows.loc[rows.index[rows.status == "ineligible"][::2], "status"] = "failed"
    assert (rows.status == "failed").any()
    failed = with_rows(after, rows)
    for one, other in (((before, after), (before, failed)), ((after, before), (failed, before))):
        pd.testing.assert_frame_equal(compare(*one).changes, compare(*other).changes)


# --- which models ---------------------------------------------------------------------------------


def _named(run: Run, *names: str) -> Run:
    catalogue = {**run.manifest["catalogue"], "models": {name: {} for name in names}}
    return replace(run, manifest={**run.manifest, "catalogue": catalogue})


def test_models_are_paired_by_name_by_being_alone_or_as_declared(both: tuple[Run, Run]) -> None:
    run = both[0]
    one, other = _named(run, "a"), _named(run, "b")
    assert pair_models(one, other, ()) == (Models("a", "b"),)
    several, more = _named(run, "a", "b", "c"), _named(run, "b", "c", "d")
    assert pair_models(several, more, ()) == (Models("b", "b"), Models("c", "c"))
    declared = (Models("a", "b"),)
    assert pair_models(several, more, declared) == (Models("a", "b"), Models("c", "c"))
    assert pair_models(several, several, declared)[0] == Models("a", "b")
    assert pair_models(several, more, (Models("b", "d"),)) == (Models("b", "d"), Models("c", "c"))
    assert pair_models(one, other, declared * 2) == declared  # said twice
    with pytest.raises(AuditError, match=r"a, b, c.* d, e.*--pair"):
        pair_models(several, _named(run, "d", "e"), ())
    with pytest.raises(AuditError, match="'x' is no model of the second run; it has b, c, d"):
        pair_models(several, more, (Models("a", "x"),))


def test_a_model_that_was_renamed_is_compared(both: tuple[Run, Run], found: Comparison) -> None:
    before, after = both
    renamed = replace(
        with_rows(after, after.rows.assign(model="mended")),
        manifest=json.loads(json.dumps(after.manifest).replace('"perception"', '"mended"')),
        judgements=tuple({**one, "model": "mended"} for one in after.judgements),
    )
    again = compare(before, renamed)
    assert set(again.changes.model) == {"perception → mended"}
    assert again.changes.difference.tolist() == found.changes.difference.tolist()
    assert list(again.verdicts.values()) == list(found.verdicts.values())


def test_two_models_of_one_run_are_compared(both: tuple[Run, Run], found: Comparison) -> None:
    before, after = both
    rows = pd.concat([before.rows, after.rows.assign(model="mended")], ignore_index=True)
    run = _named(with_rows(before, rows.astype({"model": str})), "perception", "mended")
    again = compare(run, run, (Models("perception", "mended"),), force=True)
    assert again.changes.difference.tolist() == found.changes.difference.tolist()
    assert again.left_out == (
        "in the first run without a partner: model mended",
        "in the second run without a partner: model perception",
    )


def test_what_parts_two_models_of_one_run_is_said_of_the_pair(
    both: tuple[Run, Run], tmp_path: Path
) -> None:
    before, after = both
    rows = pd.concat([before.rows, after.rows.assign(model="mended")], ignore_index=True)
    named = _named(with_rows(before, rows.astype({"model": str})), "perception", "mended")
    digests = {**before.manifest["digests"], "weights": {"perception": "b5f5", "mended": "f436"}}
    config = yaml.safe_load(before.config)
    config["model"]["mended"] = {**config["model"]["perception"], "weights": "mended.safetensors"}
    run = replace(
        named,
        manifest={**named.manifest, "digests": digests, "batch_size": {"asked": 64, "mended": 8}},
        config=json.dumps(config),  # which is YAML too, without an alias
        judgements=(
            *before.judgements,
            *({**one, "model": "mended"} for one in after.judgements),
        ),
    )
    again = compare(run, run, (Models("perception", "mended"),), force=True)
    assert again.environment == (
        ("digests.weights.perception → mended", "b5f5", "f436"),
        ("batch_size.perception → mended", None, 8),
    )
    assert [path for path, *_ in again.config] == ["model.perception → mended.weights"]
    text = _page(again, tmp_path).read_text()
    assert '<p class="outcome"><span>perception → mended</span>' in text
    assert "in every row: mended" not in text
    assert compare(run, run).environment == compare(run, run).config == ()


def test_what_one_run_has_alone_is_said(both: tuple[Run, Run]) -> None:
    before, after = both
    rows = before.rows.assign(target=before.rows.target.astype(str).replace("all_outputs", "one"))
    manifest = json.loads(json.dumps(after.manifest))
    del manifest["catalogue"]["metrics"]["auc"]
    rest = after.rows[after.rows.metric != "auc"]
    found = compare(with_rows(before, rows), replace(with_rows(after, rest), manifest=manifest))
    assert found.left_out == (
        "in the first run alone: metric auc",
        "in the first run alone: target one",
        "in the second run alone: target all_outputs",
    )
    assert set(found.changes.technique) == {""}
    assert "auc" not in set(found.changes.metric)


def test_pictures_of_one_run_alone_are_counted_and_named(
    both: tuple[Run, Run], tmp_path: Path
) -> None:
    before, after = both
    few = with_rows(before, before.rows[before.rows["unit"].astype(str) < "scene_09"])
    found = compare(few, after)
    says = "16 pictures of robot_lighting, such as scene_09-left-different, scene_09-left-equal,"
    (said,) = found.left_out
    assert said.startswith(f"in the second run alone: {says}")
    assert compare(after, few).left_out == (said.replace("second", "first"),)
    assert f"not compared: {said}" in told_of(found, find_changes(found))
    text = _page(found, tmp_path).read_text()
    assert f"<li>{said}</li>" in text
    assert "<dd>robot_lighting, 72 of 88 images paired</dd>" in text
    assert "<dd>robot_lighting, 88 pairs</dd>" in _page(compare(*both), tmp_path).read_text()


# --- checks and heatmaps, side by side ------------------------------------------------------------


def _judging(run: Run, *judgements: Mapping[str, str]) -> Run:
    """Return a run with judgements that differ from one of its own as is said of each."""
    return replace(run, judgements=tuple({**run.judgements[0], **one} for one in judgements))


def _checks(verdicts: str) -> list[dict[str, str]]:
    return [
        {"check": name, "verdict": one} for name, one in zip("abcd", verdicts.split(), strict=True)
    ]


def test_checks_that_moved_come_first_and_of_them_the_worst(both: tuple[Run, Run]) -> None:
    run = both[0]
    found = checks_of(
        compare(
            _judging(run, *_checks("PASS FAIL PASS FAIL")),
            _judging(run, *_checks("PASS PASS FAIL FAIL")),
        )
    )
    assert [(one.title, _said(one)) for one in found] == [
        ("c", "PASS → FAIL"),
        ("b", "FAIL → PASS"),
        ("d", "FAIL → FAIL"),
        ("a", "PASS → PASS"),
    ]


def _said(one: Any) -> str:
    return " → ".join(side.text if side else "–" for side in (one.before, one.after))


def test_a_check_of_one_run_alone_has_no_verdict_in_the_other(both: tuple[Run, Run]) -> None:
    old, new = ({"check": name, "model": "", "verdict": "PASS"} for name in ("old", "new"))
    found = checks_of(compare(_judging(both[0], old), _judging(both[0], new)))
    assert {one.title: _said(one) for one in found} == {"old": "PASS → –", "new": "– → PASS"}


def test_judgements_that_moved_come_first_and_what_fell_furthest_leads(
    both: tuple[Run, Run],
) -> None:
    before = {"here": "PASS", "there": "INCONCLUSIVE", "up": "FAIL", "same": "PASS", "gone": "FAIL"}
    after = {"there": "FAIL", "here": "FAIL", "up": "PASS", "same": "PASS", "new": "FAIL"}
    sides = [
        _judging(
            both[0], *({"within": at, "verdict": one, "value": value} for at, one in side.items())
        )
        for side, value in ((before, 0.25), (after, 0.75))
    ]
    (check,) = checks_of(compare(*sides))
    assert [(line.places, _said(line)) for line in check.lines] == [
        (("new",), "– → FAIL"),
        (("here",), "PASS → FAIL"),
        (("there",), "INCONCLUSIVE → FAIL"),
        (("up",), "FAIL → PASS"),
        (("gone",), "FAIL → –"),
    ]
    assert [line.places for line in check.folded] == [("same",)]
    assert [[text[:4] for text in line.values] for line in check.lines] == [
        ["–", "0.75"],
        *[["0.25", "0.75"]] * 3,
        ["0.25", "–"],
    ]


@pytest.mark.parametrize("name", ["statistic", "bound", "target", "technique", "within", "level"])
def test_judgements_that_differ_in_one_thing_are_two(both: tuple[Run, Run], name: str) -> None:
    run = _judging(both[0], {"verdict": "PASS"}, {"verdict": "FAIL", name: "≥ 0.9"})
    (check,) = checks_of(compare(run, run))
    assert (len(check.lines), len(check.folded)) == (0, 2)


def test_a_check_and_its_numbers_are_marked_by_what_concerns_them(found: Comparison) -> None:
    about = [Mismatch("all"), Mismatch("mine", model="perception"), Mismatch("other", model="x")]
    marked = replace(found, mismatches=tuple(about))
    assert {one.alarms for one in checks_of(marked)} == {("all", "mine")}
    assert marked.concerns("robot_lighting", "perception") == ["all", "mine"]


def _rows_of(found: Comparison) -> dict[str, list[Any]]:
    """Return the tiles of each picture that both runs show, of either run."""
    (shown,) = tiles_of_both(found)
    return {
        panel.title: [tiles for _, tiles in panel.rows]
        for _, panels in shown.galleries
        for panel in panels
    }


def test_each_row_of_tiles_is_of_its_own_run(both: tuple[Run, Run], found: Comparison) -> None:
    old, new = (_rows_of(compare(run, run)) for run in both)
    shown = _rows_of(found)
    assert shown
    assert all(tiles == [old[title][0], new[title][1]] for title, tiles in shown.items())
    assert all(before != after for before, after in shown.values())


def test_exemplars_come_first_and_what_has_no_room_is_counted(
    both: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = both[0]
    last = run.pictures[-1]["item"]
    why = ({**one, "why": [EXEMPLAR] if one["item"] == last else ["worst"]} for one in run.pictures)
    chosen = replace(run, pictures=tuple(why))
    every = replace(run, pictures=tuple({**one, "why": [EXEMPLAR]} for one in run.pictures))
    monkeypatch.setattr("cnnaudit.comparing.side_by_side.MOST_TILES", 6)
    (shown,) = tiles_of_both(compare(every, chosen))  # 6: a picture and two heatmaps, twice
    ((_, (panel,)),) = shown.galleries
    assert last in (panel.title, panel.detail)
    rest = len(run.pictures) - 1
    assert shown.omitted.startswith(f"{rest} picture")


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("painted", "the images of robot_lighting differ: of 1 of 88 items, such as scene_03-left"),
        ("remasked", "the masks of robot_lighting differ: of 4 of 88 items, such as scene_03-"),
        ("bleached", "the preprocessing of perception differs: mean [0.5, 0.5, 0.5] → [0.4,"),
    ],
)
def test_other_inputs_are_refused_by_name_or_marked(
    cli: Callable, runs: Runs, tmp_path: Path, which: str, says: str
) -> None:
    page = tmp_path / "page.html"
    call = ("compare", str(runs.before), str(getattr(runs, which)), f"--output={page}")
    code, out, err = cli(*call)
    assert code == 2
    assert says in err
    assert "--force" in err
    assert "Traceback" not in err
    assert (out, page.exists()) == ("", False)
    code, out, _ = cli(*call, "--force")
    assert code == 0
    assert f"NOT COMPARABLE: {says}" in out
    text = page.read_text()
    assert text.index("NOT COMPARABLE</strong>") < text.index("<h1>")
    # Every part with numbers is marked: what changed, checks, differences, contrasts, tiles.
    assert text.count("Not comparable</strong>") >= 5
    assert text.count("not comparable</span></h4>") == text.count('<section class="measure"')
    assert set(pd.read_csv(page.with_suffix(".csv")).mismatch.str.contains(says, regex=False)) == {
        True
    }
    mismatches = json.loads(page.with_suffix(".json").read_text())["mismatches"]
    assert [says in one["says"] for one in mismatches] == [True]


def test_levels_that_moved_are_other_inputs(both: tuple[Run, Run]) -> None:
    before, after = both
    rows = after.rows.assign(light=after.rows.light.astype(str))
    rows.loc[rows["item"] == "scene_01-left-equal", "light"] = "overhead"
    with pytest.raises(Refused, match="the light of robot_lighting differ: of 1 of 88 items"):
        compare(before, with_rows(after, rows))


def test_what_is_measured_otherwise_is_said_beside_its_numbers(
    both: tuple[Run, Run], tmp_path: Path
) -> None:
    before, after = both
    config = after.config.replace("abs: false", "abs: true")
    assert config != after.config
    manifest = json.loads(json.dumps(after.manifest))
    manifest["catalogue"]["techniques"]["grad_cam"]["layer"] = {"perception": "encoder.4"}
    manifest["packages"]["torch"] = "1.0"
    found = compare(before, replace(after, config=config, manifest=manifest))
    assert set(found.definitions) == {("metrics", MASS), ("techniques", "grad_cam")}
    text = _page(found, tmp_path).read_text()
    assert "mass in mask is not the same in both runs: abs False → True" in text
    assert "layer of perception encoder.7 → encoder.4" in text
    assert '<th scope="row">packages.torch</th>' in text


def test_runs_without_anything_in_common_are_an_error(
    cli: Callable, runs: Runs, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs.after, copy)
    rows = pd.read_parquet(copy / "results/rows.parquet")
    rows.assign(image_set="other").to_parquet(copy / "results/rows.parquet")
    code, _, err = cli("compare", str(runs.before), str(copy))
    assert code == 1
    assert "nothing in common" in err


def test_pictures_without_a_mask_stand_side_by_side_though_nothing_is_measured(
    cli: Callable, overrides: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    Image.new("RGB", (160, 128), (90, 120, 60)).save(root / "cat.png")
    sets = ["image_set=[folder]", f"image_set.folder.root={root}", "metric=[overlap]"]
    own = [one for one in overrides if "robot_lighting" not in one]
    assert cli("run", *own, *sets, "experiment=none", "technique=[saliency]")[0] == 0
    (run_dir,) = (tmp_path / "out" / "audit").iterdir()
    page = tmp_path / "page.html"
    code, out, err = cli("compare", str(run_dir), str(run_dir), f"--output={page}")
    assert code == 0, err
    assert "There is no difference: no image has what is measured" in out
    text = page.read_text()
    assert "Nothing could be compared." in text
    assert text.count('alt="Saliency over cat.png') == 2  # before and after
    table = pd.read_csv(page.with_suffix(".csv"))
    assert table.empty
    assert {"metric", "difference", "mismatch"} <= {*table}
    assert json.loads(page.with_suffix(".json").read_text())["findings"] == []


# --- the command and its files --------------------------------------------------------------------


def test_sentences_are_made_once(
    cli: Callable, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = cnnaudit.comparing.findings._findings, []
    monkeypatch.setattr(
        "cnnaudit.comparing.findings._findings", lambda found: made.append(found) or make(found)
    )
    page = tmp_path / "page.html"
    assert cli("compare", str(runs.before), str(runs.after), f"--output={page}")[0] == 0
    assert len(made) == 1


def test_the_command_writes_a_page_a_table_and_sentences(cli: Callable, runs: Runs) -> None:
    code, out, err = cli("compare", str(runs.before), str(runs.after))
    assert code == 0, err
    folder = runs.after / f"comparison-{runs.before.name}"
    assert f"comparison: {folder / 'comparison.html'}" in out
    assert {path.name for path in folder.iterdir()} == {
        *("comparison.html", "comparison.csv", "comparison.json"),
    }
    told = json.loads((folder / "comparison.json").read_text())
    assert told["schema"] == 1
    assert told["before"]["run"] == runs.before.name
    assert told["models"] == [{"before": "perception", "after": "perception"}]
    assert any(one["text"] in out for one in told["findings"])
    with (folder / "comparison.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["contrast"] for line in lines} == {"", "colour", "shadow"}
    outcomes = [line["outcome"] for line in lines if not line["contrast"]]
    assert {name: outcomes.count(name) for name in set(outcomes)} == told["counts"]
    before = (folder / "comparison.html").read_bytes()
    assert cli("compare", str(runs.before), str(runs.after))[0] == 0
    assert (folder / "comparison.html").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "compare takes two run directories"),
        (("{run}",), "compare takes two run directories"),
        (("{run}", "nowhere"), "no run directory 'nowhere'"),
        (("{run}", "{run}", "--pear=a=b"), "Did you mean '--pair'"),
        (("{run}", "{run}", "--pair=a"), "--pair a: write a model of the first run, ="),
        (("{run}", "{run}", "--pair=a=b"), "'a' is no model of the first run; it has perception"),
        (("{run}", "{run}", "--output=x.txt"), "no .html file"),
        (("{run}", "{run}", "--output"), "--output requires argument"),
    ],
)
def test_a_wrong_call_is_one_message(
    cli: Callable, runs: Runs, arguments: tuple[str, ...], says: str
) -> None:
    code, _, err = cli("compare", *(one.format(run=runs.before) for one in arguments))
    assert code == 1
    assert says in err
    assert "Traceback" not in err


def test_help_states_the_exit_codes(cli: Callable) -> None:
    code, out, _ = cli("compare", "--help")
    assert code == 0
    assert "Exit codes: 0" in out


def test_both_runs_show_their_heatmaps_of_the_same_pictures(runs: Runs, tmp_path: Path) -> None:
    found = compare(load(runs.before), load(runs.after))
    page = _page(found, tmp_path)
    text = page.read_text()
    tiles = text[text.index('id="heatmaps"') : text.index('id="else"')]
    shown = [
        {one["item"] for one in json.loads((run / "results/illustrations.json").read_text())[
            "pictures"]} for run in (runs.before, runs.after)
    ]  # fmt: skip
    common = len(shown[0] & shown[1])
    assert tiles.count('<th scope="row">before</th>') == common
    assert tiles.count('<th scope="row">after</th>') == common
    assert tiles.count('class="shot"') == common * 2 * 3  # the picture and two techniques
    assert "Centre prior" not in tiles


def test_a_picture_that_is_called_as_its_item_is_named_once() -> None:
    made = SimpleNamespace(
        full_name=lambda picture: picture["name"],
        plain=lambda *_: "tile",
        run=SimpleNamespace(brightest=lambda _: ""),
    )
    shown: Any = SimpleNamespace(tiles=(made, made), kinds=())
    for name, detail in (("several", ""), ("scene_1 · left", "several")):
        picture = {"item": "several", "name": name}
        panel = _panel(shown, picture, picture)
        assert (panel.title, panel.detail) == (name, detail)


def test_dead_heatmaps_are_told_by_the_run_as_the_columns_name_it(found: Comparison) -> None:
    one = found.changes[found.changes.technique != ""].iloc[0].to_dict()
    line = _record({**one, "dead_before": 0.46, "dead_after": 0.02, "items": one["paired"]})
    assert _notes(line) == ["after: 2\u00a0% dead", "before: 46\u00a0% dead"]


def test_names_are_text_and_never_elements(tmp_path: Path) -> None:
    first, second = (build_run(tmp_path / name) for name in ("first", "second"))
    contrast = {
        "contrast": {
            f"{EVIL} colour": {
                "image_set": f"{EVIL} lighting",
                "factor": f"{EVIL} colour",
                "levels": [f"{EVIL} equal", f"{EVIL} different"],
                "blocks": ["unit", f"{EVIL} light"],
                "within": [f"{EVIL} light"],
            }
        },
        "evil": EVIL,
    }
    (first / "config.yaml").write_text(json.dumps(contrast))
    (second / "config.yaml").write_text(json.dumps(contrast | {"evil": f"{EVIL} twice"}))
    inputs = second / "results" / "inputs.parquet"
    pd.read_parquet(inputs).assign(images="others").to_parquet(inputs)
    found = compare(load(first), load(second), force=True)
    assert len(found.effects)
    page = _page(found, tmp_path)
    text, table = page.read_text(), page.with_suffix(".csv")
    assert "<script" not in text
    assert "onerror=window.ran=1>" not in text
    assert "&lt;script&gt;" in text
    assert "INCOMPLETE</strong>" in text
    assert text.index("INCOMPLETE</strong>") < text.index("NOT COMPARABLE</strong>")
    assert "=" not in {line[:1] for line in table.read_text().splitlines()}
