"""Two runs → what got better, what got worse, and what shows no change: pandas, never torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cnnaudit.comparing.changes import change_table
from cnnaudit.comparing.effects import declared_apart, effect_table
from cnnaudit.comparing.pairing import (
    Mismatch,
    Models,
    definitions,
    left_out,
    mismatches,
    pair_models,
    paired_rows,
)
from cnnaudit.provenance import differences
from cnnaudit.report.checks import verdict_of_records
from cnnaudit.report.run import Record, Run
from cnnaudit.types import AuditError
from cnnaudit.verdicts import INCOMPLETE

# Of manifest.json: what numbers depend on beside the config.
_ENVIRONMENT = (
    *("git", "packages", "hardware", "digests", "seed", "determinism", "tf32", "amp"),
    *("nondeterministic", "batch_size"),
)
_OF_NO_NUMBER = ("output_dir", "store_dir", "executor", "report")  # keys of a config
_JUDGED_BY = (
    *("check", "statistic", "bound", "model", "target", "technique", "metric", "within", "level"),
)


class Refused(AuditError):
    """Two runs whose inputs differ: what they measured is not about the same thing."""


@dataclass(frozen=True)
class CheckChange:
    """One check of a pair of models, with every judgement of both runs."""

    check: str
    model: str  # label of the pair
    before: str  # verdict; "" where the run does not have the check
    after: str
    judgements: tuple[tuple[Record | None, Record | None], ...]


@dataclass(frozen=True)
class Comparison:
    before: Run
    after: Run
    models: tuple[Models, ...]
    verdicts: Mapping[str, tuple[str, str]]  # label of a pair → verdict of either run, "": none
    mismatches: tuple[Mismatch, ...]
    left_out: tuple[str, ...]
    changes: pd.DataFrame  # a row for each subject at each place
    effects: pd.DataFrame  # the same for what each contrast came to
    checks: tuple[CheckChange, ...]
    definitions: Mapping[tuple[str, str], str]  # (group, name) → how it differs
    environment: tuple[tuple[str, Any, Any], ...]  # what else differs, and how
    config: tuple[tuple[str, Any, Any], ...]

    def concerns(self, image_set: str, model: str) -> list[str]:
        """Return why the numbers of an image set and a pair of models are not comparable."""
        return [one.says for one in self.mismatches if one.concerns(image_set, model)]

    @property
    def incomplete(self) -> list[str]:
        """Which of the runs are INCOMPLETE, in words."""
        runs = {"the first run": self.before, "the second run": self.after}
        return [which for which, run in runs.items() if not run.is_complete]


def compare(
    before: Run, after: Run, declared: Sequence[Models] = (), *, force: bool = False
) -> Comparison:
    """Compare the second run with the first.

    `declared` are models that belong together under different names. Raises Refused if images,
    masks, truths, levels or preprocessing differ, unless it is forced; AuditError if the runs have
    nothing in common.
    """
    models = pair_models(before, after, declared)
    rows = paired_rows(before, after, models)
    found = tuple(mismatches(before, after, models, rows))
    if found and not force:
        raise Refused(
            "these runs are not about the same inputs, so that a difference between them says "
            f"nothing about the models alone: {'; '.join(one.says for one in found)}. "
            "--force compares them all the same, and marks what is affected"
        )
    seed = int(after.manifest.get("seed") or 0)
    first = (before, {pair.label: pair.before for pair in models})
    second = (after, {pair.label: pair.after for pair in models})
    return Comparison(
        before=before,
        after=after,
        models=models,
        verdicts={pair.label: _verdicts(before, after, pair) for pair in models},
        mismatches=found,
        left_out=(*left_out(before, after, models), *declared_apart(before, after)),
        changes=change_table(rows, before, after, seed),
        effects=effect_table(rows, before, after, seed),
        checks=tuple(_checks(before, after, models)),
        definitions=definitions(before, after, models),
        environment=tuple(differences(_environment(*first), _environment(*second))),
        config=tuple(differences(_config(*first), _config(*second))),
    )


# --- checks ---------------------------------------------------------------------------------------


def _checks(before: Run, after: Run, models: Iterable[Models]) -> Iterator[CheckChange]:
    for pair in models:
        own = [_judgements(before, pair.before), _judgements(after, pair.after)]
        names = dict.fromkeys(one["check"] for side in own for one in side)
        for name in names:
            sides = [[one for one in side if one["check"] == name] for side in own]
            first, second = ({_place(one): one for one in side} for side in sides)
            yield CheckChange(
                name,
                pair.label,
                verdict_of_records(sides[0]),
                verdict_of_records(sides[1]),
                tuple((first.get(at), second.get(at)) for at in dict.fromkeys([*second, *first])),
            )


def _judgements(run: Run, model: str) -> list[Record]:
    """Return the judgements of one model; those that are about none count for each."""
    return [one for one in run.judgements if one["model"] in ("", model)]


def _place(one: Record) -> tuple[str, ...]:
    return tuple(one[name] for name in _JUDGED_BY if name != "model")


def _verdicts(before: Run, after: Run, pair: Models) -> tuple[str, str]:
    """Return the verdict of each run on its model of a pair; "" where nothing is checked."""
    first, second = (
        _overall(run, _judgements(run, name))
        for run, name in zip((before, after), pair, strict=True)
    )
    return first, second


def _overall(run: Run, judgements: Sequence[Record]) -> str:
    return verdict_of_records(judgements) if run.is_complete else INCOMPLETE


# --- what else ------------------------------------------------------------------------------------


def _config(run: Run, names: Mapping[str, str]) -> dict[str, Any]:
    kept = {key: value for key, value in run.declared.items() if key not in _OF_NO_NUMBER}
    return {**kept, "model": _by_pair(run, names, kept.get("model"))}


def _environment(run: Run, names: Mapping[str, str]) -> dict[str, Any]:
    found = {key: run.manifest.get(key) for key in _ENVIRONMENT}
    digests = dict(found["digests"] or {})
    digests["weights"] = _by_pair(run, names, digests.get("weights"))
    return {**found, "digests": digests, "batch_size": _by_pair(run, names, found["batch_size"])}


def _by_pair(run: Run, names: Mapping[str, str], facts: Any) -> Any:
    """Return facts about each model under the label of its pair, those of other models left out.

    `names` are the labels of pairs with this run's model of each.
    """
    if not isinstance(facts, Mapping):
        return facts
    own = {label: facts[name] for label, name in names.items() if name in facts}
    return {key: x for key, x in facts.items() if key not in run.catalogue["models"]} | own
