"""Contrasts in two runs: what the effect is in each, and what it changed by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from cnnaudit.comparing.changes import (
    CHANGED,
    NARROWER,
    WIDER,
    outcome_of,
    records_of,
    tested_table,
)
from cnnaudit.comparing.pairing import AFTER, BEFORE, section
from cnnaudit.contrasts import FAMILY, Pairs, Place, Places, described, estimated
from cnnaudit.entries import read_contrast
from cnnaudit.report.run import Record, Run
from cnnaudit.sections import Section
from cnnaudit.specs import ContrastSpec
from cnnaudit.statistics import Array


def effect_table(rows: pd.DataFrame, before: Run, after: Run, seed: int) -> pd.DataFrame:
    """Return the effect of each contrast in both runs, and what it changed by.

    The difference is that of differences, unit by unit: an effect on the way to 0 gets narrower.
    """
    lines: list[dict[str, Any]] = []
    samples: list[Array] = []
    for contrast in _contrasts(before, after):
        if not {contrast.factor, *contrast.within} <= {*rows}:
            continue
        places = Places(rows, contrast, binary=after.binary)
        sides = [places.pairs(places.column(name)) for name in (BEFORE, AFTER, "value")]
        rank = _in_declared_order(after, contrast)
        found = sorted(zip(places.places, *sides, strict=True), key=lambda one: rank(one[0]))
        for place, was, now, change in found:
            if not len(change.first):
                continue
            about = {**described(contrast, place), "factors": " · ".join(contrast.within)}
            lines.append({**about, **_effects(was, now, change)})
            samples.append(change.difference)
    table = tested_table(lines, samples, seed, FAMILY)
    table["outcome"] = [_meaning(one) for one in records_of(table)]
    return table


def _in_declared_order(run: Run, contrast: ContrastSpec) -> Callable[[Place], int]:
    """Return how to sort places at the levels of one factor; of several they stay as they come."""
    declared = run.levels(contrast.image_set)
    levels = list(declared.get(contrast.within[0], ())) if len(contrast.within) == 1 else []
    return lambda place: levels.index(place.within) if place.within in levels else len(levels)


def _effects(before: Pairs, after: Pairs, change: Pairs) -> dict[str, Any]:
    effects = {"before": before.estimate, "after": after.estimate}
    numbers = {
        name: value
        for side, found in effects.items()
        for name, value in (
            (side, found.mean),
            (f"{side}_low", found.low),
            (f"{side}_high", found.high),
        )
    }
    counted = {"paired": change.scored, "items": change.eligible}
    return {**numbers, **estimated(change.of_differences), **counted}


def _meaning(one: Record) -> str:
    found = outcome_of(one, None)
    turned = one["before"] * one["after"] < 0  # what crossed 0 got neither narrower nor wider
    if found != CHANGED or turned or abs(one["after"]) == abs(one["before"]):
        return found
    return NARROWER if abs(one["after"]) < abs(one["before"]) else WIDER


def _contrasts(before: Run, after: Run) -> list[ContrastSpec]:
    """Return the contrasts that both runs show and declare alike."""
    first, second = _declared_contrasts(before), _declared_contrasts(after)
    return [one for name, one in second.items() if first.get(name) == one]


def declared_apart(before: Run, after: Run) -> Iterator[str]:
    """Say which contrasts of one name are not the same in both runs."""
    first, second = _declared_contrasts(before), _declared_contrasts(after)
    for name, one in second.items():
        if name in first and first[name] != one:
            yield f"declared differently in both runs: contrast {name}"


def _declared_contrasts(run: Run) -> dict[str, ContrastSpec]:
    """Return the contrasts of a run's config that its results have."""
    shown = {one["contrast"] for one in run.contrasts}
    specs = {}
    for name, about in section(run, "contrast").items():
        if name in shown:
            keys = {key: value for key, value in about.items() if key != "net_of"}
            specs[name] = read_contrast(name, Section(f"contrast.{name}", keys))
    return specs
