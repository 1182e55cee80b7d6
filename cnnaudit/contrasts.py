"""Paired contrasts of two levels of a factor, over independent units: pandas, never torch.

A pair is what agrees in every block factor; a unit's value is the mean over its pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnaudit.sections import unknown
from cnnaudit.statistics import Array, Estimate, estimate, fewest_units, holm, sign_flip_p
from cnnaudit.summary import POOLED
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import COMPARED, IN_ROW, AuditError, ContrastSpec, ImageSet

SUBJECT = ("model", "target", "technique", "layer", "region", "metric")


@dataclass(frozen=True)
class Pairs:
    """The values of both levels of a contrast for one subject, one per unit, paired."""

    units: tuple[str, ...]
    first: Array  # (n,)
    second: Array  # (n,), the reference
    scored: int  # items with a value
    eligible: int  # items that could have one

    @property
    def difference(self) -> Array:
        return self.first - self.second

    @property
    def coverage(self) -> float:
        """Share of the eligible items that have a value; 0 where none is eligible."""
        return self.scored / self.eligible if self.eligible else 0.0

    def net_of(self, other: Pairs) -> Array:
        """Return the difference less another subject's, over the units that both have."""
        theirs = dict(zip(other.units, other.difference, strict=True))
        own = zip(self.units, self.difference, strict=True)
        return np.array([value - theirs[unit] for unit, value in own if unit in theirs])


def check_contrast(
    contrast: ContrastSpec, image_set: ImageSet, names: Mapping[str, Sequence[str]]
) -> None:
    """Raise AuditError, saying why, if an audit cannot answer a contrast.

    `names` has the audit's own models, techniques and targets, which can be compared like the
    levels of a factor, image by image.
    """
    where, compared = f"contrast.{contrast.name}", contrast.factor in COMPARED
    factors = (*image_set.factors, *(COMPARED if contrast.factor not in image_set.factors else ()))
    for key, asked, known in (
        ("factor", (contrast.factor,), factors),
        ("blocks", contrast.blocks, image_set.factors),
        ("within", contrast.within, image_set.factors),
    ):
        for name in asked:
            if name not in known:
                raise AuditError(
                    f"{where}.{key}: {name!r} is no factor of {image_set.spec.name}; "
                    f"allowed are {', '.join(known) or 'none'}"
                )
    levels = names[contrast.factor] if compared else image_set.levels(contrast.factor)
    for level in contrast.levels:
        if level not in levels:
            raise AuditError(
                f"{where}.levels: {level!r} is no level of {contrast.factor!r}; "
                f"allowed are {', '.join(levels)}"
            )
    references = {*TECHNIQUES, *names["technique"], *IN_ROW}
    for name in contrast.net_of:  # one that is not chosen is not there to be taken away
        if name not in references:
            raise AuditError(f"{where}.net_of: {unknown(name, sorted(references), 'reference')}")
    if compared:
        return  # the two sides of a pair are one image
    if image_set.spec.unit not in (None, *contrast.blocks):
        raise AuditError(
            f"{where}.blocks: {image_set.spec.unit!r}, the unit of {image_set.spec.name}, must be "
            "one of them; pairs across units are not paired"
        )
    if stray := [name for name in contrast.within if name not in contrast.blocks]:
        raise AuditError(f"{where}.within: {stray[0]!r} must be one of the blocks, or pairs mix it")
    _check_balance(contrast, image_set, where)


def pairs_of(rows: pd.DataFrame, contrast: ContrastSpec, value: str = "value") -> Pairs:
    """Pair one subject's rows, already restricted to one level of each factor `within`.

    `value` names the column that is compared. Pairs of which one side has no value are left out
    of the means and stay in the count of eligible items.
    """
    own = rows[rows[contrast.factor].isin(contrast.levels)]
    eligible = own[own.status != "ineligible"]
    scored = eligible[eligible.status == "ok"].dropna(subset=[value])
    blocks = ("item",) if contrast.factor in COMPARED else contrast.blocks
    keys = ["unit", *(name for name in blocks if name in rows)]  # the unit has its column
    table = scored.groupby([*keys, contrast.factor])[value].mean().unstack(contrast.factor)
    table = table.reindex(columns=list(contrast.levels)).dropna()
    by_unit = table.groupby(level="unit").mean()
    first, second = (by_unit[level].to_numpy(np.float64) for level in contrast.levels)
    return Pairs(tuple(map(str, by_unit.index)), first, second, len(scored), len(eligible))


def within_levels(rows: pd.DataFrame, contrast: ContrastSpec) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the rows at each level of the factors that a contrast is judged within."""
    if not contrast.within:
        yield POOLED, rows
        return
    for levels, part in rows.groupby(list(contrast.within), sort=True):
        name = " · ".join(map(str, levels))
        if all(levels):  # an item without a level is not at one
            yield name, part


def subjects(
    rows: pd.DataFrame, contrast: ContrastSpec, levels: Sequence[str] = ()
) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Yield what has values at both levels, its columns of SUBJECT ("" for what is compared).

    With `levels` what has values at these.
    """
    own = rows[rows.image_set == contrast.image_set]
    compared = {contrast.factor, "layer"} if contrast.factor in COMPARED else set()
    columns = [name for name in SUBJECT if name not in compared]
    for key, part in own.groupby(columns, sort=True):
        found = set(part.loc[part.status != "ineligible", contrast.factor])
        if set(levels or contrast.levels) <= found:
            about = dict(zip(columns, map(str, key), strict=True))
            yield {**dict.fromkeys(SUBJECT, ""), **about}, part


