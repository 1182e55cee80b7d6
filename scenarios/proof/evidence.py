"""What an audit's rows say, kind of evidence by kind, technique by technique."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from cnnaudit.checks import judge
from cnnaudit.metrics import binary_metrics
from cnnaudit.specs import AuditSpec, CheckSpec
from cnnaudit.verdicts import Judgement, table_of, verdict_of

CROSSED, ALIKE = "crossed", "alike"
SETS = {"tank": CROSSED, "alike": ALIKE}  # image set → what its pictures are
HEATMAPS = {CROSSED: "heatmaps, crossed", ALIKE: "heatmaps, alike"}  # the kinds judged by technique
LOWER_IS_BETTER = ("mass_in_sky",)


@dataclass(frozen=True)
class Evidence:
    """What the audit of one network found."""

    verdicts: Mapping[str, str]  # kind of evidence → verdict
    techniques: Sequence[Mapping[str, str]]  # technique, pictures, verdict of it alone
    scores: Sequence[
        Mapping[str, str | float]
    ]  # technique, metric, pictures, score: higher is sounder


def evidence_of(rows: pd.DataFrame, audit: AuditSpec, kinds: Mapping[str, list[str]]) -> Evidence:
    """Judge each kind of evidence by itself, as if its checks were the only ones declared."""
    checks = {check.name: check for check in audit.checks}
    declared = {kind: [checks[name] for name in names] for kind, names in kinds.items()}
    verdicts = {kind: _verdict(rows, audit, of_kind) for kind, of_kind in declared.items()}
    techniques = [
        {
            "technique": technique.name,
            "pictures": pictures,
            "verdict": _verdict(rows, audit, _by(technique.name, declared[kind])),
        }
        for technique in audit.techniques
        for pictures, kind in HEATMAPS.items()
    ]
    return Evidence(verdicts, techniques, [*_heatmap_scores(rows), *_behaviour_scores(rows, audit)])


def _by(technique: str, checks: Sequence[CheckSpec]) -> list[CheckSpec]:
    return [replace(check, techniques=(technique,)) for check in checks]


def _judge(
    rows: pd.DataFrame, checks: Sequence[CheckSpec], audit: AuditSpec
) -> tuple[Judgement, ...]:
    return judge(rows, checks, audit.contrasts, audit.seed, binary_metrics(audit.metrics))


def _verdict(rows: pd.DataFrame, audit: AuditSpec, checks: Sequence[CheckSpec]) -> str:
    return verdict_of(_judge(rows, checks, audit))


def _heatmap_scores(rows: pd.DataFrame) -> list[dict[str, str | float]]:
    """Return each technique's mean lift by each metric, of crossed ones in the worse weather."""
    rows = rows[(rows.technique != "") & (rows.presence == "tank") & rows.lift.notna()]
    rows = rows.assign(lift=rows.lift.where(~rows.metric.isin(LOWER_IS_BETTER), -rows.lift))
    crossed = rows.image_set.map(SETS) == CROSSED
    rows = rows.assign(weather=rows.weather.astype(str).where(crossed, ""))
    keys = ["technique", "metric", "image_set"]
    means = rows.groupby([*keys, "weather"], observed=True).lift.mean()
    worst = means.groupby(keys, observed=True).min()
    return [
        {"technique": technique, "metric": metric, "pictures": SETS[image_set], "score": score}
        for (technique, metric, image_set), score in worst.items()
    ]


def _behaviour_scores(rows: pd.DataFrame, audit: AuditSpec) -> list[dict[str, str | float]]:
    """Return what the behaviour checks look at, where each is at its worst."""
    behaviour = [check for check in audit.checks if not check.techniques]
    found = table_of(_judge(rows, behaviour, audit))
    crossed = found[found.metric == "truth_probability"]
    level = crossed[crossed.statistic == "level"].value.min()
    difference = crossed[crossed.statistic == "difference"].value.abs().max()
    accuracy = rows[(rows.metric == "correct") & (rows.image_set == "alike")].value.mean()
    return [
        {"technique": "", "metric": metric, "pictures": pictures, "score": float(score)}
        for metric, pictures, score in (
            ("truth_probability", CROSSED, level),
            ("weather_difference", CROSSED, -difference),
            ("correct", ALIKE, accuracy),
        )
    ]
