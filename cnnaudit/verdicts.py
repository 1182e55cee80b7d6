"""Judgements → verdicts: of each check, of an audit, and where techniques contradict each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cnnaudit.specs import CheckSpec

INCOMPLETE, FAIL, NOT_MEASURED = "INCOMPLETE", "FAIL", "NOT MEASURED"
INCONCLUSIVE, PASS = "INCONCLUSIVE", "PASS"
WORST_FIRST = (INCOMPLETE, FAIL, NOT_MEASURED, INCONCLUSIVE, PASS)
AT_LEAST, AT_MOST = "≥", "≤"  # what a bound starts with; references are to be beaten: "> 0"


@dataclass(frozen=True)
class Judgement:
    """One requirement of one check at one place, with its evidence; one row of `checks.csv`."""

    check: str
    statistic: str  # level, lift, difference, or the reference that is to be beaten
    model: str
    target: str
    technique: str
    metric: str
    within: str
    level: str  # of the contrast's factor; both for a difference
    bound: str  # as it was declared
    value: float
    low: float  # two-sided 95 %
    high: float
    units: int
    p: float  # one-sided, against the bound; the larger of the two if dead heatmaps matter
    p_holm: float
    verdict: str
    reason: str


def overall(checks: Sequence[CheckSpec], judgements: Iterable[Judgement], *, complete: bool) -> str:
    """Return the verdict of an audit; "" where it declares no check."""
    if not checks:
        return ""
    return verdict_of(judgements) if complete else INCOMPLETE


def verdicts(judgements: Iterable[Judgement]) -> dict[str, str]:
    """Return each check's own verdict."""
    by_check: dict[str, list[Judgement]] = {}
    for one in judgements:
        by_check.setdefault(one.check, []).append(one)
    return {check: verdict_of(own) for check, own in by_check.items()}


def told(judgements: Sequence[Judgement]) -> list[str]:
    """Say each check's verdict, and the reason that its first such judgement has, if it has one."""
    lines = []
    for check, verdict in verdicts(judgements).items():
        own = (one for one in judgements if (one.check, one.verdict) == (check, verdict))
        reason = next((one.reason for one in own if one.reason), "")
        lines.append(f"{check}: {verdict}" + f" ({reason})" * bool(reason))
    return lines


def verdict_of(judgements: Iterable[Judgement]) -> str:
    """Return the worst verdict, techniques that contradict each other counting as undecided."""
    return worst(_of_alike(alike) for alike in _by_place(judgements).values())


def _of_alike(judgements: Sequence[Judgement]) -> str:
    """Return the verdict of judgements that differ in nothing but the technique."""
    verdicts = [one.verdict for one in judgements]
    if _contradict(judgements):
        return worst([INCONCLUSIVE, *(one for one in verdicts if one not in (PASS, FAIL))])
    return worst(verdicts)


def contradictions(judgements: Iterable[Judgement]) -> list[str]:
    """Name the places where one technique passes and another fails."""
    said = []
    for place, alike in _by_place(judgements).items():
        if _contradict(alike):
            passing, failing = (
                ", ".join(one.technique for one in alike if one.verdict == verdict)
                for verdict in (PASS, FAIL)
            )
            said.append(f"{', '.join(filter(None, place))}: {passing} pass, {failing} fail")
    return said


def _by_place(judgements: Iterable[Judgement]) -> dict[tuple[str, ...], list[Judgement]]:
    """Return the judgements that differ in nothing but the technique."""
    places: dict[tuple[str, ...], list[Judgement]] = {}
    for one in judgements:
        place = (one.check, one.statistic, one.model, one.target, one.within, one.level)
        places.setdefault(place, []).append(one)
    return places


def _contradict(alike: Iterable[Judgement]) -> bool:
    return {PASS, FAIL} <= {one.verdict for one in alike}


def worst(verdicts: Iterable[str]) -> str:
    """Return the worst of some verdicts; without any, nothing was measured."""
    return min(verdicts, key=WORST_FIRST.index, default=NOT_MEASURED)


def table_of(judgements: Iterable[Judgement]) -> pd.DataFrame:
    """Return judgements as a table, in their order."""
    columns: list[Any] = list(Judgement.__dataclass_fields__)
    return pd.DataFrame([vars(one) for one in judgements], columns=columns)
