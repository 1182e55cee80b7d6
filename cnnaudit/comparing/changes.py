"""Paired differences of two runs, place by place: what is better, what worse, what shows no change.

A difference is the second run minus the first, item by item; a unit's value is the mean over its
items, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnnaudit.comparing.pairing import AFTER, BEFORE, SUBJECT
from cnnaudit.contrasts import estimated, numbered, tested
from cnnaudit.report.cells import plural
from cnnaudit.report.run import Record, Run
from cnnaudit.statistics import ALPHA, Array, Ints, estimate, group_means
from cnnaudit.types import POOLED

BETTER, WORSE, CHANGED = "better", "worse", "changed"
NARROWER, WIDER = "narrower", "wider"  # of a contrast's effect, the nearer to 0 the narrower
SAME, NOT_MEASURED = "no change shown", "not measured"

_TEXTS = [
    *("contrast", *SUBJECT, "layer", "factor", "first_level", "second_level"),
    *("factors", "within", "status", "outcome"),
]
_NUMBERS = [
    *("before", "after", "difference", "low", "high", "units", "p", "p_holm"),
    *("before_low", "before_high", "after_low", "after_high"),  # of a contrast's effects
    *("dead_before", "dead_after", "paired", "items"),
]

_FAMILY = ("image_set", "metric", "region")  # of tests: all models, techniques and places

Chosen = NDArray[np.bool_]


def change_table(rows: pd.DataFrame, before: Run, after: Run, seed: int) -> pd.DataFrame:
    """Return the paired difference of each subject at each place, in the order of places."""
    lines: list[dict[str, Any]] = []
    samples: list[Array] = []
    for image_set in dict.fromkeys(rows["image_set"]):
        own = rows[rows["image_set"] == image_set]
        for kept, levels in _kept_apart(after, image_set, own):
            for line, sample in _changes(own, kept, levels, after.binary):
                lines.append(line)
                samples.append(sample)
    table = tested_table(lines, samples, seed, _FAMILY)
    table["outcome"] = [
        outcome_of(one, _direction(before, after, one["metric"], one["region"]))
        for one in records_of(table)
    ]
    return table


def tested_table(
    lines: Sequence[dict[str, Any]], samples: Sequence[Array], seed: int, family: Sequence[str]
) -> pd.DataFrame:
    """Return lines as a table, each with the p of its sample, also adjusted within its family."""
    blank = dict.fromkeys(_TEXTS, "") | dict.fromkeys(_NUMBERS, np.nan) | {"levels": ()}
    full = [{**blank, **line} for line in tested(lines, samples, seed, family)]
    return pd.DataFrame(full, columns=list(blank)).astype(dict.fromkeys(_NUMBERS, float))


def _kept_apart(
    run: Run, image_set: str, rows: pd.DataFrame
) -> Iterator[tuple[list[str], dict[str, Sequence[str]]]]:
    """Yield the factors that places are told apart by, with their levels in order.

    Those are none, and the two of each declared grid, or else each factor alone.
    """
    yield [], {}
    declared = run.levels(image_set)
    factors = [name for name in run.factors(image_set) if name in rows]
    grids = [one for one in run.grids(image_set) if {one["rows"], one["cols"]} <= {*factors}]
    for one in grids:
        levels = {name: declared.get(name, ()) for name in (one["cols"], one["rows"])}
        levels[one["rows"]] = one["levels"] or levels[one["rows"]]
        yield list(levels), levels
    if not grids:
        yield from (([name], {name: declared.get(name, ())}) for name in factors)


def _changes(
    rows: pd.DataFrame,
    kept: list[str],
    levels: Mapping[str, Sequence[str]],
    binary: Collection[str],
) -> Iterator[tuple[dict[str, Any], Array]]:
    """Yield each place's line without its p, and its units' differences."""
    for name in kept:
        rows = rows[rows[name].isin(levels[name])]
        rows = rows.assign(**{name: pd.Categorical(rows[name], list(levels[name]))})
    number, first = numbered(rows, [*SUBJECT, *kept])
    unit, of_unit = numbered(rows, ["unit"])
    sides = [rows[name].to_numpy(np.float64) for name in ("value", BEFORE, AFTER)]
    means = [group_means(number * len(of_unit) + unit, values) for values in sides]
    ends = np.searchsorted(means[0][0], np.arange(len(first) + 1) * len(of_unit))
    paired, items = (_count(number, chosen, len(first)) for chosen in _counted(rows))
    dead = [_dead(rows, side, number, len(first), paired) for side in ("before", "after")]
    for place, at in enumerate(first):
        if not items[place]:
            continue
        value, was, now = (of[1][ends[place] : ends[place + 1]] for of in means)
        about = rows.iloc[at]
        found = estimate(value, ends=(-1.0, 1.0) if about["metric"] in binary else ())
        yield (
            {
                **{name: about[name] for name in (*SUBJECT, "layer")},
                "factors": " · ".join(kept),
                "within": " · ".join(str(about[name]) for name in kept) or POOLED,
                "levels": tuple(str(about[name]) for name in kept),
                "before": was.mean() if found.units else np.nan,
                "after": now.mean() if found.units else np.nan,
                **estimated(found),
                "dead_before": dead[0][place],
                "dead_after": dead[1][place],
                "paired": paired[place],
                "items": items[place],
            },
            value,
        )


def _counted(rows: pd.DataFrame) -> tuple[Chosen, Chosen]:
    """Return which items are paired, and which could have been."""
    return (rows["status"] == "ok").to_numpy(), (rows["status"] != "ineligible").to_numpy()


def _count(number: Ints, chosen: Chosen, places: int) -> Ints:
    return np.bincount(number[chosen], minlength=places)


def _dead(rows: pd.DataFrame, side: str, number: Ints, places: int, paired: Ints) -> Array:
    """Return the share of the paired heatmaps of each place that are dead in a run."""
    dead = (rows[f"flag@{side}"] == "dead") & (rows["status"] == "ok")
    share = np.full(places, np.nan)
    np.divide(_count(number, dead.to_numpy(), places), paired, out=share, where=paired > 0)
    return share


def _direction(before: Run, after: Run, metric: str, region: str) -> bool | None:
    """Return whether more of a metric is better; None where nobody can say.

    More heat on the object is better; on another region, such as a shadow, it may be either.
    """
    found = {run.about("metrics", metric).get("higher_is_better") for run in (before, after)}
    known = region in ("", "mask") and len(found) == 1
    return found.pop() if known else None


def outcome_of(one: Record, higher_is_better: bool | None) -> str:
    """Return what a tested difference means, if it is known what is better."""
    if one["status"] != "ok":
        return NOT_MEASURED
    if not one["p_holm"] <= ALPHA:
        return SAME
    if higher_is_better is None:
        return CHANGED
    return BETTER if (one["difference"] > 0) == higher_is_better else WORSE


def records_of(table: pd.DataFrame) -> list[Record]:
    """Return the rows of a table by their columns' names."""
    found: list[Any] = table.to_dict("records")
    return found


def counts(outcomes: Iterable[str]) -> dict[str, int]:
    """Return how often each outcome is among these, in a fixed order."""
    found = list(outcomes)
    order = (BETTER, NARROWER, WORSE, WIDER, CHANGED, SAME, NOT_MEASURED)
    return {name: found.count(name) for name in order if name in found}


def is_exactly_equal(table: pd.DataFrame) -> bool:
    """Say whether every difference that was measured is exactly 0."""
    known = table.loc[table["outcome"] != NOT_MEASURED, "difference"]
    return len(known) > 0 and bool((known == 0).all())


def why_not_measured(table: pd.DataFrame, unit_of: Callable[[str], str]) -> str:
    """Say why differences were not measured: how few units each image set has for them."""
    said = []
    lacking = table[table["outcome"] == NOT_MEASURED]
    for image_set, own in lacking.groupby("image_set", sort=False):
        least, most = int(own["units"].min()), int(own["units"].max())
        span = f"{least} to " * (least < most) + plural(most, unit_of(str(image_set)))
        said.append(span + f" of {image_set}" * (table["image_set"].nunique() > 1))
    return f"too few units: {', '.join(said)}"