def contrast_table(
    rows: pd.DataFrame, contrasts: Iterable[ContrastSpec], seed: int
) -> pd.DataFrame:
    """Return every contrast of every subject: both levels, difference, interval, p, Holm.

    The family of Holm's adjustment is one metric of one contrast: all its models, techniques and
    levels. `status` is "not measured" where the units are too few for the family to reach 5 %.
    After each line stand those that are net of a reference's own difference; they are not tested.
    """
    lines = []
    for contrast in contrasts:
        for about, part in subjects(rows, contrast):
            for where, here in within_levels(part, contrast):
                pairs = pairs_of(here, contrast)
                lines.append(_line(contrast, about, where, here, pairs, seed))
                lines += _net_lines(rows, contrast, about, where, here, pairs)
    table = pd.DataFrame(lines, columns=_COLUMNS)
    for _, family in table.groupby(["contrast", "metric", "region"]):
        p_values = family.p.to_numpy(np.float64)
        table.loc[family.index, "p_holm"] = holm(p_values)
        fewest = fewest_units(int((~np.isnan(p_values)).sum() or 1))
        table.loc[family.index, "status"] = np.where(
            family.units < fewest, f"not measured: fewer than {fewest} units", "ok"
        )
    return table


_COLUMNS = [
    *("contrast", "image_set", "factor", "first_level", "second_level", "within"),
    *(*SUBJECT, "net_of"),
    *("first", "second", "difference", "low", "high", "units", "p", "p_holm"),
    *("dead_first", "dead_second", "scored", "eligible", "status"),
]


def _line(
    contrast: ContrastSpec,
    about: Mapping[str, str],
    where: str,
    rows: pd.DataFrame,
    pairs: Pairs,
    seed: int,
) -> dict[str, object]:
    found = estimate(pairs.difference)
    dead = rows.flag.eq("dead").where(rows.status == "ok").astype(float)
    is_heatmap = bool((rows.technique != "").all())
    shares = dead.groupby(rows[contrast.factor]).mean() if is_heatmap else pd.Series(dtype=float)
    first, second = contrast.levels
    return {
        **_of(contrast, about, where),
        "net_of": "",
        "first": pairs.first.mean() if found.units else np.nan,
        "second": pairs.second.mean() if found.units else np.nan,
        **_estimated(found),
        "p": sign_flip_p(pairs.difference, seed=seed),
        "dead_first": shares.get(first, np.nan),
        "dead_second": shares.get(second, np.nan),
        "scored": pairs.scored,
        "eligible": pairs.eligible,
    }


def _net_lines(
    rows: pd.DataFrame,
    contrast: ContrastSpec,
    about: Mapping[str, str],
    where: str,
    here: pd.DataFrame,
    pairs: Pairs,
) -> Iterator[dict[str, object]]:
    """Yield a heatmap's difference less what each reference's heatmaps show of it themselves."""
    if not about["technique"] or about["technique"] in contrast.net_of:
        return
    same = rows.image_set == contrast.image_set
    for name in ("model", "target", "region", "metric"):
        if name != contrast.factor:
            same &= rows[name] == about[name]
    for reference in contrast.net_of:
        if reference in IN_ROW:
            theirs = pairs_of(here, contrast, IN_ROW[reference])
        else:
            levels = dict(within_levels(rows[same & (rows.technique == reference)], contrast))
            theirs = pairs_of(levels.get(where, here[:0]), contrast)
        if theirs.units:
            found = estimate(pairs.net_of(theirs))
            yield {**_of(contrast, about, where), "net_of": reference, **_estimated(found)}


def _of(contrast: ContrastSpec, about: Mapping[str, str], where: str) -> dict[str, object]:
    return {
        "contrast": contrast.name,
        "image_set": contrast.image_set,
        "factor": contrast.factor,
        "first_level": contrast.levels[0],
        "second_level": contrast.levels[1],
        "within": where,
        **about,
        "status": "",  # known when its family is
    }


def _estimated(found: Estimate) -> dict[str, object]:
    return {"difference": found.mean, "low": found.low, "high": found.high, "units": found.units}


def _check_balance(contrast: ContrastSpec, image_set: ImageSet, where: str) -> None:
    """Refuse blocks in which one of the two levels is missing, naming them."""
    first, second = (
        {
            tuple(item.factors.get(name, "") for name in contrast.blocks)
            for item in image_set.items
            if item.factors.get(contrast.factor) == level
        }
        for level in contrast.levels
    )
    if not first & second:
        raise AuditError(
            f"{where}: {image_set.spec.name} has no pair of {contrast.levels[0]!r} and "
            f"{contrast.levels[1]!r} with equal {', '.join(contrast.blocks)}"
        )
    if lonely := sorted(first ^ second):
        shown = "; ".join(", ".join(block) for block in lonely[:5])
        raise AuditError(
            f"{where}: unbalanced, {len(lonely)} blocks lack one of the two levels: {shown}"
        )
