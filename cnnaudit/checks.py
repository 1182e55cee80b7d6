"""Declared checks → judgements → verdicts.

A check is judged at every level of the factors that its contrast and it itself name, for every
technique, never pooled. PASS: the one-sided 95 % interval keeps the bound (all must, so no
adjustment is needed). FAIL: a one-sided sign-flip test against the bound rejects it, after Holm
over all judgements. Else INCONCLUSIVE. NOT MEASURED: too few units, too little coverage, or a
reference level that does not itself see the object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from cnnaudit.contrasts import pairs_of, subjects, within_levels
from cnnaudit.statistics import ALPHA, Array, estimate, fewest_units, holm, sign_flip_p
from cnnaudit.types import (
    COMPARED,
    IN_ROW,
    AuditError,
    CheckSpec,
    ContrastSpec,
    ImageSet,
    Requirement,
)

INCOMPLETE, FAIL, NOT_MEASURED = "INCOMPLETE", "FAIL", "NOT MEASURED"
INCONCLUSIVE, PASS = "INCONCLUSIVE", "PASS"
WORST_FIRST = (INCOMPLETE, FAIL, NOT_MEASURED, INCONCLUSIVE, PASS)

# A dead heatmap is scored as the uniform map; a verdict must hold as well if it had scored the
# worst or the best.
_DEAD_SCORES = (0.0, 1.0)


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


@dataclass
class _Trial:
    """A judgement in the making: its samples under each score that a dead heatmap might have."""

    about: dict[str, str]
    samples: tuple[Array, ...]  # of value minus bound, turned so that above 0 keeps it
    value: Array
    refusal: str  # why it cannot be measured; "" if it can
    p: list[float] = field(default_factory=list)


def judge(
    rows: pd.DataFrame,
    checks: Sequence[CheckSpec],
    contrasts: Iterable[ContrastSpec],
    seed: int,
) -> tuple[Judgement, ...]:
    """Judge every requirement of every check wherever its contrast looks."""
    by_name = {contrast.name: contrast for contrast in contrasts}
    trials = [t for check in checks for t in _trials(rows, check, by_name[check.contrast])]
    open_trials = [trial for trial in trials if not trial.refusal]
    fewest = fewest_units(max(1, len(open_trials)))
    for trial in open_trials:
        if len(trial.value) < fewest:
            trial.refusal = f"{len(trial.value)} units, at least {fewest} are needed"
        trial.p = [sign_flip_p(sample, "less", seed) for sample in trial.samples]
    tested = [trial for trial in open_trials if not trial.refusal]
    adjusted = [holm(np.array([t.p[i] for t in tested])) for i in range(len(_DEAD_SCORES))]
    of_trial = {id(trial): [float(a[n]) for a in adjusted] for n, trial in enumerate(tested)}
    return tuple(_judgement(trial, of_trial.get(id(trial), [])) for trial in trials)


def check_levels(check: CheckSpec, contrast: ContrastSpec, image_set: ImageSet) -> None:
    """Raise AuditError if a check asks for the levels of what is no factor of an image set."""
    for name in check.each:
        if name not in image_set.factors:
            known = ", ".join(image_set.factors) or "none"
            raise AuditError(
                f"check.{check.name}.each: {name!r} is no factor of {image_set.spec.name}; "
                f"allowed are {known}"
            )
        compares = any(required.statistic == "difference" for required in check.requirements)
        stays_equal = contrast.factor in COMPARED or name in (contrast.factor, *contrast.blocks)
        if compares and not stays_equal:
            raise AuditError(
                f"check.{check.name}.each: {name!r} is none of the blocks of the contrast "
                f"{contrast.name}, so the two sides of a difference may differ in it"
            )


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


def verdict_of(judgements: Iterable[Judgement]) -> str:
    """Return the worst verdict, techniques that contradict each other counting as undecided."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for one in judgements:
        key = (one.check, one.statistic, one.model, one.target, one.within, one.level)
        groups.setdefault(key, []).append(one.verdict)
    return worst(
        INCONCLUSIVE if {PASS, FAIL} <= set(verdicts) else worst(verdicts)
        for verdicts in groups.values()
    )


