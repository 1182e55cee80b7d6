"""Paired contrasts of two levels of a factor, over independent units: pandas, never torch.

A pair is what agrees in every block factor; a unit's value is the mean over its pairs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnnaudit.specs import COMPARED, ContrastSpec
from cnnaudit.statistics import (
    Array,
    Estimate,
    Ints,
    estimate,
    fewest_units,
    group_means,
    holm,
    means_of,
    sign_flip_ps,
)
from cnnaudit.types import IN_ROW, POOLED

SUBJECT = ("model", "target", "technique", "layer", "region", "metric")
FAMILY = ("contrast", "metric", "region")  # what tests that Holm adjusts together have in common

Line = dict[str, Any]  # of a table of differences, by its columns


@dataclass(frozen=True)
class Pairs:
    """The values of both levels of a contrast for one subject, one per unit, paired."""

    first: Array  # (n,)
    second: Array  # (n,), the reference
    scored: int  # items with a value
    eligible: int  # items that could have one
    ends: tuple[float, ...] = ()  # of a difference, where images score 0 or 1

    @property
    def difference(self) -> Array:
        return self.first - self.second

    @property
    def estimate(self) -> Estimate:
        return estimate(self.difference, ends=self.ends)

    @property
    def of_differences(self) -> Estimate:
        """What `estimate` is where the values are differences themselves."""
        return estimate(self.difference, ends=[2 * end for end in self.ends])


@dataclass(frozen=True)
class Place:
    """Where a contrast is judged: a subject at one level of each factor `within`."""

    about: Mapping[str, str]  # its columns of SUBJECT, "" for what is compared
    within: str


class Places:
    """All places of a contrast, their rows in one table: each number is computed for all at once.

    A place has rows at both levels of the contrast, or at `levels`. Arrays of values are (n,), one
    for each of `rows`; arrays of counts are (places, 2), one for each level. `binary` are the names
    of metrics that score an image 0 or 1.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        contrast: ContrastSpec,
        levels: Sequence[str] = (),
        *,
        binary: Collection[str] = (),
    ) -> None:
        compared = {contrast.factor, "layer"} if contrast.factor in COMPARED else set()
        columns = [name for name in SUBJECT if name not in compared]
        own = _of_subjects(rows, columns, contrast, levels or contrast.levels)
        self.contrast = contrast
        number, first = numbered(own, [*columns, *contrast.within])
        names = own[[*columns, *contrast.within]].iloc[first].astype(str)
        self.places = [
            Place({**dict.fromkeys(SUBJECT, ""), **about}, " · ".join(levels) or POOLED)
            for about, levels in zip(
                (dict(zip(columns, key, strict=True)) for key in names[columns].to_numpy()),
                names[list(contrast.within)].to_numpy(),
                strict=True,
            )
        ]
        self.is_binary = [place.about["metric"] in binary for place in self.places]
        self.rows, self._place = own, number
        self._level = (own[contrast.factor] == contrast.levels[1]).to_numpy().astype(np.int64)
        self._unit, of_unit = numbered(self.rows, ["unit"])
        self._units = len(of_unit)
        self.is_ok = (self.rows["status"] == "ok").to_numpy()
        self.is_eligible = (self.rows["status"] != "ineligible").to_numpy()
        self.eligible = self.count(self.is_eligible)

    def __len__(self) -> int:
        return len(self.places)

    def column(self, name: str) -> Array:
        """Return a column's values, NaN where a row has none."""
        return np.where(self.is_ok, self.rows[name].to_numpy(np.float64), np.nan)

    def count(self, which: NDArray[np.bool_]) -> Ints:
        """Return how many rows of a choice (n,) each place has at each level."""
        places = 2 * self._place[which] + self._level[which]
        return np.bincount(places, minlength=2 * len(self)).reshape(-1, 2)

    def means(self, values: Array) -> Array:
        """Return the mean at each level of each place, (places, 2), NaN where there is none."""
        at = 2 * self._place + self._level
        return means_of(at, values, 2 * len(self)).reshape(-1, 2)

    def unit_means(self, values: Array) -> list[tuple[Array, Array]]:
        """Return the mean of each unit that has one, at both levels of each place."""
        at = 2 * self._place + self._level
        numbers, means = group_means(at * self._units + self._unit, values)
        ends = np.searchsorted(numbers, np.arange(2 * len(self) + 1) * self._units)
        parts = [means[a:b] for a, b in pairwise(ends)]
        return list(zip(parts[::2], parts[1::2], strict=True))

    def pairs(self, values: Array) -> list[Pairs]:
        """Pair the values of each place.

        Pairs of which something has no value are left out of the means and stay in the counts: of
        a side under two lights, the other light alone is not the same thing.
        """
        block, of_block, blocks = self._blocks
        side = 2 * (self._place * blocks + block) + self._level
        known = ~np.isnan(values)
        lacks = np.unique(side[self.is_eligible & ~known])
        sides, means = group_means(side, np.where(np.isin(side, lacks), np.nan, values))
        firsts = np.flatnonzero(sides[:-1] // 2 == sides[1:] // 2)  # the next one is its second
        pair = sides[firsts] // 2
        group = pair // blocks * self._units + self._unit[of_block[pair % blocks]]
        numbers, first = group_means(group, means[firsts])
        _, second = group_means(group, means[firsts + 1])
        of_place = np.searchsorted(numbers // self._units, np.arange(len(self) + 1))
        scored = self.count(known).sum(axis=1)
        eligible = self.eligible.sum(axis=1)
        return [
            Pairs(
                first=first[a:b],
                second=second[a:b],
                scored=int(scored[n]),
                eligible=int(eligible[n]),
                ends=(-1.0, 1.0) if self.is_binary[n] else (),
            )
            for n, (a, b) in enumerate(pairwise(of_place))
        ]

    def earned(self, reference: str, rows: pd.DataFrame) -> Array:
        """Return what a reference earns on the image of each row, NaN where it has no value.

        It stands in the row, or is a technique with rows of its own among `rows`.
        """
        if reference in IN_ROW:
            return self.column(IN_ROW[reference])
        keys = ["model", "target", "image_set", "item", "region", "metric"]
        theirs = rows.loc[rows["technique"] == reference, [*keys, "value"]]
        joined = self.rows[keys].merge(theirs, on=keys, how="left", validate="many_to_one")
        return joined["value"].to_numpy(np.float64)

    @cached_property
    def _blocks(self) -> tuple[Ints, Ints, int]:
        """Number the rows by what stays equal within a pair, as `numbered`, and how many it is."""
        compared = self.contrast.factor in COMPARED
        blocks = ("item",) if compared else self.contrast.blocks
        keys = ["unit", *(name for name in blocks if name in self.rows)]  # the unit has its column
        number, first = numbered(self.rows, keys)
        return number, first, len(first)


def _of_subjects(
    rows: pd.DataFrame, columns: list[str], contrast: ContrastSpec, levels: Sequence[str]
) -> pd.DataFrame:
    """Return the rows of subjects that have some at all levels, at a level of each `within`."""
    own = rows[rows["image_set"] == contrast.image_set]
    own = own[own[contrast.factor].isin(contrast.levels)]
    number, _ = numbered(own, columns)
    eligible = (own["status"] != "ineligible").to_numpy()
    wanted = np.ones(len(own), bool)
    for level in levels:
        there = number[eligible & (own[contrast.factor] == level).to_numpy()]
        wanted &= np.isin(number, there)
    for factor in contrast.within:  # an item without a level is not at one
        wanted &= (own[factor] != "").to_numpy()
    return own[wanted]


def numbered(rows: pd.DataFrame, columns: list[str]) -> tuple[Ints, Ints]:
    """Number the groups of rows that agree in all columns, in sorted order.

    Returns the number of each row, and the position of each group's first row.
    """
    number = np.asarray(rows.groupby(columns, observed=True).ngroup(), np.int64)
    first = np.unique(number, return_index=True)[1].astype(np.int64)
    return number, first


def contrast_table(
    rows: pd.DataFrame,
    contrasts: Iterable[ContrastSpec],
    seed: int,
    binary: Collection[str] = (),
) -> pd.DataFrame:
    """Return every contrast of every subject: both levels, difference, interval, p, Holm.

    A family of tests is one metric of one contrast: all its models, techniques and levels. After
    each line stand those that are net of a reference's own difference; they are not tested.
    """
    lines = [line for contrast in contrasts for line in _lines(rows, contrast, seed, binary)]
    return pd.DataFrame(lines, columns=_COLUMNS)


def contrasts_of(
    tables: Iterable[pd.DataFrame],
    contrasts: Sequence[ContrastSpec],
    seed: int,
    binary: Collection[str] = (),
) -> pd.DataFrame:
    """Return what `contrast_table` does of rows that come in tables, a metric's in one of them."""
    if not contrasts:
        return pd.DataFrame(columns=_COLUMNS)
    made = [contrast_table(rows, contrasts, seed, binary) for rows in tables]
    found = [table for table in made if len(table)] or made  # without a line numbers have no type
    if len(found) == 1:
        return found[0]
    declared = {contrast.name: place for place, contrast in enumerate(contrasts)}
    table = pd.concat(found, ignore_index=True)
    table["declared"] = table["contrast"].map(declared)
    by = ["declared", *SUBJECT, "within"]
    return table.sort_values(by, kind="stable", ignore_index=True).drop(columns="declared")


def tested(
    lines: Sequence[Line], samples: Sequence[Array | None], seed: int, family: Sequence[str]
) -> list[Line]:
    """Return lines with `p`, `p_holm` and `status`; those equal in all of `family` are a family.

    `samples` has the values of each line's units; None: the line is not tested. `status` is "not
    measured" where the units are too few for the family to reach 5 %.
    """
    families: dict[tuple[object, ...], list[int]] = {}
    for place, line in enumerate(lines):
        families.setdefault(tuple(line[name] for name in family), []).append(place)
    sizes = [sum(samples[place] is not None for place in own) for own in families.values()]
    p_values = sign_flip_ps(
        [np.array([]) if sample is None else sample for sample in samples],
        seed=seed,
        tests=max(sizes, default=0),
    )
    done = [dict(line) for line in lines]
    for own in families.values():
        of_family = p_values[own]
        fewest = fewest_units(int((~np.isnan(of_family)).sum() or 1))
        for place, p, p_holm in zip(own, of_family, holm(of_family), strict=True):
            enough = done[place]["units"] >= fewest
            status = "ok" if enough else f"not measured: fewer than {fewest} units"
            done[place] |= {"p": p, "p_holm": p_holm, "status": status}
    return done


_COLUMNS = [
    *("contrast", "image_set", "factor", "first_level", "second_level", "within"),
    *(*SUBJECT, "net_of"),
    *("first", "second", "difference", "low", "high", "units", "p", "p_holm"),
    *("dead_first", "dead_second", "scored", "eligible", "status"),
]


def _lines(
    rows: pd.DataFrame, contrast: ContrastSpec, seed: int, binary: Collection[str]
) -> list[Line]:
    places = Places(rows, contrast, binary=binary)
    values = places.column("value")
    dead = places.means(np.where(places.is_ok, places.rows["flag"] == "dead", np.nan))
    net = {one: places.pairs(values - places.earned(one, rows)) for one in contrast.net_of}
    lines: list[Line] = []
    samples: list[Array | None] = []
    for number, (place, own) in enumerate(zip(places.places, places.pairs(values), strict=True)):
        lines.append(_line(contrast, place, own, dead[number]))
        samples.append(own.difference)
        if place.about["technique"] not in ("", *contrast.net_of):
            for reference, pairs_of in net.items():
                left = pairs_of[number]
                if len(left.first):
                    about = {**described(contrast, place), "net_of": reference}
                    lines.append({**about, **estimated(left.of_differences), **counted(left)})
                    samples.append(None)
    return tested(lines, samples, seed, FAMILY)


def _line(contrast: ContrastSpec, place: Place, pairs: Pairs, dead: Array) -> Line:
    found = pairs.estimate
    is_heatmap = contrast.factor == "technique" or place.about["technique"] != ""
    return {
        **described(contrast, place),
        "net_of": "",
        "first": pairs.first.mean() if found.units else np.nan,
        "second": pairs.second.mean() if found.units else np.nan,
        **estimated(found),
        "dead_first": dead[0] if is_heatmap else np.nan,
        "dead_second": dead[1] if is_heatmap else np.nan,
        **counted(pairs),
    }


def counted(pairs: Pairs) -> Line:
    """Return how many images have a value and how many could, as columns of a table."""
    return {"scored": pairs.scored, "eligible": pairs.eligible}


def described(contrast: ContrastSpec, place: Place) -> Line:
    """Return which contrast is judged where, as columns of a table."""
    return {
        "contrast": contrast.name,
        "image_set": contrast.image_set,
        "factor": contrast.factor,
        "first_level": contrast.levels[0],
        "second_level": contrast.levels[1],
        "within": place.within,
        **place.about,
    }


def estimated(found: Estimate) -> Line:
    """Return an estimate as columns of a table of differences."""
    return {"difference": found.mean, "low": found.low, "high": found.high, "units": found.units}
