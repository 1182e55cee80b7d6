"""Two runs side by side: which models belong together, whether they saw the same, and their rows.

`before` is the first run and `after` the second. A pair is one item under one model, target,
technique and metric in both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cnnaudit.provenance import differences
from cnnaudit.report.cells import plural
from cnnaudit.report.run import Run, read_parquet
from cnnaudit.types import RESERVED_COLUMNS, AuditError

# What a value in one run is paired by with one in the other; its layer may have moved.
SUBJECT = ("model", "target", "technique", "image_set", "region", "metric")
_KEYS = [*SUBJECT, "item"]
# Columns of paired rows; no factor is called so.
BEFORE, AFTER, IN_BOTH = "value@before", "value@after", "@both"
_NO_VALUE = ("ineligible", "failed")
_SHOWN = 3  # items that a message names


class Models(NamedTuple):
    """A model of the first run and the one of the second that it is compared with."""

    before: str
    after: str

    @property
    def label(self) -> str:
        return self.before if self.before == self.after else f"{self.before} → {self.after}"


@dataclass(frozen=True)
class Mismatch:
    """Why numbers of two runs are not about the same thing."""

    says: str
    image_set: str = ""  # that it is about; "": all
    model: str = ""  # label of the pair that it is about; "": all

    def concerns(self, image_set: str, model: str) -> bool:
        return self.image_set in ("", image_set) and self.model in ("", model)


def pair_models(before: Run, after: Run, declared: Sequence[Models]) -> tuple[Models, ...]:
    """Return which models are compared: the declared pairs, then those of one name.

    Where each run has one model, they are a pair. Raises AuditError if there is no pair, or for a
    name that is no model of its run.
    """
    first, second = (list(run.catalogue["models"]) for run in (before, after))
    for pair in declared:
        for name, known, which in ((pair.before, first, "first"), (pair.after, second, "second")):
            if name not in known:
                raise AuditError(
                    f"--pair {pair.before}={pair.after}: {name!r} is no model of the {which} run; "
                    f"it has {', '.join(known)}"
                )
    if not declared and len(first) == len(second) == 1:
        return (Models(first[0], second[0]),)
    taken = ({pair.before for pair in declared}, {pair.after for pair in declared})
    alike = [Models(name, name) for name in first if name in second]
    rest = [one for one in alike if one.before not in taken[0] and one.after not in taken[1]]
    if not (declared or rest):
        raise AuditError(
            f"the first run has the models {', '.join(first)}, the second one {', '.join(second)}: "
            "no name is in both; say which belong together with --pair FIRST=SECOND"
        )
    return (*dict.fromkeys(declared), *rest)


def paired_rows(before: Run, after: Run, models: Iterable[Models]) -> pd.DataFrame:
    """Return a row for each item of what both runs measured, both values and their difference.

    `value` is after − before and `status` "ok" where both have a value; BEFORE and AFTER are the
    two values. Items of one run alone are among them, and references, which see no network, are
    not.
    """
    rows = pd.concat([_paired(before, after, pair) for pair in models], ignore_index=True)
    if not rows[IN_BOTH].any():
        raise AuditError(
            "these runs have nothing in common: no item with the same image set, technique, "
            "target and metric"
        )
    items = pd.concat([items_of(before), items_of(after)], ignore_index=True).fillna("")
    items = items.drop_duplicates(["image_set", "item"])
    return rows.merge(items, on=["image_set", "item"], how="left", validate="many_to_one")


def items_of(run: Run) -> pd.DataFrame:
    """Return each item of a run with its unit and its level of each factor."""
    factors = [str(name) for name in run.rows if name not in RESERVED_COLUMNS]
    items = run.rows[["image_set", "item", "unit", *factors]]
    return items.drop_duplicates(["image_set", "item"]).astype(str)


def _paired(before: Run, after: Run, models: Models) -> pd.DataFrame:
    keys = [name for name in _KEYS if name != "model"]
    rows = _side(before, models.before, "@before").merge(
        _side(after, models.after, "@after"), on=keys, how="outer", validate="one_to_one"
    )
    first, second = rows["status@before"], rows["status@after"]
    rows[IN_BOTH] = first.notna() & second.notna()
    of_both = rows.groupby([name for name in SUBJECT if name != "model"])[IN_BOTH].transform("any")
    ok = (first == "ok") & (second == "ok")
    # What is ineligible in the run that could read it is so, whatever became of the other.
    first, second = first.fillna("ineligible"), second.fillna("ineligible")
    no_value = first.isin(_NO_VALUE) & second.isin(_NO_VALUE)
    out = no_value & ((first == "ineligible") | (second == "ineligible"))
    for column in (BEFORE, AFTER):
        rows[column] = np.where(ok, rows[column], np.nan)
    rows["value"] = rows[AFTER] - rows[BEFORE]
    rows["status"] = np.select([ok, out], ["ok", "ineligible"], "undefined")
    rows["layer"] = rows["layer@after"].combine_first(rows["layer@before"])
    rows["model"] = models.label
    return rows[of_both]


def _side(run: Run, model: str, suffix: str) -> pd.DataFrame:
    techniques = run.rows["technique"].unique()
    references = [one for one in techniques if run.about("techniques", one).get("reference")]
    own = run.rows[(run.rows["model"] == model) & ~run.rows["technique"].isin(references)]
    keys = own[[name for name in _KEYS if name != "model"]].astype(str)
    about = own[["layer", "flag", "status"]].astype(str).assign(value=own["value"].astype(float))
    return pd.concat([keys, about.add_suffix(suffix)], axis=1)


def left_out(before: Run, after: Run, models: Sequence[Models]) -> list[str]:
    """Say what one of the runs has alone, so that it cannot be compared."""
    first, second = _contents(before), _contents(after)
    paired = {pair.before for pair in models}, {pair.after for pair in models}
    items = [items_of(run).groupby("image_set")["item"] for run in (before, after)]
    pictures = [{str(name): list(own) for name, own in found} for found in items]
    return [
        *_alone("first", first, {**second, "model": paired[0]}),
        *_pictures_alone("first", *pictures),
        *_alone("second", second, {**first, "model": paired[1]}),
        *_pictures_alone("second", *reversed(pictures)),
    ]


def _contents(run: Run) -> dict[str, Collection[str]]:
    """Return the names of what a run measured with what."""
    groups = ("model", "image_set", "technique", "metric")
    targets = sorted({*run.rows["target"].astype(str)} - {""})
    return {group: list(run.catalogue[f"{group}s"]) for group in groups} | {"target": targets}


def _alone(
    which: str, mine: Mapping[str, Collection[str]], theirs: Mapping[str, Collection[str]]
) -> Iterator[str]:
    for group, names in mine.items():
        alone = [name for name in names if name not in theirs[group]]
        if alone:
            word = f"{group.replace('_', ' ')}{'s' if len(alone) > 1 else ''}"
            # Both runs may have a model that is paired in one of them.
            how = "without a partner" if group == "model" else "alone"
            yield f"in the {which} run {how}: {word} {', '.join(alone)}"


def _pictures_alone(
    which: str, mine: Mapping[str, Sequence[str]], theirs: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Say which pictures of the image sets of both runs one of them has alone."""
    for image_set in (name for name in mine if name in theirs):
        known = {*theirs[image_set]}
        alone = [item for item in mine[image_set] if item not in known]
        if alone:
            such = f"{plural(len(alone), 'picture')} of {image_set}, such as {_few(alone)}"
            yield f"in the {which} run alone: {such}"