def contradictions(judgements: Iterable[Judgement]) -> list[str]:
    """Name the places where one technique passes and another fails."""
    places: dict[str, dict[str, list[str]]] = {}
    for one in judgements:
        place = f"{one.check}, {one.statistic}, {one.model}, {one.within}, {one.level}"
        places.setdefault(place, {}).setdefault(one.verdict, []).append(one.technique)
    return [
        f"{place}: {', '.join(found[PASS])} pass, {', '.join(found[FAIL])} fail"
        for place, found in places.items()
        if PASS in found and FAIL in found
    ]


def worst(verdicts: Iterable[str]) -> str:
    """Return the worst of some verdicts; without any, nothing was measured."""
    return min(verdicts, key=WORST_FIRST.index, default=NOT_MEASURED)


def _trials(rows: pd.DataFrame, check: CheckSpec, contrast: ContrastSpec) -> Iterator[_Trial]:
    own = rows[(rows.metric == check.metric) & rows.technique.isin(check.techniques or [""])]
    each = dict.fromkeys((*contrast.within, *check.each))
    contrast = replace(contrast, within=tuple(name for name in each if name != contrast.factor))
    found = False
    for subject, part in subjects(own, contrast, check.at):
        for where, here in within_levels(part, contrast):
            found = True
            about = {name: subject[name] for name in ("model", "target", "technique")}
            about |= {"check": check.name, "metric": check.metric, "within": where}
            for requirement in check.requirements:
                yield from _required(rows, here, check, contrast, requirement, about)
    for technique in sorted(set(check.techniques) - set(own.technique)):
        found = True
        yield _refused(check, technique, f"{technique} is not part of this audit")
    if not found:
        where = " and ".join(check.at) or "both levels of the contrast"
        yield _refused(check, "", f"no {check.metric} at {where}")


def _refused(check: CheckSpec, technique: str, reason: str) -> _Trial:
    names = ("model", "target", "within", "statistic", "level", "bound")
    about = dict.fromkeys(names, "") | {"check": check.name, "metric": check.metric}
    return _Trial(about | {"technique": technique}, (), np.array([]), reason)


def _required(
    rows: pd.DataFrame,
    here: pd.DataFrame,
    check: CheckSpec,
    contrast: ContrastSpec,
    requirement: Requirement,
    about: Mapping[str, str],
) -> Iterator[_Trial]:
    if requirement.statistic == "difference":
        yield _difference(here, check, contrast, requirement, about)
        return
    for level in check.at or contrast.levels:
        part = here[here[contrast.factor] == level]
        if requirement.statistic == "beats":
            for reference in requirement.references:
                yield _beats(rows, part, check, level, reference, about)
        else:
            yield _bounded(part, check, level, requirement, about)


def _bounded(
    part: pd.DataFrame,
    check: CheckSpec,
    level: str,
    requirement: Requirement,
    about: Mapping[str, str],
) -> _Trial:
    column = "value" if requirement.statistic == "level" else "lift"
    samples = [_by_unit(_with_dead(part, score), column) for score in _DEAD_SCORES]
    return _Trial(
        {**about, "statistic": requirement.statistic, "level": level, "bound": _say(requirement)},
        tuple(_kept(sample, requirement) for sample in samples),
        _by_unit(part, column),
        _too_little(part, check),
    )


def _difference(
    here: pd.DataFrame,
    check: CheckSpec,
    contrast: ContrastSpec,
    requirement: Requirement,
    about: Mapping[str, str],
) -> _Trial:
    samples = [pairs_of(_with_dead(here, s), contrast).difference for s in _DEAD_SCORES]
    level = f"{contrast.levels[0]} − {contrast.levels[1]}"
    reference = here[here[contrast.factor] == contrast.levels[1]]
    refusal = _too_little(here[here[contrast.factor].isin(contrast.levels)], check)
    return _Trial(
        {**about, "statistic": "difference", "level": level, "bound": _say(requirement)},
        tuple(_kept(sample, requirement) for sample in samples),
        pairs_of(here, contrast).difference,
        refusal or _blind_reference(reference, check, contrast.levels[1]),
    )


