"""What a run left behind, read back for its report: files of the run directory and the store."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cnnaudit.store import Store
from cnnaudit.summary import unguarded
from cnnaudit.types import AuditError

NUMBERS = ("mean", "chance", "lift", "swap", "dead")
OF_CHECKS = ("value", "low", "high", "units", "p", "p_holm")  # the numbers of checks.csv
OF_CONTRASTS = (
    *("first", "second", "difference", "low", "high", "units", "p", "p_holm"),
    *("dead_first", "dead_second", "scored", "eligible"),
)
COUNTS = ("units", "scored", "total", "ineligible", "undefined", "not_applicable", "failed")


class Subject(NamedTuple):
    """One model on one image set: what most tables and grids are about."""

    number: int  # its place in the page's addresses; names are not fit for those
    image_set: str
    model: str


class Variant(NamedTuple):
    """One kind of heatmap of a model; all empty for behaviour."""

    technique: str
    target: str
    layer: str


@dataclass(frozen=True)
class Run:
    """A finished run as its files tell it."""

    folder: Path
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]
    config: str
    means: pd.DataFrame  # results/summary.csv
    rows: pd.DataFrame  # results/rows.parquet
    judgements: tuple[Mapping[str, Any], ...]  # results/checks.csv
    contrasts: tuple[Mapping[str, Any], ...]  # results/contrasts.csv
    pictures: tuple[Mapping[str, Any], ...]  # results/illustrations.json
    store: Store

    def about(self, group: str, name: str) -> Mapping[str, Any]:
        """Return what the manifest's catalogue says of a metric, technique, model or image set."""
        found: Mapping[str, Any] = self.manifest["catalogue"].get(group, {}).get(name, {})
        return found

    def title(self, group: str, name: str) -> str:
        """Return how the page calls a metric or technique."""
        return str(self.about(group, name).get("title") or name)

    def metrics(self, kind: str) -> list[str]:
        """Return the metrics of a kind in the catalogue's order, the primary one first."""
        known = self.manifest["catalogue"]["metrics"]
        return [name for name, about in known.items() if about.get("kind") == kind]

    def scale(self, metric: str) -> tuple[float, float]:
        """Return a metric's range, infinite where it has no limit."""
        limits = self.about("metrics", metric).get("range") or (0.0, 1.0)
        low, high = (math.inf if limit is None else float(limit) for limit in limits)
        return low, high

    def factors(self, image_set: str) -> list[str]:
        """Return an image set's factors in their declared order."""
        return list(self.about("image_sets", image_set).get("factors", ()))

    def unit(self, image_set: str) -> str:
        """Return what the unit of independence is called, in the singular."""
        return str(self.about("image_sets", image_set).get("unit") or "image")

    def factor_of(self, levels: Sequence[str]) -> str:
        """Return the one factor that declares all these levels; "" where none or several do."""
        sets = self.manifest["catalogue"]["image_sets"].values()
        declared = [factor for about in sets for factor in about.get("levels", {}).items()]
        found = {name for name, known in declared if levels and set(levels) <= set(known)}
        return found.pop() if len(found) == 1 else ""

    def subjects(self) -> list[Subject]:
        """Return each model on each image set, in the catalogue's order."""
        catalogue = self.manifest["catalogue"]
        pairs = [(data, model) for data in catalogue["image_sets"] for model in catalogue["models"]]
        return [Subject(number, *pair) for number, pair in enumerate(pairs, start=1)]

    def subject_means(self, subject: Subject) -> Iterator[dict[str, Any]]:
        """Yield the rows of the summary that are about one model on one image set."""
        means = self.means
        mine = means[(means["model"] == subject.model) & (means["image_set"] == subject.image_set)]
        for record in mine.to_dict("records"):
            yield {str(key): value for key, value in record.items()}


def load(folder: Path) -> Run:
    """Read a run directory; raise AuditError naming the file that is missing or damaged."""
    manifest = _json(folder / "manifest.json")
    store = folder / str(manifest["store"])  # an absolute one replaces the folder
    return Run(
        folder=folder,
        manifest=manifest,
        summary=_json(folder / "summary.json"),
        config=_bytes(folder / "config.yaml").decode("utf-8", "replace"),
        means=_table(folder / "results" / "summary.csv", (*NUMBERS, *COUNTS)),
        judgements=_records(folder / "results" / "checks.csv", OF_CHECKS),
        contrasts=_records(folder / "results" / "contrasts.csv", OF_CONTRASTS),
        rows=_rows(folder / "results" / "rows.parquet"),
        pictures=tuple(_json(folder / "results" / "illustrations.json")["pictures"]),
        store=Store(store.resolve()),
    )


def _records(path: Path, numbers: Sequence[str]) -> tuple[dict[str, Any], ...]:
    records = _table(path, numbers).to_dict("records")
    return tuple({str(key): value for key, value in one.items()} for one in records)


def _table(path: Path, numbers: Sequence[str]) -> pd.DataFrame:
    """Read a CSV of texts and numbers, an empty cell being NaN among the numbers alone."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False)
        for column in numbers:
            table[column] = pd.to_numeric(table[column].replace("", None)).astype(float)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error
    for column in table.columns.difference([*numbers]):
        table[column] = table[column].map(unguarded)
    return table


def _rows(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_bytes(path))
    except ValueError as error:
        raise _unreadable(path, error) from error
    if not isinstance(found, dict) or found.get("schema") != 1:
        raise AuditError(f"{path}: not of schema 1, the one that this version of cnnaudit reads")
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> AuditError:
    return AuditError(f"{path}: cannot be read ({error}); run the audit again")