def mismatches(
    before: Run, after: Run, models: Iterable[Models], rows: pd.DataFrame
) -> list[Mismatch]:
    """Return what makes the items of two runs not the same: inputs, levels, preprocessing."""
    found: list[Mismatch] = []
    inputs = [read_parquet(run.folder / "results" / "inputs.parquet") for run in (before, after)]
    items = [items_of(run) for run in (before, after)]
    for image_set in dict.fromkeys(rows["image_set"]):
        found += _differ(inputs[0], inputs[1], image_set)
        found += _differ(items[0], items[1], image_set)
    for pair in models:
        first, second = (
            run.about("models", name).get("preprocessing")
            for run, name in zip((before, after), pair, strict=True)
        )
        parted = "; ".join(_said(first, second))
        if parted:
            says = f"the preprocessing of {pair.label} differs: {parted}"
            found.append(Mismatch(says, model=pair.label))
    return found


def _differ(before: pd.DataFrame, after: pd.DataFrame, image_set: str) -> Iterator[Mismatch]:
    """Say in which columns, digests or factors, items of both tables differ."""
    first, second = (
        table[table["image_set"] == image_set].set_index("item") for table in (before, after)
    )
    both = first.index.intersection(second.index)
    for name in (str(name) for name in first if name in second):
        differ = both[(first.loc[both, name] != second.loc[both, name]).to_numpy()]
        if len(differ):
            yield Mismatch(_differing(name, image_set, list(differ), len(both)), image_set)


def _differing(what: str, image_set: str, items: Sequence[str], of: int) -> str:
    return f"the {what} of {image_set} differ: of {len(items)} of {of} items, such as {_few(items)}"


def _few(items: Sequence[str]) -> str:
    return ", ".join(map(str, items[:_SHOWN]))


def section(run: Run, group: str) -> Mapping[str, Any]:
    """Return a group of a run's config, as it was written down."""
    found = run.declared.get(group)
    return found if isinstance(found, Mapping) else {}


def _said(before: Any, after: Any) -> list[str]:
    return [f"{path} {_brief(was)} → {_brief(now)}".strip()
            for path, was, now in differences(before, after)]  # fmt: skip


def _brief(value: Any) -> str:
    return "none" if value is None else str(value)


def definitions(before: Run, after: Run, models: Sequence[Models]) -> dict[tuple[str, str], str]:
    """Return which metrics and techniques are not quite the same in both runs, and how."""
    found = {}
    for group, declared in (("metrics", "metric"), ("techniques", "technique")):
        for name in before.catalogue[group]:
            if name not in after.catalogue[group]:
                continue
            parted = _said(*(_defined(run, group, declared, name) for run in (before, after)))
            for pair in models:
                layers = [
                    (run.about(group, name).get("layer") or {}).get(model)
                    for run, model in zip((before, after), pair, strict=True)
                ]
                if layers[0] != layers[1]:
                    parted.append(f"layer of {pair.label} {layers[0]} → {layers[1]}")
            if parted:
                found[group, name] = "; ".join(parted)
    return found


def _defined(run: Run, group: str, declared: str, name: str) -> dict[str, Any]:
    about = run.about(group, name)
    config = section(run, declared).get(name)
    own = dict(config) if isinstance(config, Mapping) else {}
    own.pop("layer", None)  # what it came to is compared
    version = {"version": about["version"]} if about.get("version") is not None else {}
    kept = {key: about.get(key) for key in ("range", "higher_is_better", "kind")}
    return {**own, **version, **kept}
