"""What a comparison of two runs found, in a sentence for each metric of each technique."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cnnaudit.comparing import Comparison
from cnnaudit.comparing.changes import (
    BETTER,
    CHANGED,
    NOT_MEASURED,
    SAME,
    WORSE,
    counts,
    records_of,
)
from cnnaudit.report.cells import interval, number, place_in, plural
from cnnaudit.report.run import Record, Run
from cnnaudit.statistics import say_p

MIXED = "better and worse"
_SUBJECT = ["image_set", "model", "metric", "region", "technique", "target"]
_MOST_PLACES = 15  # that a number is written in: more are rounding
_KINDS = ("behaviour", "overlap", "faithfulness")  # what comes first; the rest after it


@dataclass(frozen=True)
class Change:
    text: str
    outcome: str
    counts: Mapping[str, int]  # outcome → places
    image_set: str
    model: str
    metric: str
    region: str
    technique: str
    target: str


def find_changes(found: Comparison) -> list[Change]:
    """Say of each metric of each technique where it changed most, behaviour before heatmaps."""
    order = list(found.after.catalogue["image_sets"])
    return sorted(_findings(found), key=lambda one: _rank(found.after, one, order))


def _findings(found: Comparison) -> Iterator[Change]:
    for subject, part in found.changes.groupby(_SUBJECT, sort=False, observed=True):
        about = dict(zip(_SUBJECT, map(str, subject), strict=True))
        records = records_of(part)
        # All images together stand for nothing where they are also told apart.
        places = [one for one in records if one["levels"]] or records
        counted = counts(one["outcome"] for one in places)
        yield Change(_sentence(found, places, counted), _overall(counted), counted, **about)


def _rank(run: Run, one: Change, image_sets: Sequence[str]) -> tuple[int, int, int]:
    kind = str(run.about("metrics", one.metric).get("kind"))
    metrics = list(run.catalogue["metrics"])
    return (
        place_in(_KINDS, kind),
        place_in(image_sets, one.image_set),
        place_in(metrics, one.metric),
    )


def _overall(counted: Mapping[str, int]) -> str:
    """Return the one outcome of several places that says most."""
    if {BETTER, WORSE} <= counted.keys():
        return MIXED
    return next(one for one in (BETTER, WORSE, CHANGED, SAME, NOT_MEASURED) if one in counted)


def _sentence(found: Comparison, places: Sequence[Record], counted: Mapping[str, int]) -> str:
    """Say where a metric got worse most, else where it changed most, and where the other way."""
    run, one = found.after, places[0]
    subject = _subject(found, one)
    measured = [place for place in places if place["outcome"] != NOT_MEASURED]
    if not measured:
        few = one["status"].partition(": ")[2]
        why = f"{plural(int(one['units']), run.unit(one['image_set']))}, {few}"
        return f"The {subject} could not be compared: {why}."
    changed = [place for place in measured if place["outcome"] != SAME]
    worse = [place for place in changed if place["outcome"] == WORSE]
    most = _largest(worse or changed or measured)
    where, units = _where(run, most), plural(int(most["units"]), run.unit(most["image_set"]))
    if not most["difference"]:
        alike = all(place["low"] == place["high"] == 0 for place in measured)
        how = "exactly the same" if alike else "the same on average"
        return f"The {subject} is {how} in both runs ({units})."
    if not changed:
        largest = f"the largest difference is {_effect(run, most)}{where and f' {where}'}"
        return f"The {subject} shows no change; {largest} ({units}, {say_p(most['p_holm'])})."
    opening = f"{where[:1].upper()}{where[1:]}, the" if where else "The"
    verb = "rose" if most["difference"] > 0 else "fell"
    shown = f"{_effect(run, most)}, {units}, {say_p(most['p_holm'])}"
    text = f"{opening} {subject} {verb} {_sides(run, most)} ({shown}): {most['outcome']}"
    others = [place for place in changed if place["outcome"] != most["outcome"]]
    return f"{text}{_other_way(run, others)}{_tally(places, counted)}."


def _largest(places: Sequence[Record]) -> Record:
    return max(places, key=lambda place: abs(place["difference"]))


def _effect(run: Run, one: Record) -> str:
    ends, scale = (one["difference"], one["low"], one["high"]), run.scale(one["metric"])
    value, low, high = told_apart(*ends, scale=scale)
    return max(interval(*ends, scale), f"{value} [{low}, {high}]", key=len)  # the finer one


def _sides(run: Run, one: Record) -> str:
    before, after = told_apart(one["before"], one["after"], scale=run.scale(one["metric"]))
    return f"from {before} to {after}"


def told_apart(*values: float, scale: tuple[float, float]) -> tuple[str, ...]:
    """Write numbers as tables do; in more digits where two that differ would read alike."""
    texts = tuple(number(value, scale) for value in values)
    if not all(map(math.isfinite, values)):
        return texts
    places = 2  # of a number on a unit scale; elsewhere three digits are written
    if max(map(abs, scale)) > 1:
        places = max(0, 2 - math.floor(math.log10(max(map(abs, values)) or 1)))
    while len({*texts}) < len({*values}) and places < _MOST_PLACES:
        places += 1
        texts = tuple(f"{value:z,.{places}f}".replace("-", "−") for value in values)
    return texts


def _other_way(run: Run, others: Sequence[Record]) -> str:
    """Say where what is worse elsewhere is better; what a fix bought is news, if it can be seen."""
    others = [one for one in others if _is_seen(run, one)]
    if not others:
        return ""
    one = _largest(others)
    shown = f"{_effect(run, one)}, {say_p(one['p_holm'])}"
    return f"; {one['outcome']} {_where(run, one)}: {_sides(run, one)} ({shown})"


def _is_seen(run: Run, one: Record) -> bool:
    """Say whether the two sides differ in the digits that tables have."""
    scale = run.scale(one["metric"])
    return number(one["before"], scale) != number(one["after"], scale)


def _subject(found: Comparison, one: Record) -> str:
    run = found.after
    title = run.title("metrics", one["metric"])
    if one["technique"]:
        title += f" of {run.title('techniques', one['technique'])}"
        targets = {*found.changes.loc[found.changes["technique"] != "", "target"]}
        title += f" for {one['target']}" if len(targets) > 1 else ""
    measured = found.changes.loc[found.changes["outcome"] != NOT_MEASURED, "image_set"]
    title += f" on {one['image_set']}" if {*measured} - {one["image_set"]} else ""
    return title + (f" ({one['model']})" if len(found.models) > 1 else "")


def _where(run: Run, one: Record) -> str:
    """Say a place in the image set's own words; "" where all images are together."""
    words = run.words(one["image_set"])
    places = run.about("image_sets", one["image_set"]).get("places") or {}
    named = list(zip(one["factors"].split(" · "), one["levels"], strict=False))
    said = [places.get(factor, {}).get(level) for factor, level in named]
    if len(named) == 2:  # of a grid: its columns, then its rows
        col, row = (words.get(factor, {}).get(level) for factor, level in named)
        at = said[0] or col or "at {} {!r}".format(*named[0])
        return f"{at}, for {row or '{} {!r}'.format(*named[1])}"
    return ", ".join(
        place or f"at {factor} {level!r}"
        for place, (factor, level) in zip(said, named, strict=True)
    )


def _tally(places: Sequence[Record], counted: Mapping[str, int]) -> str:
    if len(places) == 1:
        return ""
    listed = ", ".join(f"{count} {name}" for name, count in counted.items())
    return f"; of {len(places)} places: {listed}"
