"""What failed, and numbers that cannot exist: each reason once, and the first few of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cnnaudit.report.cells import STATUSES, plural, spaced
from cnnaudit.report.run import Run

_SHOWN = 12  # reasons, before the others are folded

Numbers = Mapping[tuple[str, str], set[tuple[str, str]]]  # of a model and image set, what there is


@dataclass(frozen=True)
class Gap:
    """Why some numbers are not there."""

    status: str
    where: str
    what: str
    reason: str
    items: str
    examples: str


@dataclass(frozen=True)
class Gaps:
    shown: Sequence[Gap]
    folded: Sequence[Gap]
    told: str  # what is folded, in words


def gaps_of(run: Run, group: str) -> Gaps:
    """Return a run's failures or gaps, those that differ in nothing but the model as one."""
    numbers = _numbers(run)
    alike: dict[tuple[str, ...], list[str]] = {}
    for one in run.summary[group]:
        image_set = str(one["image_set"])
        told = (
            _what(run, one["missing"], numbers.get((one["model"], image_set), set())),
            spaced(str(one["reason"])),
            plural(int(one["items"]), "image"),
            ", ".join(map(str, one["examples"])),
        )
        status = STATUSES.get(one["status"], str(one["status"]))
        alike.setdefault((status, image_set, *told), []).append(str(one["model"]))
    found = [
        Gap(status, " on ".join(filter(None, (", ".join(models), image_set))), *told)
        for (status, image_set, *told), models in alike.items()
    ]
    folded = found[_SHOWN:]
    return Gaps(found[:_SHOWN], folded, plural(len(folded), "more reason"))


def _numbers(run: Run) -> Numbers:
    """Return the technique and metric of every number of each model on each image set."""
    found: dict[tuple[str, str], set[tuple[str, str]]] = {}
    names = run.means[["model", "image_set", "technique", "metric"]].drop_duplicates()
    for model, image_set, technique, metric in names.itertuples(index=False):
        found.setdefault((model, image_set), set()).add((technique, metric))
    return found


def _what(run: Run, missing: Mapping[str, Sequence[str]], every: set[tuple[str, str]]) -> str:
    """Say which metrics of which techniques, techniques with the same metrics together."""
    if every <= {(technique, name) for technique, names in missing.items() for name in names}:
        return "everything"
    same: dict[str, list[str]] = {}
    for technique, metrics in missing.items():
        names = ", ".join(run.title("metrics", name) for name in metrics)
        same.setdefault(names, []).append(run.title("techniques", technique) if technique else "")
    return "; ".join(
        ": ".join(filter(None, (", ".join(filter(None, techniques)), names)))
        for names, techniques in same.items()
    )
