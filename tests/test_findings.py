"""Findings: sentences made from means and contrasts, which say no more than is there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from cnnaudit.contrasts import contrast_table
from cnnaudit.findings import find
from cnnaudit.specs import ContrastSpec, GridSpec
from cnnaudit.summary import summarise
from cnnaudit.types import File, ImageSet, Item
from tests.test_contrasts import COLOUR, make_image_set, make_rows
from tests.test_summary import CATALOGUE, image_set, make_row, rows

NONE = pd.DataFrame()
__all__ = ["image_set", "rows"]  # fixtures


def _find(
    summary: pd.DataFrame,
    image_set: ImageSet,
    contrasts: pd.DataFrame | None = None,
    declared: tuple[ContrastSpec, ...] = (),
) -> list[dict[str, str]]:
    return find(
        summary,
        pd.DataFrame() if contrasts is None else contrasts,
        declared,
        [image_set],
        CATALOGUE,
    )


def test_findings_say_the_largest_difference_first_by_behaviour(
    rows: pd.DataFrame, image_set: ImageSet
) -> None:
    behaviour, heatmap = _find(summarise(rows), image_set)
    assert behaviour["technique"] == ""
    assert "0.01 for the same colour" in behaviour["text"]
    assert "0.90 for colour 'different'" in behaviour["text"]
    assert behaviour["text"].startswith("From above the probability is 0.01")
    assert "(m, 2 scenes)" in behaviour["text"]
    assert heatmap["technique"] == "cam"
    assert "the mass in mask of CAM is 0.20 for the same colour and 0.60" in heatmap["text"]
    assert "smallest at light 'left': 0.40 and 0.60" in heatmap["text"]


def test_a_region_that_one_level_alone_has_is_a_finding(
    rows: pd.DataFrame, image_set: ImageSet
) -> None:
    """Only where a shadow lies alone can be said how much lies on it."""
    lacking = {"value": None, "chance": None, "lift": None, "status": "ineligible"}
    other = (rows.colour == "different") & (rows.metric == "mass")
    rows.loc[other, list(lacking)] = list(lacking.values())
    _, heatmap = _find(summarise(rows), image_set)
    assert heatmap["text"] == (
        "At light 'left' the mass in mask of CAM is 0.40 for the same colour (m, 2 scenes, by "
        "chance 0.10); it is lowest from above: 0.20."
    )


def test_one_mean_that_has_no_counterpart_is_told_once(image_set: ImageSet) -> None:
    lines = pd.DataFrame([make_row("a", "equal", "left", 0.4), make_row("b", "equal", "left", 0.2)])
    (found,) = _find(summarise(lines), image_set)
    assert found["text"] == (
        "At light 'left' the mass in mask of CAM is 0.30 for the same colour (m, 2 scenes, by "
        "chance 0.10)."
    )


def test_what_sees_no_network_is_no_finding() -> None:
    """A reference differs with the pictures; it stands in the tables."""
    rows = make_rows({"left": -0.1, "overhead": -0.4})
    table = contrast_table(rows, [COLOUR], seed=0)
    catalogue = {**CATALOGUE, "techniques": {"cam": {"title": "CAM", "reference": True}}}
    plain = make_image_set()
    for spec in (plain.spec, replace(plain.spec, grids=(GRID,))):
        asked = summarise(rows), table, (COLOUR,), [replace(plain, spec=spec)]
        assert len(find(*asked, CATALOGUE)) == 1
        assert find(*asked, catalogue) == []


def test_findings_about_several_targets_are_kept_apart(
    rows: pd.DataFrame, image_set: ImageSet
) -> None:
    other = rows[rows.technique == "cam"].assign(target="u", value=lambda own: 1 - own.value)
    _, first, second = _find(summarise(pd.concat([rows, other])), image_set)
    assert "of CAM for the target 't' is 0.20 for the same colour and 0.60 for" in first["text"]
    assert "of CAM for the target 'u' is 0.80 for the same colour and 0.40 for" in second["text"]


def test_of_several_levels_without_a_counterpart_the_highest_and_the_lowest_are_named(
    rows: pd.DataFrame, image_set: ImageSet
) -> None:
    """As of pictures under several perturbations, each at a severity of its own."""
    own = {"none": "0", "haze": "3", "turn": "2"}
    means = {"none": 0.42, "haze": 0.19, "turn": 0.40}
    lines = [make_row("a", one, severity, means[one]) for one, severity in own.items()]
    items = tuple(
        Item(one, File("", b""), {}, None, {"colour": one, "light": severity})
        for one, severity in own.items()
    )
    (found,) = _find(summarise(pd.DataFrame(lines)), replace(image_set, items=items))
    assert found["text"] == (
        "At light '0' the mass in mask of CAM is 0.42 for colour 'none' (m, 1 scene, by chance "
        "0.10); it is lowest at light '3' for colour 'haze': 0.19."
    )


def test_of_more_than_two_levels_those_that_differ_most_are_told(
    rows: pd.DataFrame, image_set: ImageSet
) -> None:
    more = [make_row(unit, "third", light, 0.95) for unit in "ab" for light in ("overhead", "left")]
    grid = GridSpec("colour", "light", ("third", "different", "equal"))
    spec = replace(image_set.spec, grids=(grid,))
    of_heatmaps = pd.concat([rows[rows.technique == "cam"], pd.DataFrame(more)])
    (found,) = _find(summarise(of_heatmaps), replace(image_set, spec=spec))
    assert "is 0.95 for colour 'third' and 0.20 for the same colour (m, 2 scenes," in found["text"]
    assert ", of 3 levels the two that differ most)" in found["text"]


def test_of_several_levels_that_are_all_equal_two_are_told(image_set: ImageSet) -> None:
    levels, lights = ("different", "equal", "third"), ("overhead", "left")
    lines = [make_row(unit, one, light, 1.0) for unit in "ab" for one in levels for light in lights]
    right = pd.DataFrame(lines).assign(metric="seen", technique="")
    spec = replace(image_set.spec, grids=(GridSpec("colour", "light", levels),))
    (found,) = _find(summarise(right), replace(image_set, spec=spec))
    assert "is 1.00 for colour 'different' and 1.00 for colour 'third' (m" in found["text"]
    assert ", of 3 levels none differs); it is the same whatever the light." in found["text"]


def test_levels_that_differ_most_are_not_those_of_the_highest_means(image_set: ImageSet) -> None:
    means = {"overhead": (0.1, 0.2, 0.5), "left": (0.9, 0.7, 0.8)}
    lines = [
        make_row(unit, colour, light, mean)
        for light, of_levels in means.items()
        for colour, mean in zip(("equal", "different", "third"), of_levels, strict=True)
        for unit in "ab"
    ]
    grid = GridSpec("colour", "light", ("equal", "different", "third"))
    spec = replace(image_set.spec, grids=(grid,))
    (found,) = _find(summarise(pd.DataFrame(lines)), replace(image_set, spec=spec))
    assert found["text"] == (
        "From above the mass in mask of CAM is 0.10 for the same colour and 0.50 for colour "
        "'third' (m, 2 scenes, of 3 levels the two that differ most); it is the other way round "
        "at light 'left': 0.90 and 0.80."
    )


def test_each_technique_tells_the_two_levels_that_differ_most_under_it(
    image_set: ImageSet,
) -> None:
    levels = ("different", "equal", "third")
    lines = [
        make_row(unit, colour, light, mean, technique=technique)
        for technique, means in {"cam": (0.1, 0.9, 0.5), "edges": (0.5, 0.4, 0.2)}.items()
        for colour, mean in zip(levels, means, strict=True)
        for light in ("overhead", "left")
        for unit in "ab"
    ]
    catalogue = {**CATALOGUE, "techniques": {"cam": {"title": "CAM"}, "edges": {"title": "Edges"}}}
    spec = replace(image_set.spec, grids=(GridSpec("colour", "light", levels),))
    summary = summarise(pd.DataFrame(lines))
    cam, edges = find(summary, NONE, (), [replace(image_set, spec=spec)], catalogue)
    assert "0.10 for colour 'different' and 0.90 for the same colour" in cam["text"]
    assert "0.50 for colour 'different' and 0.20 for colour 'third'" in edges["text"]


def test_a_difference_the_other_way_round_is_said(rows: pd.DataFrame, image_set: ImageSet) -> None:
    left = (rows.light == "left") & (rows.colour == "equal") & (rows.technique == "cam")
    rows.loc[left, "value"] = 0.9
    found = _find(summarise(rows), image_set)[-1]["text"]
    assert "0.20 for the same colour and 0.60 for" in found
    assert found.endswith("; it is the other way round at light 'left': 0.90 and 0.60.")
    rows["value"] = 1 - rows.value
    found = _find(summarise(rows), image_set)[-1]["text"]
    assert found.endswith("; it is the other way round at light 'left': 0.10 and 0.40.")


def test_what_is_the_same_everywhere_is_said_once(rows: pd.DataFrame, image_set: ImageSet) -> None:
    for colour, value in (("equal", 0.2), ("different", 0.6)):
        rows.loc[(rows.colour == colour) & (rows.technique == "cam"), "value"] = value
    found = _find(summarise(rows), image_set)[-1]["text"]
    assert "0.20 for the same colour and 0.60 for" in found
    assert found.endswith("; it is the same whatever the light.")


def test_a_level_may_be_said_otherwise_where_it_is_a_place(
    rows: pd.DataFrame, image_set: ImageSet
) -> None:
    words = {"light": {"overhead": "an image from above"}}
    spec = replace(image_set.spec, words=words, places={"light": {"overhead": "lit from above"}})
    found = [one["text"] for one in _find(summarise(rows), replace(image_set, spec=spec))]
    assert found[0].startswith("Lit from above the probability is 0.01 for colour 'equal' and")
    turned = replace(spec, grids=(GridSpec("light", "colour", ()),))
    found = [one["text"] for one in _find(summarise(rows), replace(image_set, spec=turned))]
    assert " for an image from above and " in found[0]


def test_what_does_not_differ_is_no_finding_of_heatmaps(
    rows: pd.DataFrame, image_set: ImageSet
) -> None:
    rows["value"] = 0.5
    (behaviour,) = _find(summarise(rows), image_set)
    assert behaviour["technique"] == ""
    assert "is 0.50 for the same colour and 0.50 for" in behaviour["text"]


def test_dead_heatmaps_are_said_where_they_are_most(
    rows: pd.DataFrame, image_set: ImageSet
) -> None:
    dark = (rows.light == "overhead") & (rows.colour == "equal") & (rows.technique == "cam")
    rows.loc[dark, "flag"] = "dead"
    *_, heatmap = _find(summarise(rows), image_set)
    assert "; up to 100 % of these heatmaps are zero everywhere; the diff" in heatmap["text"]


def test_a_contrast_that_no_grid_shows_is_told_where_it_differs_most() -> None:
    rows = make_rows({"left": -0.1, "overhead": -0.4}, metric="mass", technique="cam")
    same = make_rows({"left": 0, "overhead": 0}, metric="seen", technique="", target="", region="")
    table = contrast_table(pd.concat([rows, same]), [COLOUR], seed=0)
    image_set = make_image_set()
    summary = summarise(rows)
    (found,) = _find(summary, image_set, table, (COLOUR,))
    assert (found["contrast"], found["technique"]) == ("colour", "cam")
    assert found["text"].startswith("At light 'overhead' the mass in mask of CAM is 0.")
    assert "for colour 'equal' and 0." in found["text"]
    assert "for the target" not in found["text"]
    assert found["text"].endswith("12 scenes, p < 0.001).")
    shown = replace(image_set.spec, grids=(GridSpec("colour", "light", ()),))
    of_grid = _find(summary, replace(image_set, spec=shown), table, (COLOUR,))
    assert all("contrast" not in one for one in of_grid)


def test_a_contrast_whose_test_finds_nothing_is_no_finding() -> None:
    rows = make_rows({"left": 0.0, "overhead": 0.0}, metric="mass", technique="cam")
    table = contrast_table(rows, [COLOUR], seed=0)
    assert table.p_holm.min() > 0.05
    assert _find(summarise(rows), make_image_set(), table, (COLOUR,)) == []


def test_the_metric_that_is_told_is_chosen_before_it_is_seen_what_differs() -> None:
    """Of many metrics one differs by chance."""
    nothing = make_rows({"left": 0.0, "overhead": 0.0}, metric="mass", technique="cam")
    by_chance = make_rows({"left": -0.3, "overhead": -0.3}, metric="iou", technique="cam")
    rows = pd.concat([nothing, by_chance])
    table = contrast_table(rows, [COLOUR], seed=0)
    assert table[table.metric == "iou"].p_holm.max() < 0.05
    assert _find(summarise(rows), make_image_set(), table, (COLOUR,)) == []


def test_a_grid_tells_the_means_that_were_tested() -> None:
    """Those of pairs, not of whatever has a value: some of the best have no counterpart."""
    rows = make_rows({"left": -0.1, "overhead": -0.4})
    rows["value"] += 0.3 * (rows.unit < "scene_04")
    gone = (rows.colour == "different") & (rows.unit < "scene_04")
    rows.loc[gone, ["value", "lift", "status"]] = [np.nan, np.nan, "undefined"]
    line = contrast_table(rows, [COLOUR], seed=0).query("within == 'overhead'").iloc[0]
    (found,) = _of_grid(rows)
    assert f"is {line['first']:.2f} for colour 'equal' and {line['second']:.2f} for" in found
    assert "(m, 8 scenes)" in found


def test_the_model_that_differs_most_comes_first(rows: pd.DataFrame, image_set: ImageSet) -> None:
    """Not the one whose smallest difference is the largest."""
    one = rows[rows.technique == ""]
    other = one.assign(model="n", value=one.value.where(one.colour == "different", 0.2))
    kept = (one.colour == "different") | (one.light == "overhead")
    one = one.assign(value=one.value.where(kept, 0.85))
    for table in (pd.concat([one, other]), pd.concat([other.assign(model="a"), one])):
        first, _ = _find(summarise(table), image_set)
        assert first["model"] == "m"


GRID = GridSpec("colour", "light", ())


def _of_grid(rows: pd.DataFrame, contrast: ContrastSpec = COLOUR) -> list[str]:
    """Return what is found of a grid between whose rows a contrast tests."""
    table = contrast_table(rows, [contrast], seed=0)
    image_set = make_image_set()
    image_set = replace(image_set, spec=replace(image_set.spec, grids=(GRID,)))
    found = _find(summarise(rows), image_set, table, (contrast,))
    return [one["text"] for one in found]


def test_a_grid_says_how_sure_its_contrast_is() -> None:
    rows = make_rows({"left": -0.1, "overhead": -0.4})
    (line,) = (
        contrast_table(rows, [COLOUR], seed=0).query("within == 'overhead'").to_dict("records")
    )
    (found,) = _of_grid(rows)
    numbers = [f"{line[name]:.2f}".replace("-", "−") for name in ("difference", "low", "high")]
    sure = "difference {} [{}, {}], p < 0.001; the difference is smallest ".format(*numbers)
    assert numbers[0].startswith("−0.4")
    assert f"(m, 12 scenes); {sure}" in found
    (turned,) = _of_grid(rows, replace(COLOUR, levels=COLOUR.levels[::-1]))
    assert turned == found  # whichever of its levels a contrast takes for the first


def test_a_difference_that_its_test_does_not_show_is_told_as_such() -> None:
    """Of behaviour alone, and after what is shown."""
    nothing = {"left": 0.002, "overhead": -0.003}
    behaviour = {"technique": "", "target": "", "layer": "", "region": "", "metric": "seen"}
    assert _of_grid(make_rows(nothing)) == []
    (found,) = _of_grid(make_rows(nothing, **behaviour))
    assert found.count(": none is shown; ") == 1
    assert "the other way round" not in found
    (few,) = _of_grid(make_rows(scenes=3, **behaviour))
    assert "(m, 3 scenes); too few to be tested" in few
    both = [make_rows(nothing, **behaviour), make_rows(**behaviour).assign(model="n")]
    first, second = _of_grid(pd.concat(both))
    assert ("(n, " in first, "(m, " in second) == (True, True)


def test_the_other_way_round_is_told_where_its_test_shows_it() -> None:
    def found(left: float) -> str:
        (text,) = _of_grid(make_rows({"left": left, "overhead": -0.4}))
        return text

    assert "it is the other way round at light 'left'" in found(0.3)
    rows = make_rows({"left": -0.1, "overhead": -0.4})
    noise = rows.unit.str[-1].astype(int).mod(2).mul(2).sub(1) * 0.5
    rows.loc[(rows.light == "left") & (rows.colour == "equal"), "value"] += noise + 0.17
    (text,) = _of_grid(rows)
    assert "the difference is smallest at light 'left'" in text
