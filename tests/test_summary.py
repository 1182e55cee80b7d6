"""The summary: means over units, counts beside every number."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from cnnaudit.specs import GridSpec, ImageSetSpec
from cnnaudit.summary import (
    summarise,
    to_csv,
    unguarded,
)
from cnnaudit.totals import Totals, died_of
from cnnaudit.types import DIED, POOLED, SORTED_BY, File, ImageSet, Item

CATALOGUE = {
    "metrics": {
        "mass": {"title": "mass in mask", "kind": "overlap"},
        "seen": {"title": "probability", "kind": "behaviour"},
    },
    "techniques": {"cam": {"title": "CAM"}},
}


def make_row(unit: str, colour: str, light: str, value: float | None, **more: object) -> dict:
    row = {
        "model": "m",
        "target": "t",
        "technique": "cam",
        "layer": "l",
        "image_set": "s",
        "item": f"{unit}-{colour}-{light}-{more.pop('n', 0)}",
        "region": "mask",
        "metric": "mass",
        "value": value,
        "chance": 0.1,
        "lift": None if value is None else (value - 0.1) / 0.9,
        "swap": 0.05,
        "twin": 0.04,
        "ceiling": 0.8,
        "flag": "",
        "status": "ok" if value is not None else "undefined",
        "reason": "" if value is not None else "empty_mask",
        "unit": unit,
        "colour": colour,
        "light": light,
    }
    return row | more


@pytest.fixture
def rows() -> pd.DataFrame:
    lines = []
    for light, equal in (("overhead", 0.1), ("left", 0.3)):
        for unit, shift in (("a", 0.0), ("b", 0.2)):
            lines.append(make_row(unit, "equal", light, equal + shift))
            lines.append(make_row(unit, "different", light, 0.5 + shift))
            behaviour = {"technique": "", "metric": "seen", "region": "", "target": "", "layer": ""}
            lines.append(make_row(unit, "equal", light, equal / 10, **behaviour))
            lines.append(make_row(unit, "different", light, 0.9, **behaviour))
    return pd.DataFrame(lines)


@pytest.fixture
def image_set() -> ImageSet:
    items = tuple(
        Item(
            f"{unit}-{colour}-{light}-0",
            File("", b""),
            {},
            None,
            {"colour": colour, "light": light},
        )
        for unit in "ab"
        for colour in ("equal", "different")
        for light in ("overhead", "left")
    )
    words = {"colour": {"equal": "the same colour"}, "light": {"overhead": "from above"}}
    spec = ImageSetSpec(
        *("s", "manifest", Path(), "scene", 1, (GridSpec("colour", "light", ()),), words, {})
    )
    return ImageSet(spec, items, ("scene", "colour", "light"))


def _at(summary: pd.DataFrame, **levels: str) -> pd.Series:
    chosen = summary
    for column, level in levels.items():
        chosen = chosen[chosen[column] == level]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_a_mean_is_over_units_not_over_items(rows: pd.DataFrame) -> None:
    extra = [make_row("a", "equal", "overhead", 0.1, n=n) for n in range(1, 9)]
    many = pd.concat([rows, pd.DataFrame(extra)], ignore_index=True)
    row = _at(summarise(many), metric="mass", colour="equal", light="overhead")
    assert row["mean"] == pytest.approx((0.1 + 0.3) / 2)
    assert (row.units, row.scored, row.total) == (2, 10, 10)
    assert row.chance == pytest.approx(0.1)
    assert row["lift"] == pytest.approx((0.2 - 0.1) / 0.9)


def test_every_combination_of_levels_is_there_once(rows: pd.DataFrame) -> None:
    summary = summarise(rows)
    mass = summary[summary.metric == "mass"]
    assert len(mass) == 1 + 2 + 2 + 4
    pooled = _at(summary, metric="mass", colour=POOLED, light=POOLED)
    assert pooled["mean"] == pytest.approx(rows[rows.metric == "mass"].value.mean())


def test_rows_without_a_value_are_counted_not_dropped(rows: pd.DataFrame) -> None:
    empty = make_row("c", "equal", "overhead", None)
    dead = make_row("c", "different", "overhead", 0.1, flag="dead")
    summary = summarise(pd.concat([rows, pd.DataFrame([empty, dead])], ignore_index=True))
    row = _at(summary, metric="mass", colour="equal", light="overhead")
    assert (row.units, row.scored, row.total, row.undefined) == (2, 2, 3, 1)
    row = _at(summary, metric="mass", colour="different", light="overhead")
    assert row.dead == pytest.approx(1 / 3)


def test_a_group_without_any_value_has_a_row(rows: pd.DataFrame) -> None:
    empty = pd.DataFrame([make_row("a", "none", "overhead", None)])
    row = _at(
        summarise(pd.concat([rows, empty], ignore_index=True)), metric="mass",
        colour="none", light="overhead",
    )  # fmt: skip
    assert pd.isna(row["mean"])
    assert (row.units, row.scored, row.total) == (0, 0, 1)


def test_gaps_name_reason_number_and_examples(rows: pd.DataFrame) -> None:
    bad = [make_row("c", "equal", "overhead", None, n=n) for n in range(5)]
    (gap,) = _totals(pd.concat([rows, pd.DataFrame(bad)], ignore_index=True)).gaps
    assert gap["reason"] == "empty_mask"
    assert gap["items"] == 5
    assert len(gap["examples"]) == 3
    assert gap["missing"] == {"cam": ["mass"]}


def test_one_gap_for_all_that_an_image_lacks_for_a_reason(rows: pd.DataFrame) -> None:
    bad = [
        make_row(
            "c", "equal", "left", None, n=n, technique=technique, reason=f"{n}.png is no picture"
        )
        for n in range(2)
        for technique in ("", "cam", "rise")
    ]
    bad += [
        make_row("c", "equal", "left", None, n=2, technique="rise", reason="0.png is no picture")
    ]
    one, both, other = _totals(pd.concat([rows, pd.DataFrame(bad)], ignore_index=True)).gaps
    assert one["missing"] == {"": ["mass"], "cam": ["mass"]}
    assert both["missing"] == {"rise": ["mass"]}
    assert (both["reason"], both["items"]) == (one["reason"], 2)
    assert other["missing"] == {"": ["mass"], "cam": ["mass"], "rise": ["mass"]}
    assert (other["reason"], other["items"]) == ("1.png is no picture", 1)


def test_the_worst_item_has_the_lowest_lift(rows: pd.DataFrame) -> None:
    assert _totals(rows).worst == {("m", "s"): {"a-equal-overhead-0": ["worst: cam"]}}


def test_each_target_has_its_own_worst_item(rows: pd.DataFrame) -> None:
    other = rows.assign(target="u", lift=-rows["lift"])
    both = _totals(pd.concat([rows, other], ignore_index=True)).worst
    assert both == {("m", "s"): {**_totals(rows).worst["m", "s"], **_totals(other).worst["m", "s"]}}
    assert len(both["m", "s"]) == 2
    again = pd.concat([rows, rows.assign(target="u")], ignore_index=True)
    assert _totals(again).worst == _totals(rows).worst


def test_pieces_sum_up_to_the_whole(rows: pd.DataFrame) -> None:
    failed = [(n, technique) for n in range(3) for technique in ("", "rise")]
    bad = [make_row("c", "equal", "left", None, n=n, technique=name) for n, name in failed]
    whole = pd.concat([rows, pd.DataFrame(bad)], ignore_index=True)
    whole = whole.sort_values([*SORTED_BY, "item"], ignore_index=True)
    pieces = [part for _, part in whole.groupby("technique", sort=True)]
    assert len(pieces) == 3
    one, several = _totals(whole), _totals(whole, pieces)
    pd.testing.assert_frame_equal(several.means, one.means)
    assert several.gaps == one.gaps != []
    assert several.worst == one.worst
    assert several.counts == one.counts


def test_pieces_in_any_order_are_told_in_order(rows: pd.DataFrame) -> None:
    lines = [("rise", "mass"), ("rise", "iou"), ("cam", "mass")]
    bad = [make_row("c", "equal", "left", None, technique=one, metric=two) for one, two in lines]
    low = [make_row("a", "equal", "left", -1.0, technique=one) for one in ("rise", "cam")]
    pieces = [pd.DataFrame([line]) for line in (*bad, *low)]
    totals = _totals(pd.concat([rows, *pieces]), [*pieces, rows])
    (gap,) = totals.gaps
    assert [*gap["missing"].items()] == [("cam", ["mass"]), ("rise", ["iou", "mass"])]
    assert totals.worst == {("m", "s"): {"a-equal-left-0": ["worst: cam", "worst: rise"]}}


def test_what_a_process_died_of_is_what_failed_of_that(rows: pd.DataFrame) -> None:
    failed = {"status": "failed", "reason": f"{DIED} (killed)"}
    bad = [
        make_row("a", "equal", "left", None, n=1, **failed),
        make_row("a", "equal", "left", None, n=2, **{**failed, "reason": "no picture"}),
        make_row("a", "equal", "left", None, n=3, **{**failed, "status": "undefined"}),
        make_row("b", "equal", "left", None, **{**failed, "image_set": "other"}),
    ]
    whole = pd.concat([rows, pd.DataFrame(bad)])
    died = {("m", "s"): {"a-equal-left-1"}, ("m", "other"): {"b-equal-left-0"}}
    assert _totals(whole, [pd.DataFrame([line]) for line in bad]).died == died
    assert died_of(whole) == died


def _totals(whole: pd.DataFrame, pieces: Sequence[pd.DataFrame] = ()) -> Totals:
    """Sum up rows in one piece or in several, their items numbered as those of all are."""
    totals = Totals("mass", ["colour", "light"])
    ids = pd.Index(sorted({*whole["item"]}))
    for piece in pieces or [whole]:
        totals.add(piece.assign(item=pd.Categorical(piece["item"], ids)))
    return totals


@pytest.mark.parametrize(
    "text", ["=1+1", "+x", "-40", "@cmd", "'=x", "''-x", "plain", "'quoted", ""]
)
def test_no_text_of_a_csv_is_a_formula(text: str) -> None:
    content = to_csv(pd.DataFrame({"level": [text], "mean": [-0.5]}))
    read = pd.read_csv(io.BytesIO(content), dtype={"level": str}, keep_default_na=False)
    assert read.level[0][:1] not in ("=", "+", "-", "@")
    assert unguarded(read.level[0]) == text
    assert read["mean"][0] == -0.5


def test_no_name_of_a_column_is_a_formula() -> None:
    """A factor is called what the manifest's first line says."""
    content = to_csv(pd.DataFrame({'=HYPERLINK("http://elsewhere")': ["a"], "-x": [-0.5]}))
    header = content.decode().splitlines()[0]
    assert header == """"'=HYPERLINK(""http://elsewhere"")",'-x"""


