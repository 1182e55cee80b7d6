"""What a run left behind, read back for its report: files of the run directory and the store."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from cnnaudit.numerics import release_memory
from cnnaudit.rows import read_where
from cnnaudit.sections import check_no_alias
from cnnaudit.specs import FACETS
from cnnaudit.store import Store, check_no_link
from cnnaudit.summary import mapped, unguarded
from cnnaudit.types import RUN_SCHEMA, SORTED_BY, AuditError

COUNTS = ("units", "scored", "total", "ineligible", "undefined", "not_applicable", "failed")
_OF_TILES = (*SORTED_BY, "item", "value", "lift", "status")  # the columns of rows that tiles show
_CORRELATION = ("correlation", "low", "high", "units", "scored", "total")
# The columns that hold numbers, of each results/<name>.csv.
_NUMBERS = {
    "summary": ("mean", "chance", "lift", "swap", "twin", "ceiling", "dead", *COUNTS),
    "checks": ("value", "low", "high", "units", "p", "p_holm"),
    "contrasts": (
        *("first", "second", "difference", "low", "high", "units", "p", "p_holm"),
        *("dead_first", "dead_second", "scored", "eligible"),
    ),
    "agreement": _CORRELATION,
    "randomisation": (*_CORRELATION, "step", "share", "bound"),
}

Record = Mapping[str, Any]  # a line of results, or an entry of the manifest or the illustrations
# What rows are about (SORTED_BY) → status → reason → how many have no value.
Lacking = dict[tuple[str, ...], dict[str, dict[str, int]]]


class Subject(NamedTuple):
    """One model on one image set: what most tables and grids are about."""

    number: int  # its place in the page's addresses; names are not fit for those
    image_set: str
    model: str


class Variant(NamedTuple):
    """One kind of heatmap of a model; all empty for behaviour."""

    technique: str = ""
    target: str = ""
    layer: str = ""


def variant_of(record: Record) -> Variant:
    """Return which kind of heatmap a record is about: a line of results, or a picture's heatmap."""
    return Variant(record["technique"], record["target"], record["layer"])


