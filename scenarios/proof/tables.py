"""The records of all networks → tables of rates and areas, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cnnaudit.verdicts import FAIL, PASS
from scenarios.proof.cues import WEATHER
from scenarios.proof.evidence import CROSSED
from scenarios.proof.plan import Proof
from scenarios.proof.rates import area, rate

SHOWN = ("mass_in_mask", "mass_in_sky")
CLEAN, BETWEEN, FAULTY = "clean", "between", "faulty"
Records = Sequence[Mapping[str, Any]]


def networks_table(records: Records) -> pd.DataFrame:
    """Return a line for each network: what it is, and the verdict of each kind of evidence."""
    about = ("arm", "head", "seed", "label", "matched", "conflicting")
    return pd.DataFrame([{n: one[n] for n in about} | one["verdicts"] for one in records])


def evidence_table(records: Records) -> pd.DataFrame:
    """Return how often each kind of evidence says FAIL of an arm's networks, by their label."""
    return _counted(
        {"arm": one["arm"], "label": one["label"], "evidence": kind, "verdict": verdict}
        for one in records
        for kind, verdict in one["verdicts"].items()
    )


def techniques_table(records: Records) -> pd.DataFrame:
    """Return the same of each technique, its heatmaps judged alone."""
    return _counted(
        {"arm": one["arm"], "label": one["label"], **judged}
        for one in records
        for judged in one["techniques"]
    )


def areas_table(records: Records) -> pd.DataFrame:
    """Return how well each score tells an arm's other networks from the clean ones: areas."""
    scores = pd.DataFrame(
        [
            {"arm": one["arm"], "label": one["label"], **score}
            for one in records
            for score in one["scores"]
        ]
    )
    keys = ["technique", "metric", "pictures"]
    sound = {key: of.score for key, of in scores[scores.label == CLEAN].groupby(keys)}
    lines = []
    for (arm, *key), part in scores[scores.label != CLEAN].groupby(["arm", *keys], sort=False):
        apart = area(sound[tuple(key)], part.score)
        about = {"arm": arm, **dict(zip(keys, key, strict=True))}
        lines.append(about | {"networks": len(part), "area": apart.value} | _ends(apart))
    return pd.DataFrame(lines)


def strengths_table(records: Records, proof: Proof) -> pd.DataFrame:
    """Return what a figure shows of every network that learnt the weather to some degree."""
    graded = {n: arm for n, arm in proof.arms.items() if arm.cue == WEATHER and not arm.spoil}
    return pd.DataFrame(
        [
            {"arm": one["arm"], "strength": graded[one["arm"]].strength, "head": one["head"]}
            | score
            for one in records
            if one["arm"] in graded
            for score in [
                *(score for score in one["scores"] if _is_shown(score)),
                {"technique": "", "metric": "conflicting", "score": one["conflicting"]},
            ]
        ]
    )


def _is_shown(score: Mapping[str, Any]) -> bool:
    return score["pictures"] == CROSSED and score["metric"] in (*SHOWN, "weather_difference")


def randomisation_table(records: Records) -> pd.DataFrame:
    """Return each technique's mean rank correlation with itself once all weights are random."""
    found = pd.DataFrame([one["randomisation"] for one in records if one["randomisation"]])
    columns = {"correlation": found.mean(), "highest": found.max(), "networks": found.count()}
    return pd.DataFrame(columns).rename_axis("technique").reset_index()


def _counted(judged: Any) -> pd.DataFrame:
    verdicts = pd.DataFrame(judged)
    keys = [name for name in verdicts if name != "verdict"]
    lines = []
    for key, part in verdicts.groupby(keys, sort=False):
        failed, passed = (int((part.verdict == name).sum()) for name in (FAIL, PASS))
        share = rate(failed, len(part))
        counts = {"networks": len(part), "fail": failed, "pass": passed}
        counts["undecided"] = len(part) - failed - passed
        lines.append(
            dict(zip(keys, key, strict=True)) | counts | {"rate": share.value} | _ends(share)
        )
    return pd.DataFrame(lines)


def _ends(interval: Any) -> dict[str, float]:
    return {"low": interval.low, "high": interval.high}
