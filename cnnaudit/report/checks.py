"""The report's verdicts: the audit's, each check's, and each judgement with its evidence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from cnnaudit.report.cells import NO_LEVEL, interval, plural, probability, spaced
from cnnaudit.report.run import Record, Run, Variant
from cnnaudit.report.tables import variant_label
from cnnaudit.types import POOLED
from cnnaudit.verdicts import (
    AT_MOST,
    FAIL,
    INCONCLUSIVE,
    NOT_MEASURED,
    PASS,
    WORST_FIRST,
    Judgement,
    verdict_of,
)

FEW, MANY = 6, 8  # judgements shown of a check that has more than MANY; the rest is folded
MOST_NAMED = 6  # checks that the head names of a model; the others it counts
_SAY = {
    FAIL: "failed",
    NOT_MEASURED: "could not be measured",
    INCONCLUSIVE: "stayed undecided",
    PASS: "passed",
}
_MEANING = {
    FAIL: "A bound is broken by more than chance explains; do not rely on the network there.",
    NOT_MEASURED: "What could not be measured is no pass.",
    INCONCLUSIVE: "Some bound is neither surely kept nor surely broken; more images may decide.",
    PASS: "Every bound is kept, at every place where it was judged.",
}
_STATISTIC = {"level": "value", "lift": "lift", "difference": "difference"}
_BEATS = "beats "


@dataclass(frozen=True)
class Badge:
    """A verdict, and the name of its symbol and colour."""

    text: str
    kind: str
    says: str = ""  # what it means in one line


@dataclass(frozen=True)
class Line:
    """One judgement."""

    badge: Badge
    requirement: str
    places: tuple[str, ...]  # one per column of the check
    measured: str
    units: str
    p: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """How a model came out, and the checks that made it so where it did not pass."""

    badge: Badge
    model: str  # "" where a run is about one
    checks: tuple[tuple[str, str], ...]  # (address within the page, title)
    more: int  # checks that are not named


@dataclass(frozen=True)
class Check:
    anchor: str
    title: str
    badge: Badge
    metric: str
    meaning: str
    everywhere: str  # what all its judgements have in common
    columns: tuple[str, ...]
    lines: tuple[Line, ...]  # the worst
    folded: tuple[Line, ...]
    told: str  # what is folded, in words


def verdict(run: Run) -> Badge | None:
    """Return the audit's verdict and what it means; none where nothing is to be checked."""
    text = str(run.summary["verdict"])
    if not text:
        return None
    found = list(run.summary["checks"].values())
    meaning = _MEANING.get(text, "")
    judged = {one["model"] for one in run.judgements} - {""}
    return badge(text, f"{_counted(found, several=len(judged) > 1)} {meaning}".strip())


def outcomes(run: Run) -> list[Outcome]:
    """Return how each model came out, the worst first; nothing where one alone passes."""
    models = list(run.catalogue["models"])
    if not run.is_complete:
        return []
    found = [one for one in (_outcome(run, model) for model in models) if one]
    told = [one for one in found if len(models) > 1 or one.checks]
    return sorted(told, key=lambda one: badness(one.badge.text))


def _outcome(run: Run, model: str) -> Outcome | None:
    own = {
        (anchor, spaced(name)): [one for one in judgements if one["model"] in ("", model)]
        for anchor, name, judgements in _in_order(run)
    }
    text = verdict_of_records(one for judgements in own.values() for one in judgements)
    if not text:
        return None
    named = [
        place
        for place, judgements in own.items()
        if text != PASS and verdict_of_records(judgements) == text
    ]
    label = run.model_label(model) if len(run.catalogue["models"]) > 1 else ""
    more = max(0, len(named) - MOST_NAMED)
    return Outcome(badge(text), label, tuple(named[:MOST_NAMED]), more)


def verdict_of_records(records: Iterable[Record]) -> str:
    """Return the verdict of judgements as a run keeps them; "" where there are none."""
    names = [field.name for field in fields(Judgement)]
    known = [Judgement(**{name: one[name] for name in names}) for one in records]
    return verdict_of(known) if known else ""


def checks(run: Run) -> list[Check]:
    """Return each check with its judgements, the worst first."""
    return [_check(run, *one) for one in _in_order(run)]


def _in_order(run: Run) -> list[tuple[str, str, list[Record]]]:
    """Return the address, name and judgements of each check, the worst first."""
    own = run.summary["checks"]
    by_check: dict[str, list[Record]] = {name: [] for name in own}
    for one in run.judgements:
        by_check.setdefault(one["check"], []).append(one)
    names = sorted(by_check, key=lambda name: badness(own.get(name, "")))
    return [(f"check-{n}", name, by_check[name]) for n, name in enumerate(names, start=1)]