@dataclass(frozen=True)
class Run:
    """A finished run as its files tell it."""

    folder: Path
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]
    config: str
    means: pd.DataFrame  # results/summary.csv
    judgements: tuple[Record, ...]  # results/checks.csv
    contrasts: tuple[Record, ...]  # results/contrasts.csv
    agreements: tuple[Record, ...]  # results/agreement.csv, where there is one
    randomisations: tuple[Record, ...]  # results/randomisation.csv, the same
    pictures: tuple[Record, ...]  # results/illustrations.json
    kernels: tuple[Record, ...]
    store: Store
    # Of a model on an image set, what keeps a page small enough:
    most: int = sys.maxsize  # exemplars that it shows
    closer: int = sys.maxsize  # pictures, exemplars first, of which it has the maps for the viewer

    @property
    def catalogue(self) -> Mapping[str, Mapping[str, Any]]:
        """What the manifest says of each model, image set, technique and metric."""
        found: Mapping[str, Mapping[str, Any]] = self.manifest["catalogue"]
        return found

    @property
    def is_complete(self) -> bool:
        """Whether every cell could be computed."""
        return bool(self.summary["status"] == "COMPLETE")

    @cached_property
    def declared(self) -> Mapping[str, Any]:
        """What config.yaml says, read once."""
        try:
            check_no_alias(self.config, str(self.folder / "config.yaml"))
            found = yaml.safe_load(self.config)
        except yaml.YAMLError as error:
            raise AuditError(f"{self.folder / 'config.yaml'} cannot be read ({error})") from error
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def rows(self) -> pd.DataFrame:
        """All rows, of which there may be millions."""
        return read_parquet(self._rows_file)

    @cached_property
    def rows_shown(self) -> pd.DataFrame:
        """The rows of the items that have pictures."""
        items = sorted({one["item"] for one in self.pictures})
        shown = pc.field("item").isin(pa.array(items, pa.string()))  # also where there are none
        with _reading(self._rows_file):
            return read_where(self._rows_file, shown, [*_OF_TILES])

    @cached_property
    def lacking(self) -> Lacking:
        """How many rows have no value, by what they are about, their status and its reason."""
        keys = [*SORTED_BY, "status", "reason"]
        counts = Counter[tuple[str, ...]]()
        for rows in _pieces(self._rows_file, keys):
            lacking = rows[rows["status"] != "ok"]
            sizes = lacking.groupby(keys, observed=True, sort=False).size()
            counts.update(dict(zip(sizes.index.tolist(), sizes.tolist(), strict=True)))
        found: Lacking = {}
        for (*where, status, reason), count in counts.items():
            found.setdefault(tuple(where), {}).setdefault(status, {})[reason] = count
        return found

    @property
    def _rows_file(self) -> Path:
        return self.folder / "results" / "rows.parquet"

    @property
    def binary(self) -> frozenset[str]:
        """The metrics that score an image 0 or 1."""
        metrics = self.catalogue["metrics"]
        return frozenset(name for name, about in metrics.items() if about.get("binary"))

    def binary_titles(self, lines: Iterable[Record]) -> list[str]:
        """Return what the page calls those of them that some lines of results are about."""
        named = dict.fromkeys(one["metric"] for one in lines)
        return [self.title("metrics", name) for name in named if name in self.binary]

    def about(self, group: str, name: str) -> Mapping[str, Any]:
        """Return what the manifest's catalogue says of a metric, technique, model or image set."""
        found: Mapping[str, Any] = self.catalogue.get(group, {}).get(name, {})
        return found

    def title(self, group: str, name: str) -> str:
        """Return how the page calls a metric or technique."""
        return str(self.about(group, name).get("title") or name)

    def meaning(self, metric: str) -> str:
        """Return what a metric's number says; "" where nothing is said of it."""
        return str(self.about("metrics", metric).get("meaning") or "")

    def is_reference(self, technique: str) -> bool:
        """Say whether a technique is there to be beaten: it sees no network."""
        return bool(self.about("techniques", technique).get("reference"))

    def references(self, techniques: Iterable[str]) -> frozenset[str]:
        """Return the titles of those that are references."""
        return frozenset(
            self.title("techniques", one) for one in techniques if self.is_reference(one)
        )

    def metrics(self, kind: str) -> list[str]:
        """Return the metrics of a kind in the catalogue's order, the primary one first."""
        known = self.catalogue["metrics"]
        return [name for name, about in known.items() if about.get("kind") == kind]

    def scale(self, metric: str) -> tuple[float, float]:
        """Return a metric's range, infinite where it has no limit."""
        limits = self.about("metrics", metric).get("range") or (0.0, 1.0)
        ends = zip(limits, (-math.inf, math.inf), strict=True)
        low, high = (open_end if limit is None else float(limit) for limit, open_end in ends)
        return low, high

    def factors(self, image_set: str) -> list[str]:
        """Return an image set's factors in their declared order."""
        return list(self.about("image_sets", image_set).get("factors", ()))

    def levels(self, image_set: str) -> Mapping[str, Sequence[str]]:
        """Return each factor's levels in their declared order."""
        found: Mapping[str, Sequence[str]] = self.about("image_sets", image_set).get("levels", {})
        return found

    def words(self, image_set: str) -> Mapping[str, Mapping[str, str]]:
        """Return how the levels of an image set's factors are said: factor → level → words."""
        return self.about("image_sets", image_set).get("words") or {}

    def difference_in_words(self, contrast: Record) -> str:
        """Say which level a line of a contrast takes from which, in the image set's own words."""
        words = self.words(contrast["image_set"]).get(contrast["factor"], {})
        levels = (contrast["first_level"], contrast["second_level"])
        return " minus ".join(words.get(level, level) for level in levels)

    def grids(self, image_set: str) -> list[Record]:
        """Return the declared grids of two factors: they are about one model each."""
        return [one for one in self._grids(image_set) if not _has_facet(one)]

    def facet_grids(self, image_set: str) -> list[Record]:
        """Return the declared grids that span images, models, targets or techniques."""
        return [one for one in self._grids(image_set) if _has_facet(one)]

    def _grids(self, image_set: str) -> Sequence[Record]:
        return self.about("image_sets", image_set).get("grids") or ()

    def model_label(self, model: str) -> str:
        """Return how the page calls a model beside others: whether it is trained, too."""
        untrained = self.about("models", model).get("weights") == "none"
        return f"{model}, untrained" if untrained and "untrained" not in model else model

    def targets(self) -> list[str]:
        """Return what heatmaps explain, in the order in which it was asked."""
        heatmaps = (one for picture in self.pictures for one in picture["heatmaps"])
        return list(dict.fromkeys(one["target"] for one in heatmaps))

    def brightest(self, techniques: Iterable[str]) -> str:
        """Say what the brightest colour of these techniques' heatmaps stands for."""
        displays = {self.about("techniques", one).get("display", "maximum") for one in techniques}
        said = {"maximum": "maximum", "p99": "99th percentile"}
        return "each map’s " + " or ".join(text for key, text in said.items() if key in displays)

    def gives(self, technique: str) -> str:
        """Return what a technique gives: "heatmap", "channels" or "kernels"."""
        return str(self.about("techniques", technique).get("gives", "heatmap"))

    def unit(self, image_set: str) -> str:
        """Return what the unit of independence is called, in the singular."""
        return str(self.about("image_sets", image_set).get("unit") or "image")

    def factor_of(self, levels: Sequence[str]) -> str:
        """Return the one factor that declares all these levels; "" where none or several do."""
        sets = self.catalogue["image_sets"].values()
        declared = [factor for about in sets for factor in about.get("levels", {}).items()]
        found = {name for name, known in declared if levels and set(levels) <= set(known)}
        return found.pop() if len(found) == 1 else ""

    def subjects(self) -> list[Subject]:
        """Return each model on each image set, in the catalogue's order."""
        pairs = product(self.catalogue["image_sets"], self.catalogue["models"])
        return [Subject(number, *pair) for number, pair in enumerate(pairs, start=1)]

    def subject_means(self, subject: Subject) -> Sequence[Record]:
        """Return the rows of the summary that are about one model on one image set."""
        return self._means_of.get((subject.model, subject.image_set), ())

    @cached_property
    def _means_of(self) -> Mapping[tuple[str, str], Sequence[Record]]:
        """The rows of the summary by model and image set: several tables ask for the same."""
        found: dict[tuple[str, str], list[Record]] = {}
        columns = [str(name) for name in self.means]
        for values in zip(*(self.means[name].tolist() for name in self.means), strict=True):
            record = dict(zip(columns, values, strict=True))
            found.setdefault((record["model"], record["image_set"]), []).append(record)
        return found