@pytest.mark.parametrize("text", ["plain", "'quoted", "a-b", ""])
def test_what_is_no_formula_is_written_as_it_is(text: str) -> None:
    content = to_csv(pd.DataFrame({"level": [text], "mean": [1]}))
    assert content.decode() == f"level,mean\n{text},1\n"


def test_levels_are_sorted_and_factors_kept_one_two_and_all_at_a_time() -> None:
    rows = pd.DataFrame([make_row(f"{n}", "bca"[n % 3], "zy"[n % 2], n / 12) for n in range(12)])
    names = ["colour", "light", "haze", "time"]
    rows = rows.assign(haze="none", time=rows.unit)
    table = summarise(rows, names)
    kept = (table[names] != POOLED).sum(axis=1)
    assert sorted({*kept}) == [0, 1, 2, 4]
    assert len(table) == 1 + (3 + 2 + 1 + 12) + (6 + 3 + 12 + 2 + 12 + 12) + 12
    by_colour = table[(kept == 1) & (table.colour != POOLED)]
    assert list(by_colour.colour) == ["a", "b", "c"]
    assert list(by_colour["mean"]) == pytest.approx([6.5 / 12, 4.5 / 12, 5.5 / 12])
    texts = rows.assign(**{name: rows[name].astype("category") for name in (*SORTED_BY, *names)})
    pd.testing.assert_frame_equal(summarise(texts, names), table)


def test_a_csv_has_the_columns_of_its_table_and_no_other() -> None:
    assert to_csv(pd.DataFrame({"a": [1]})) == b"a\n1\n"


def test_the_worst_item_is_that_of_the_primary_metric(rows: pd.DataFrame) -> None:
    other = rows[(rows.technique == "cam") & (rows.unit == "b")].assign(metric="auroc", lift=-1.0)
    assert _totals(pd.concat([other, rows])).worst == _totals(rows).worst


def test_the_worst_item_is_the_same_in_whatever_pieces(rows: pd.DataFrame) -> None:
    other = rows[rows.technique == "cam"].assign(target="u", lift=lambda own: 2 - own.lift)
    whole = pd.concat([rows, other], ignore_index=True)
    expected = _totals(whole).worst
    assert _totals(whole, [other, rows]).worst == _totals(whole, [rows, other]).worst == expected