def _beats(
    rows: pd.DataFrame,
    part: pd.DataFrame,
    check: CheckSpec,
    level: str,
    reference: str,
    about: Mapping[str, str],
) -> _Trial:
    if reference in IN_ROW:
        earned = part[IN_ROW[reference]]  # what the reference earns on each item
    else:
        same = (rows.technique == reference) & (rows.metric == check.metric)
        for name in ("model", "target", "image_set"):  # of a level that is compared, its own
            same &= rows[name] == part[name].iloc[0]
        earned = part["item"].map(rows[same].set_index("item").value)
    refusal = _too_little(part, check)
    if not refusal and earned[part.status == "ok"].isna().any():
        refusal = f"{reference} has no value for some of the images"
    leads = [
        _by_unit(scored.assign(value=scored.value - earned), "value")
        for scored in (part, *(_with_dead(part, score) for score in _DEAD_SCORES))
    ]
    return _Trial(
        {**about, "statistic": f"beats {reference}", "level": level, "bound": "> 0"},
        tuple(leads[1:]),
        leads[0],
        refusal,
    )


def _judgement(trial: _Trial, adjusted: Sequence[float]) -> Judgement:
    found = estimate(trial.value)
    verdict, reason = NOT_MEASURED, trial.refusal
    if not trial.refusal:
        verdicts = [_decide(s, p) for s, p in zip(trial.samples, adjusted, strict=True)]
        verdict = verdicts[0] if len(set(verdicts)) == 1 else INCONCLUSIVE
        if len(set(verdicts)) > 1:
            reason = "dead heatmaps decide: " + " or ".join(verdicts)
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
    return PASS if estimate(margin, 1 - 2 * ALPHA).low >= 0 else INCONCLUSIVE


def _kept(values: Array, requirement: Requirement) -> Array:
    """Return the margin by which values keep a bound, above 0 if they do."""
    if requirement.minimum is not None:
        return values - requirement.minimum
    assert requirement.maximum is not None
    return requirement.maximum - values


def _with_dead(rows: pd.DataFrame, score: float) -> pd.DataFrame:
    """Return rows in which dead heatmaps have scored this much."""
    dead = rows.flag == "dead"
    if not dead.any():
        return rows
    lift = (score - rows.chance) / (1 - rows.chance)
    return rows.assign(value=rows.value.mask(dead, score), lift=rows.lift.mask(dead, lift))


def _by_unit(rows: pd.DataFrame, column: str) -> Array:
    scored = rows[rows.status == "ok"].dropna(subset=[column])
    means: Array = scored.groupby("unit", sort=True)[column].mean().to_numpy(np.float64)
    return means


def _too_little(rows: pd.DataFrame, check: CheckSpec) -> str:
    eligible = int((rows.status != "ineligible").sum())
    scored = int((rows.status == "ok").sum())
    if eligible and scored >= check.coverage * eligible:
        return ""
    return f"{scored} of {eligible} eligible images have a value, {check.coverage:.0%} are asked"


def _blind_reference(rows: pd.DataFrame, check: CheckSpec, level: str) -> str:
    """Say so if the reference level does not itself see the object: then no difference is no news.

    It does if it keeps the check's own bound on the level, or else scores above chance, by the
    one-sided 95 % interval.
    """
    own = next((r for r in check.requirements if r.statistic in ("level", "lift")), None)
    if own is not None:
        column = "value" if own.statistic == "level" else "lift"
        values = _by_unit(rows, column)
        sees = estimate(_kept(values, own), 1 - 2 * ALPHA).low >= 0
        return "" if sees else f"{level!r} itself does not keep {own.statistic} {_say(own)}"
    lift = _by_unit(rows, "lift")
    if not check.techniques or (len(lift) and estimate(lift, 1 - 2 * ALPHA).low > 0):
        return ""
    return f"the heatmaps at {level!r} are not above chance"


def _say(requirement: Requirement) -> str:
    if requirement.minimum is not None:
        return f"≥ {requirement.minimum:g}".replace("-", "−")
    return f"≤ {requirement.maximum:g}".replace("-", "−")


def table_of(judgements: Iterable[Judgement]) -> pd.DataFrame:
    """Return judgements as a table, in their order."""
    columns: list[Any] = list(Judgement.__dataclass_fields__)
    return pd.DataFrame([vars(one) for one in judgements], columns=columns)