def _has_facet(grid: Record) -> bool:
    return not {grid["rows"], grid["cols"]}.isdisjoint(FACETS)


def latest_run(folder: Path) -> str:
    """Say which run of a folder of runs is the latest, "" if there is none."""
    runs = sorted(path.parent.name for path in folder.glob("*/manifest.json"))
    return f"; its latest run is {folder / runs[-1]}" if runs else ""


def load(folder: Path) -> Run:
    """Read a run directory; raise AuditError naming the file that is missing or damaged."""
    if not (folder / "manifest.json").exists():
        raise AuditError(
            f"{folder} is no run directory: it has no manifest.json{latest_run(folder)}"
        )
    check_no_link(folder)
    manifest = read_json(folder / "manifest.json")
    store = folder / str(manifest["store"])  # an absolute one replaces the folder
    illustrations = read_json(folder / "results" / "illustrations.json")
    with _reading(folder / "config.yaml"):
        config = (folder / "config.yaml").read_bytes()
    return Run(
        folder=folder,
        manifest=manifest,
        summary=read_json(folder / "summary.json"),
        config=config.decode("utf-8", "replace"),
        means=run_table(folder, "summary"),
        judgements=_records(folder, "checks"),
        contrasts=_records(folder, "contrasts"),
        agreements=_records(folder, "agreement"),
        randomisations=_records(folder, "randomisation"),
        pictures=tuple(illustrations["pictures"]),
        kernels=tuple(illustrations["kernels"]),
        store=Store(store.resolve()),
    )


def _records(run_dir: Path, name: str) -> tuple[dict[str, Any], ...]:
    records = run_table(run_dir, name).to_dict("records")
    return tuple({str(key): value for key, value in one.items()} for one in records)


def run_table(run_dir: Path, name: str) -> pd.DataFrame:
    """Read a table of a run's results by its name, such as "checks"."""
    return read_table(run_dir / "results" / f"{name}.csv", _NUMBERS[name])


def read_table(path: Path, numbers: Sequence[str]) -> pd.DataFrame:
    """Read a CSV of texts and numbers, an empty cell being NaN among the numbers alone."""
    kinds = defaultdict[str, type](lambda: str, dict.fromkeys(numbers, float))
    empty = {name: [""] for name in numbers}
    with _reading(path):
        table = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=empty)
        table = table.rename(columns=unguarded)
        table[[*numbers]]  # all of them are there
    for column in table.columns.difference([*numbers]):
        table[column] = mapped(table[column], unguarded)
    return table


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a table of a run; raise AuditError naming the file if it is missing or damaged."""
    with _reading(path):
        table = pq.read_table(path)
        # There may be millions of rows: each column is freed as it is converted.
        rows: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    return rows


def _pieces(path: Path, columns: list[str]) -> Iterator[pd.DataFrame]:
    """Yield a table's columns piece by piece; raise AuditError as `read_parquet` does."""
    with _reading(path), pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns).to_pandas()
            release_memory()


def read_json(path: Path) -> dict[str, Any]:
    with _reading(path):
        found = json.loads(path.read_bytes())
    if not isinstance(found, dict) or found.get("schema") != RUN_SCHEMA:
        raise AuditError(
            f"{path}: not of schema {RUN_SCHEMA}, which this version of cnnaudit reads; "
            "run the audit again"
        )
    return found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise AuditError naming the file if what is read of it is missing or damaged."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise AuditError(f"{path}: cannot be read ({error}); run the audit again") from error
