"""Checks of two runs side by side, the judgements of another verdict first."""

from __future__ import annotations

from dataclasses import dataclass

from cnnaudit.comparing import CheckChange, Comparison
from cnnaudit.report.cells import NO_LEVEL, interval, plural, spaced
from cnnaudit.report.checks import Badge, badge, badness, places_of, requirement
from cnnaudit.report.run import Record


@dataclass(frozen=True)
class Judged:
    """One judgement of both runs."""

    before: Badge | None
    after: Badge | None
    requirement: str
    places: tuple[str, ...]
    values: tuple[str, str]


@dataclass(frozen=True)
class Check:
    title: str
    by: str
    before: Badge | None
    after: Badge | None
    alarms: tuple[str, ...]
    metric: str
    everywhere: str
    columns: tuple[str, ...]
    lines: tuple[Judged, ...]  # of another verdict in either run
    folded: tuple[Judged, ...]
    told: str


def checks_of(found: Comparison) -> list[Check]:
    """Return each check of both runs: those of another verdict first, then the worst."""
    ordered = sorted(found.checks, key=lambda one: (one.before == one.after, badness(one.after)))
    return [_check(found, one) for one in ordered]


def badge_of(text: str) -> Badge | None:
    """Return how a verdict is shown; none where there is no verdict."""
    return badge(text) if text else None


def _check(found: Comparison, one: CheckChange) -> Check:
    pairs = sorted(one.judgements, key=_badness_of_both)
    known = [after or before for before, after in pairs]
    # The pair is in the heading: the name of its second model alone would be wrong of the first.
    records = [{**record, "model": ""} for record in known if record is not None]
    columns, everywhere, places = places_of(found.after, records)
    lines = [_judged(found, *pair, place) for pair, place in zip(pairs, places, strict=True)]
    moved = [line for line in lines if line.before != line.after]
    stayed = [line for line in lines if line.before == line.after]
    metrics = dict.fromkeys(record["metric"] for record in records)
    return Check(
        title=spaced(one.check),
        by=one.model if len(found.models) > 1 else "",
        before=badge_of(one.before),
        after=badge_of(one.after),
        alarms=tuple(m.says for m in found.mismatches if m.model in ("", one.model)),
        metric=", ".join(found.after.title("metrics", name) for name in metrics),
        everywhere=everywhere,
        columns=columns,
        lines=tuple(moved),
        folded=tuple(stayed),
        told=f"{plural(len(stayed), 'judgement')} with the same verdict in both runs",
    )


def _badness_of_both(pair: tuple[Record | None, Record | None]) -> tuple[int, int]:
    before, after = (one["verdict"] if one else "" for one in pair)
    return badness(after), -badness(before)


def _judged(
    found: Comparison, before: Record | None, after: Record | None, places: tuple[str, ...]
) -> Judged:
    one = after or before
    assert one is not None
    scale = found.after.scale(one["metric"])
    values = [
        interval(side["value"], side["low"], side["high"], scale) if side else NO_LEVEL
        for side in (before, after)
    ]
    return Judged(
        before=badge_of(before["verdict"]) if before else None,
        after=badge_of(after["verdict"]) if after else None,
        requirement=requirement(found.after, one),
        places=places,
        values=(values[0], values[1]),
    )
