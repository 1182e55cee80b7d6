"""Declared checks → judgements, each with its verdict.

A check is judged at every level of the factors that its contrast and it itself name, for every
technique, never pooled. PASS: the one-sided 95 % interval keeps the bound (all must, so no
adjustment is needed). FAIL: a one-sided sign-flip test against the bound rejects it, after Holm
over all judgements. Else INCONCLUSIVE. NOT MEASURED: too few units, too little coverage, or a
reference level that does not itself see the object. Metrics that score an image 0 or 1 are judged
with a unit more at each end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from cnnaudit.contrasts import Place, Places, none_of
from cnnaudit.specs import COMPARED, CheckSpec, ContrastSpec, Requirement
from cnnaudit.statistics import (
    ALPHA,
    Array,
    estimate,
    fewest_units,
    holm,
    say_p,
    sign_flip_ps,
    with_ends,
)
from cnnaudit.types import IN_ROW, AuditError, ImageSet
from cnnaudit.verdicts import AT_LEAST, AT_MOST, FAIL, INCONCLUSIVE, NOT_MEASURED, PASS, Judgement

# A dead heatmap is scored as the uniform map; a verdict must hold as well if it had scored the
# worst or the best.
_DEAD_SCORES = (0.0, 1.0)

Ends = tuple[float, ...]  # the least and the most of a unit, where images score 0 or 1


@dataclass
class _Trial:
    """A judgement in the making."""

    about: dict[str, str]
    requirement: Requirement
    values: Sequence[Array]  # of each unit: as it is, and under each score of dead heatmaps
    ends: Ends
    refusal: str  # why it cannot be measured; "" if it can
    p: list[float] = field(default_factory=list)

    @cached_property
    def margins(self) -> list[Array]:
        """By how much each unit keeps the bound, above 0 if it does, under each of the scores."""
        return [_margin(one, self.ends, self.requirement) for one in self.values[1:]]


def judge(
    rows: pd.DataFrame,
    checks: Sequence[CheckSpec],
    contrasts: Iterable[ContrastSpec],
    seed: int,
    binary: Collection[str] = (),
) -> tuple[Judgement, ...]:
    """Judge every requirement of every check wherever its contrast looks.

    `binary` are the names of metrics that score an image 0 or 1.
    """
    return judge_each(lambda _: rows, checks, contrasts, seed, binary)


def judge_each(
    rows_of: Callable[[str], pd.DataFrame],
    checks: Sequence[CheckSpec],
    contrasts: Iterable[ContrastSpec],
    seed: int,
    binary: Collection[str] = (),
) -> tuple[Judgement, ...]:
    """Judge as `judge` does, by rows that are had metric by metric, others of no account."""
    by_name = {contrast.name: contrast for contrast in contrasts}
    trials = [
        trial
        for check in checks
        for trial in _trials(rows_of(check.metric), check, by_name[check.contrast], binary)
    ]
    open_trials = [trial for trial in trials if not trial.refusal]
    fewest = fewest_units(max(1, len(open_trials)))
    for trial in open_trials:
        units = len(trial.values[0])
        if units < fewest:
            trial.refusal = f"{units} units, at least {fewest} are needed"
    margins = [margin for trial in open_trials for margin in trial.margins]
    p_values = sign_flip_ps(margins, "less", seed).reshape(-1, len(_DEAD_SCORES))
    for trial, p in zip(open_trials, p_values.tolist(), strict=True):
        trial.p = p
    tested = [trial for trial in open_trials if not trial.refusal]
    adjusted = [holm(np.array([t.p[i] for t in tested])) for i in range(len(_DEAD_SCORES))]
    of_trial = {id(trial): [float(a[n]) for a in adjusted] for n, trial in enumerate(tested)}
    return tuple(_judgement(trial, of_trial.get(id(trial), []), len(tested)) for trial in trials)


def check_levels(check: CheckSpec, contrast: ContrastSpec, image_set: ImageSet) -> None:
    """Raise AuditError if a check asks for the levels of what is no factor of an image set."""
    for name in check.each:
        if name not in image_set.conditions:
            known = ", ".join(image_set.conditions) or "none"
            raise AuditError(
                f"check.{check.name}.each: {name!r} is {none_of(image_set, name)}; "
                f"allowed are {known}"
            )
        compares = any(required.statistic == "difference" for required in check.requirements)
        stays_equal = contrast.factor in COMPARED or name in (contrast.factor, *contrast.blocks)
        if compares and not stays_equal:
            raise AuditError(
                f"check.{check.name}.each: {name!r} is none of the blocks of the contrast "
                f"{contrast.name}, so the two sides of a difference may differ in it"
            )


def _trials(
    rows: pd.DataFrame, check: CheckSpec, contrast: ContrastSpec, binary: Collection[str]
) -> Iterator[_Trial]:
    own = rows[(rows.metric == check.metric) & rows.technique.isin(check.techniques or [""])]
    each = dict.fromkeys((*contrast.within, *check.each))
    contrast = replace(contrast, within=tuple(name for name in each if name != contrast.factor))
    places = Places(own, contrast, check.at, binary=binary)
    required = [_required(rows, places, check, one) for one in check.requirements]
    for of_place in zip(*required, strict=True):
        for trials in of_place:
            yield from trials
    absent = sorted(set(check.techniques) - set(own.technique))
    measured = check.metric in set(rows.metric)
    for technique in absent:
        lacking = technique if measured else check.metric
        yield _refused(check, technique, f"{lacking} is not part of this audit")
    if not (len(places) or absent):
        where = " and ".join(check.at) or "both levels of the contrast"
        yield _refused(check, "", f"no {check.metric} at {where}")


def _refused(check: CheckSpec, technique: str, reason: str) -> _Trial:
    names = ("model", "target", "within", "statistic", "level", "bound")
    about = dict.fromkeys(names, "") | {"check": check.name, "metric": check.metric}
    nothing = Requirement("level"), [np.array([])], ()
    return _Trial(about | {"technique": technique}, *nothing, reason)


def _required(
    rows: pd.DataFrame, places: Places, check: CheckSpec, requirement: Requirement
) -> list[list[_Trial]]:
    """Return the trials of a requirement at each place."""
    if requirement.statistic == "difference":
        return _differences(places, check, requirement)
    if requirement.statistic == "beats":
        beaten = [_beaten(rows, places, check, one) for one in requirement.references]
        # At each place level by level, at each level all references.
        return [
            [one for at in zip(*of, strict=True) for one in at] for of in zip(*beaten, strict=True)
        ]
    column = _column_of(requirement)
    scores, ends = _with_dead(places, column), _ends(places, column)
    about = {"statistic": requirement.statistic, "bound": _say(requirement)}
    return _at_levels(places, check, requirement, scores, ends, about)


def _beaten(
    rows: pd.DataFrame, places: Places, check: CheckSpec, reference: str
) -> list[list[_Trial]]:
    earned = _earned(rows, places, check, reference)
    leads = [scores - earned for scores in _with_dead(places, "value")]
    about = {"statistic": f"beats {reference}", "bound": "> 0"}
    ends = [[(-1.0, 1.0) if binary else ()] * 2 for binary in places.is_binary]
    trials = _at_levels(places, check, Requirement("beats", minimum=0.0), leads, ends, about)
    lacks = places.count(places.is_ok & np.isnan(earned))
    levels = _levels(places, check)
    chosen = reference in IN_ROW or reference in set(rows.technique)
    lacking = "has no value for some of the images" if chosen else "is not part of this audit"
    for number, of_place in enumerate(trials):
        for (level, _), trial in zip(levels, of_place, strict=True):
            if not trial.refusal and lacks[number, level]:
                trial.refusal = f"{reference} {lacking}"
    return trials


def _earned(rows: pd.DataFrame, places: Places, check: CheckSpec, reference: str) -> Array:
    """Return what a reference earns on the image of each row, NaN where it has no value."""
    if reference in IN_ROW:
        return places.column(IN_ROW[reference])
    keys = ["model", "target", "image_set", "item"]  # of a level that is compared, its own
    theirs = rows[(rows.technique == reference) & (rows.metric == check.metric)]
    theirs = theirs[[*keys, "value"]]
    joined = places.rows[keys].merge(theirs, on=keys, how="left", validate="many_to_one")
    return joined["value"].to_numpy(np.float64)


def _at_levels(
    places: Places,
    check: CheckSpec,
    requirement: Requirement,
    scores: Sequence[Array],
    ends: Sequence[Sequence[Ends]],
    about: dict[str, str],
) -> list[list[_Trial]]:
    """Return a trial of each level at each place, of scores and ends as they are returned below."""
    means = [places.unit_means(one) for one in scores]
    return [
        [
            _Trial(
                {**_about(place, check), **about, "level": name},
                requirement,
                [one[number][level] for one in means],
                ends[number][level],
                _too_little(places.eligible[number, level], places.scored[number, level], check),
            )
            for level, name in _levels(places, check)
        ]
        for number, place in enumerate(places.places)
    ]


def _levels(places: Places, check: CheckSpec) -> list[tuple[int, str]]:
    """Return the levels that a check is judged at, each with its place in the contrast."""
    levels = places.contrast.levels
    return [(levels.index(level), level) for level in check.at or levels]


def _differences(places: Places, check: CheckSpec, requirement: Requirement) -> list[list[_Trial]]:
    first, second = places.contrast.levels
    about = {"statistic": "difference", "level": f"{first} − {second}", "bound": _say(requirement)}
    pairs = [places.pairs(scores) for scores in _with_dead(places, "value")]
    blind = _blind_references(places, check)
    return [
        [
            _Trial(
                {**_about(place, check), **about},
                requirement,
                [one[number].difference for one in pairs],
                pairs[0][number].ends,
                _too_little(places.eligible[number].sum(), places.scored[number].sum(), check)
                or blind[number],
            )
        ]
        for number, place in enumerate(places.places)
    ]


def _about(place: Place, check: CheckSpec) -> dict[str, str]:
    names = {name: place.about[name] for name in ("model", "target", "technique")}
    return names | {"check": check.name, "metric": check.metric, "within": place.within}


def _judgement(trial: _Trial, adjusted: Sequence[float], tests: int) -> Judgement:
    """Judge a trial by its p-values, as they are after correction for so many tests."""
    found = estimate(trial.values[0], ends=trial.ends)
    verdict, reason = NOT_MEASURED, trial.refusal
    if not trial.refusal:
        verdicts = [_decide(s, p) for s, p in zip(trial.margins, adjusted, strict=True)]
        verdict = verdicts[0] if len(set(verdicts)) == 1 else INCONCLUSIVE
        if len(set(verdicts)) > 1:
            told = zip(verdicts, _DEAD_SCORES, strict=True)
            either = (f"{one} if they score {score:g}" for one, score in told)
            reason = f"dead heatmaps decide: {', '.join(either)}"
        elif verdict == INCONCLUSIVE and max(trial.p) <= ALPHA:
            reason = f"alone it would FAIL ({say_p(max(trial.p))}), not as one of {tests} tests"
    return Judgement(
        **trial.about,
        value=found.mean,
        low=found.low,
        high=found.high,
        units=found.units,
        p=max(trial.p, default=np.nan),
        p_holm=max(adjusted, default=np.nan),
        verdict=verdict,
        reason=reason,
    )


def _decide(margin: Array, p: float) -> str:
    """Decide from the margins over the bound and the adjusted p of their lying below it."""
    if p <= ALPHA:
        return FAIL
    return PASS if _least(margin) >= 0 else INCONCLUSIVE


def _margin(values: Array, ends: Ends, requirement: Requirement) -> Array:
    """Return the margin by which units keep a bound, above 0 if they do."""
    values = with_ends(values, ends)
    if requirement.minimum is not None:
        return values - requirement.minimum
    assert requirement.maximum is not None
    return requirement.maximum - values


def _with_dead(places: Places, column: str) -> list[Array]:
    """Return what each row scores: as it is, and had dead heatmaps scored either extreme."""
    own = places.column(column)
    dead = (places.rows["flag"] == "dead").to_numpy() & places.is_ok
    chance = places.column("chance") if column == "lift" else np.zeros(len(own))
    return [own, *(np.where(dead, (s - chance) / (1 - chance), own) for s in _DEAD_SCORES)]


def _ends(places: Places, column: str) -> list[list[Ends]]:
    """Return the least and the most that a unit can score at both levels of each place."""
    least = np.zeros(len(places.rows))
    if column == "lift":
        chance = places.column("chance")
        least = np.divide(-chance, 1 - chance, out=np.full_like(chance, np.nan), where=chance < 1)
    return [
        [(low, 1.0) if binary else () for low in of_place]
        for of_place, binary in zip(places.means(least).tolist(), places.is_binary, strict=True)
    ]


def _too_little(eligible: int, scored: int, check: CheckSpec) -> str:
    if eligible and scored >= check.coverage * eligible:
        return ""
    return f"{scored} of {eligible} eligible images have a value, {check.coverage:.0%} are asked"


def _blind_references(places: Places, check: CheckSpec) -> list[str]:
    """Say of each place if the reference level does not itself see the object.

    Then no difference is no news. It does if it keeps the check's own bound on the level, or else
    scores above chance, by the one-sided 95 % interval.
    """
    level = places.contrast.levels[1]
    own = next((r for r in check.requirements if r.statistic in ("level", "lift")), None)
    required = own or Requirement("lift", minimum=0.0)
    column = _column_of(required)
    means, ends = places.unit_means(places.column(column)), _ends(places, column)
    least = [_least(_margin(of[1], its[1], required)) for of, its in zip(means, ends, strict=True)]
    if own is not None:
        blind = f"{level!r} itself does not keep {own.statistic} {_say(own)}"
        return ["" if one >= 0 else blind for one in least]
    blind = f"the heatmaps at {level!r} are not above chance"
    return ["" if not check.techniques or one > 0 else blind for one in least]


def _least(values: Array) -> float:
    """Return the end of the one-sided 95 % interval, NaN where there is none."""
    return estimate(values, 1 - 2 * ALPHA).low


def _column_of(requirement: Requirement) -> str:
    return "value" if requirement.statistic == "level" else "lift"


def _say(requirement: Requirement) -> str:
    if requirement.minimum is not None:
        return f"{AT_LEAST} {requirement.minimum:g}".replace("-", "−")
    return f"{AT_MOST} {requirement.maximum:g}".replace("-", "−")