def _check(run: Run, anchor: str, name: str, judgements: Sequence[Record]) -> Check:
    ordered = sorted(judgements, key=_badness_of)
    columns, everywhere, places = places_of(run, ordered)
    lines = [_line(run, one, where) for one, where in zip(ordered, places, strict=True)]
    broken = sum(one["verdict"] == FAIL for one in ordered)  # never folded
    shown = max(FEW, broken) if len(lines) > MANY else len(lines)
    folded = tuple(lines[shown:])
    metrics = list(dict.fromkeys(one["metric"] for one in ordered))
    return Check(
        anchor=anchor,
        title=spaced(name),
        badge=badge(run.summary["checks"].get(name, "")),
        metric=", ".join(run.title("metrics", one) for one in metrics),
        meaning=run.meaning(metrics[0]) if len(metrics) == 1 else "",
        everywhere=everywhere,
        columns=columns,
        lines=tuple(lines[:shown]),
        folded=folded,
        told=_told(one.badge.text for one in folded),
    )


def _line(run: Run, one: Record, places: tuple[str, ...]) -> Line:
    units = one["units"]
    return Line(
        badge=badge(one["verdict"]),
        requirement=requirement(run, one),
        places=places,
        measured=interval(one["value"], one["low"], one["high"], run.scale(one["metric"])),
        units=f"{units:.0f}" if math.isfinite(units) else NO_LEVEL,
        p=probability(one["p_holm"]),
        reason=one["reason"],
    )


def requirement(run: Run, one: Record) -> str:
    """Say what a judgement requires."""
    statistic, bound = one["statistic"], one["bound"]
    if statistic.startswith(_BEATS):
        reference = statistic.removeprefix(_BEATS)
        statistic = f"lead over {spaced(run.title('techniques', reference))}"
    return f"{_STATISTIC.get(statistic, statistic)} {bound}".strip() or NO_LEVEL


def places_of(
    run: Run, judgements: Sequence[Record]
) -> tuple[tuple[str, ...], str, list[tuple[str, ...]]]:
    """Return the headings of where judgements differ, what they share, and each one's place."""
    kinds = [Variant(one["technique"], one["target"], "") for one in judgements]
    within = ["" if one["within"] == POOLED else one["within"] for one in judgements]
    levels = [one["level"] for one in judgements]
    named = [each for level in levels for each in level.split(" − ")]
    columns = {
        "model": [one["model"] for one in judgements],
        "technique": [variant_label(run, one, kinds) if one.technique else "" for one in kinds],
        "within": within,
        "level": levels,
    }
    heads = {"within": run.factor_of(within), "level": run.factor_of(named)}
    shared = [f"{heads.get(name, '')} {found[0]}".strip()
              for name, found in columns.items() if len(set(found)) == 1 and found[0]]  # fmt: skip
    varied = {name: found for name, found in columns.items() if len(set(found)) > 1}
    places = [tuple(found[n] or NO_LEVEL for found in varied.values())
              for n in range(len(judgements))]  # fmt: skip
    names = tuple(heads.get(name) or name for name in varied)
    return names, " · ".join(shared), places


def badge(text: str, says: str = "") -> Badge:
    """Return how a verdict is shown."""
    kind = text.lower().replace(" ", "-") if text in WORST_FIRST else "unknown"
    return Badge(text or NO_LEVEL, kind, says)


def badness(text: str) -> int:
    """Return the place of a verdict among all, the worst first."""
    return WORST_FIRST.index(text) if text in WORST_FIRST else len(WORST_FIRST)


def _badness_of(one: Record) -> tuple[int, float, float]:
    """Sort by verdict; among equals, what is nearer to breaking its bound, or past it, comes first.

    Many share the least p that a sign-flip test has: of those, the value tells which is worst.
    """
    value = -one["value"] if one["bound"].startswith(AT_MOST) else one["value"]
    p, value = (number if math.isfinite(number) else math.inf for number in (one["p"], value))
    return badness(one["verdict"]), p, value


def _counted(found: Sequence[str], *, several: bool) -> str:
    """Say how many checks came out how: "2 of 3 checks failed; 1 passed.".

    Under several models a check has the worst of their verdicts, and others may have passed it.
    """
    counts = Counter(found)
    ordered = sorted(counts, key=badness)
    said = [f"{counts[text]} {_SAY.get(text, text)}" for text in ordered]
    if several and said and ordered[0] != PASS:
        said[0] += " for at least one model"
    if len(ordered) == 1:
        whole = "The one check" if len(found) == 1 else f"All {len(found)} checks"
        return f"{whole} {said[0].partition(' ')[2]}."
    if not said:
        return ""
    first = said[0].replace(" ", f" of {len(found)} checks ", 1)
    return "; ".join([first, *said[1:]]) + "."


def _told(verdicts: Iterable[str]) -> str:
    counts = Counter(verdicts)
    kinds = ", ".join(f"{counts[text]} {text}" for text in sorted(counts, key=badness))
    return f"{plural(counts.total(), 'more judgement')}: {kinds}" if counts else ""
