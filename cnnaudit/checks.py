"""Declared checks → judgements, each with its verdict.

A check is judged at every level of the factors that its contrast and it itself name, for every
technique, never pooled. PASS: the one-sided 95 % interval keeps the bound (all must, so no
adjustment is needed). FAIL: a one-sided sign-flip test against the bound rejects it, after Holm
over all judgements. Else INCONCLUSIVE. NOT MEASURED: too few units, too little coverage, or a
reference level that does not itself see the object. Metrics that score an image 0 or 1 are judged
with a unit more at each end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

import numpy as np
import pandas as pd

from cnnaudit.contrasts import Place, Places
from cnnaudit.specs import CheckSpec, ContrastSpec, Requirement
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
from cnnaudit.types import IN_ROW
from cnnaudit.verdicts import AT_LEAST, AT_MOST, FAIL, INCONCLUSIVE, NOT_MEASURED, PASS, Judgement

# A dead heatmap is scored as the uniform map; a verdict must hold as well if it had scored the
# worst or the best.
_DEAD_SCORES = (0.0, 1.0)

_SUBJECT = ("model", "target", "technique")

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
    """Judge as `judge` does, by rows that `rows_of` gives of a metric, maybe with others."""
    by_name = {contrast.name: contrast for contrast in contrasts}
    trials = [
        trial
        for check in checks
        for trial in _Judging(
            rows_of(check.metric),
            check,
            by_name[check.contrast],
            _seeing(check, checks, by_name),
            binary,
        ).trials()
    ]
    open_trials = [trial for trial in trials if not trial.refusal]
    fewest = fewest_units(max(1, len(open_trials)))
    for trial in open_trials:
        units = len(trial.values[0])
        if units < fewest:
            trial.refusal = f"{units} units, at least {fewest} are needed"
    margins = [margin for trial in open_trials for margin in trial.margins]
    p_values = sign_flip_ps(margins, "less", seed, tests=len(open_trials)).reshape(
        -1, len(_DEAD_SCORES)
    )
    for trial, p in zip(open_trials, p_values.tolist(), strict=True):
        trial.p = p
    tested = [trial for trial in open_trials if not trial.refusal]
    adjusted = [holm(np.array([t.p[i] for t in tested])) for i in range(len(_DEAD_SCORES))]
    of_trial = {id(trial): [float(a[n]) for a in adjusted] for n, trial in enumerate(tested)}
    return tuple(_judgement(trial, of_trial.get(id(trial), []), len(tested)) for trial in trials)


def _seeing(
    check: CheckSpec, checks: Iterable[CheckSpec], contrasts: Mapping[str, ContrastSpec]
) -> Requirement | None:
    """Return what tells whether a level sees the object at all: a bound, or else more than chance.

    Answers have no chance level: their bound may stand in another check of the same metric.
    """
    image_set = contrasts[check.contrast].image_set
    others = (
        one
        for one in checks
        if not check.techniques
        and (one.metric, contrasts[one.contrast].image_set) == (check.metric, image_set)
    )
    bounds = (r for one in (check, *others) for r in one.requirements)
    own = next((one for one in bounds if one.statistic in ("level", "lift")), None)
    return own or (Requirement("lift", minimum=0.0) if check.techniques else None)


class _Judging:
    """One check, wherever its contrast looks."""

    def __init__(
        self,
        rows: pd.DataFrame,
        check: CheckSpec,
        contrast: ContrastSpec,
        seeing: Requirement | None,
        binary: Collection[str],
    ) -> None:
        each = dict.fromkeys((*contrast.within, *check.each))
        within = tuple(name for name in each if name != contrast.factor)
        self.rows, self.check, self.seeing = rows, check, seeing
        self.own = rows[
            (rows.metric == check.metric)
            & rows.technique.isin(check.techniques or [""])
            & (rows.image_set == contrast.image_set)
        ]
        contrast = replace(contrast, within=within)
        self.places = Places(self.own, contrast, check.at, binary=binary)

    def trials(self) -> Iterator[_Trial]:
        """Yield the trials of each place, requirement by requirement, then of what has no place."""
        required = [self._required(one) for one in self.check.requirements]
        for of_place in zip(*required, strict=True):
            for trials in of_place:
                yield from trials
        yield from self._absent()

    def _absent(self) -> Iterator[_Trial]:
        """Yield a refused trial of each technique and model that should be judged and cannot be."""
        check, places = self.check, self.places
        absent = sorted({*check.techniques} - {*self.own.technique})
        measured = check.metric in {*self.rows.metric}
        for technique in absent:
            lacking = technique if measured else check.metric
            yield _refused(check, f"{lacking} is not part of this audit", technique=technique)
        where = " and ".join(check.at) or "both levels of the contrast"
        lacking = f"no {check.metric} at {where}"
        names = [one for one in _SUBJECT if one != places.contrast.factor]
        judged = {tuple(place.about[name] for name in names) for place in places.places}
        for subject in self.own[names].drop_duplicates().astype(str).itertuples(index=False):
            if tuple(subject) not in judged:
                yield _refused(check, lacking, **dict(zip(names, subject, strict=True)))
        if self.own.empty and not absent:
            yield _refused(check, lacking)

    def _required(self, requirement: Requirement) -> list[list[_Trial]]:
        """Return the trials of a requirement at each place."""
        if requirement.statistic == "difference":
            return self._differences(requirement)
        if requirement.statistic == "beats":
            beaten = [self._beaten(one) for one in requirement.references]
            # At each place level by level, at each level all references.
            return [
                [one for at in zip(*of, strict=True) for one in at]
                for of in zip(*beaten, strict=True)
            ]
        column = _column_of(requirement)
        scores, ends = _with_dead(self.places, column), _ends(self.places, column)
        about = {"statistic": requirement.statistic, "bound": _say(requirement)}
        trials = self._at_levels(requirement, scores, ends, about)
        if column == "lift" and self._has_no_lift:
            for trial in chain.from_iterable(trials):
                trial.refusal = f"{self.check.metric} has no chance level, and so no lift"
        return trials

    def _beaten(self, reference: str) -> list[list[_Trial]]:
        places = self.places
        earned = places.earned(reference, self.rows)
        leads = [scores - earned for scores in _with_dead(places, "value")]
        about = {"statistic": f"beats {reference}", "bound": "> 0"}
        ends = [[(-1.0, 1.0) if binary else ()] * 2 for binary in places.is_binary]
        trials = self._at_levels(Requirement("beats", minimum=0.0), leads, ends, about)
        lacks = places.count(places.is_ok & np.isnan(earned))
        chosen = reference in IN_ROW or reference in {*self.rows.technique}
        lacking = "has no value for some of the images" if chosen else "is not part of this audit"
        for number, of_place in enumerate(trials):
            for (level, _), trial in zip(self._levels, of_place, strict=True):
                if lacks[number, level]:
                    trial.refusal = f"{reference} {lacking}"
        return trials

    def _at_levels(
        self,
        requirement: Requirement,
        scores: Sequence[Array],
        ends: Sequence[Sequence[Ends]],
        about: dict[str, str],
    ) -> list[list[_Trial]]:
        """Return a trial of each level at each place, of scores as `_with_dead` returns them."""
        means = [self.places.unit_means(one) for one in scores]
        lacking = self._lacking(scores[0])
        return [
            [
                _Trial(
                    {**self._about(place), **about, "level": name},
                    requirement,
                    [one[number][level] for one in means],
                    ends[number][level],
                    lacking[number][level],
                )
                for level, name in self._levels
            ]
            for number, place in enumerate(self.places.places)
        ]

    @property
    def _levels(self) -> list[tuple[int, str]]:
        """The levels that the check is judged at, each with its place in the contrast."""
        levels = self.places.contrast.levels
        return [(levels.index(level), level) for level in self.check.at or levels]

    def _differences(self, requirement: Requirement) -> list[list[_Trial]]:
        first, second = self.places.contrast.levels
        about = {"statistic": "difference", "bound": _say(requirement)}
        about["level"] = f"{first} − {second}"
        scores = _with_dead(self.places, "value")
        pairs = [self.places.pairs(one) for one in scores]
        lacking, blind = self._lacking(scores[0]), self._blind(requirement)
        return [
            [
                _Trial(
                    {**self._about(place), **about},
                    requirement,
                    [one[number].difference for one in pairs],
                    pairs[0][number].ends,
                    next(filter(None, lacking[number]), "") or blind[number],
                )
            ]
            for number, place in enumerate(self.places.places)
        ]

    @cached_property
    def _has_no_lift(self) -> bool:
        """Whether images have values and none a lift, as of a metric without a chance level."""
        return bool(self.places.is_ok.any() and np.isnan(self.places.column("lift")).all())

    def _about(self, place: Place) -> dict[str, str]:
        subject = {name: place.about[name] for name in _SUBJECT}
        about = {"check": self.check.name, "metric": self.check.metric, "within": place.within}
        return {**subject, **about}

    def _lacking(self, scores: Array) -> list[list[str]]:
        """Say of both levels of each place if too few of its images have a score."""
        least = self.check.coverage
        scored = self.places.count(~np.isnan(scores)).tolist()
        return [
            [
                ""
                if of and has / of >= least  # a product would round 55 % of 100 up to more than 55
                else f"{has} of {of} eligible images have a value, {least:.0%} are asked"
                for has, of in zip(*counts, strict=True)
            ]
            for counts in zip(scored, self.places.eligible.tolist(), strict=True)
        ]

    def _blind(self, requirement: Requirement) -> list[str]:
        """Say of each place if its reference level does not see the object; "" if it does.

        The reference is the level that the other must come near to: if it were blind, anything
        would keep the bound of a difference.
        """
        places, seeing = self.places, self.seeing
        if seeing is None:
            missing = f"no check says what {self.check.metric} must be: require a level as well"
            return [missing] * len(places)
        if seeing.statistic == "lift" and self._has_no_lift:
            missing = f"{self.check.metric} has no chance level: require a level as well"
            return [missing] * len(places)
        is_second = (requirement.minimum is None) == (seeing.minimum is None)
        level = places.contrast.levels[is_second]
        column = _column_of(seeing)
        means, ends = places.unit_means(places.column(column)), _ends(places, column)
        least = [
            _least(_margin(of[is_second], its[is_second], seeing))
            for of, its in zip(means, ends, strict=True)
        ]
        if (seeing.statistic, seeing.minimum) == ("lift", 0.0):
            blind = f"the heatmaps at {level!r} are not above chance"
            return ["" if one > 0 else blind for one in least]
        blind = f"{level!r} itself does not keep {seeing.statistic} {_say(seeing)}"
        return ["" if one >= 0 else blind for one in least]


def _refused(check: CheckSpec, reason: str, **subject: str) -> _Trial:
    names = (*_SUBJECT, "within", "statistic", "level", "bound")
    about = dict.fromkeys(names, "") | {"check": check.name, "metric": check.metric} | subject
    return _Trial(about, Requirement("level"), [np.array([])], (), reason)


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
    dead = (places.rows["flag"] == "dead").to_numpy() & ~np.isnan(own)
    chance = np.where(dead, places.column("chance"), 0) if column == "lift" else np.zeros(len(own))
    return [own, *(np.where(dead, (s - chance) / (1 - chance), own) for s in _DEAD_SCORES)]


def _ends(places: Places, column: str) -> list[list[Ends]]:
    """Return the least and the most that a unit can score at both levels of each place."""
    least = np.zeros(len(places.rows))
    if column == "lift":
        chance = places.column("chance")
        least = np.divide(-chance, 1 - chance, out=np.full_like(chance, np.nan), where=chance < 1)
    return [
        [(float(units.mean()), 1.0) if binary and len(units) else () for units in of_place]
        for of_place, binary in zip(places.unit_means(least), places.is_binary, strict=True)
    ]


def _least(values: Array) -> float:
    """Return the end of the one-sided 95 % interval, NaN where there is none."""
    return estimate(values, 1 - 2 * ALPHA).low


def _column_of(requirement: Requirement) -> str:
    return "value" if requirement.statistic == "level" else "lift"


def _say(requirement: Requirement) -> str:
    if requirement.minimum is not None:
        return f"{AT_LEAST} {requirement.minimum:g}".replace("-", "−")
    return f"{AT_MOST} {requirement.maximum:g}".replace("-", "−")
