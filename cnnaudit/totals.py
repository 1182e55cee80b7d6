"""What is known of all rows although only a piece of them is in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from cnnaudit.summary import summarise, united
from cnnaudit.types import DIED

_SUBJECT = ("model", "image_set", "status")
_GAP = (*_SUBJECT, "technique", "metric")
_EXAMPLES = 3

Subject = tuple[str, str]  # a model and an image set


def failure(
    model: str,
    image_set: str,
    reason: str,
    items: int,
    examples: Sequence[str],
    missing: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Return what could not be made of so many items; an audit is not complete without it."""
    return {
        "model": model,
        "image_set": image_set,
        "status": "failed",
        "reason": reason,
        "items": items,
        "examples": [*examples[:_EXAMPLES]],
        "missing": missing,
    }


def died_of(rows: pd.DataFrame) -> dict[Subject, set[str]]:
    """Return the items of which a process died."""
    died = rows[(rows["status"] == "failed") & rows["reason"].astype(str).str.startswith(DIED)]
    groups = died.groupby(["model", "image_set"], observed=True)
    return {(str(model), str(name)): {*own["item"]} for (model, name), own in groups}


class Totals:
    """Sums up rows, piece by piece; `rows` are such as `Rows` shows them.

    `metric` is the one by which items are the worst; "" none. `factors` are those by whose levels
    means are told apart.
    """

    def __init__(self, metric: str, factors: Sequence[str]) -> None:
        self._metric, self._factors = metric, factors
        self._means: list[pd.DataFrame] = []
        # (subject, technique, metric) → which items lack it and why, sorted int64: the reason's
        # number times how many items there are, plus the item's place
        self._gaps: dict[tuple[str, ...], bytes] = {}
        self._same: dict[bytes, bytes] = {}  # equal ones are held once
        self._reasons: dict[str, int] = {}
        self._ids: pd.Index[str] = pd.Index([], dtype=str)
        self._worst: dict[tuple[str, ...], tuple[float, str]] = {}
        self.counts = Counter[str]()  # of rows by status
        self.died: dict[Subject, set[str]] = {}  # what would end this process like another's

    def add(self, rows: pd.DataFrame) -> None:
        """Sum up a piece."""
        self._means.append(summarise(rows, self._factors))
        self.counts.update({str(s): int(n) for s, n in rows["status"].value_counts().items()})
        self._add_gaps(rows)
        self._add_worst(rows)
        for subject, items in died_of(rows).items():
            self.died.setdefault(subject, set()).update(items)

    @property
    def means(self) -> pd.DataFrame:
        """The summary of all rows."""
        return united(self._means)

    @property
    def gaps(self) -> list[dict[str, Any]]:
        """Every reason for which items lack numbers: how many, some of them, and which numbers."""
        by_reason = cache(self._by_reason)
        missing: dict[tuple[Any, ...], dict[str, list[str]]] = {}
        for (*subject, technique, metric), lacking in sorted(self._gaps.items()):
            for reason, items in by_reason(lacking):
                of = missing.setdefault((*subject, reason, items), {})
                of.setdefault(technique, []).append(metric)
        return [
            {
                **dict(zip(_SUBJECT, subject, strict=True)),
                "reason": reason,
                "items": len(items),
                "examples": [self._ids[item] for item in items[:_EXAMPLES]],
                "missing": of,
            }
            for (*subject, reason, items), of in sorted(missing.items())
        ]

    @property
    def worst(self) -> dict[Subject, dict[str, list[str]]]:
        """Per model and image set, the items with the lowest lift of a technique's target."""
        found: dict[Subject, dict[str, list[str]]] = {}
        for (model, image_set, technique, _), (_, item) in sorted(self._worst.items()):
            of_item = found.setdefault((model, image_set), {}).setdefault(item, [])
            if (why := f"worst: {technique}") not in of_item:  # it may be so of several targets
                of_item.append(why)
        return found

    def _add_gaps(self, rows: pd.DataFrame) -> None:
        self._ids = rows["item"].cat.categories  # the same in every piece, and sorted
        without = rows.loc[rows["status"] != "ok", [*_GAP, "reason", "item"]]
        for names, group in without.groupby([*_GAP], observed=True):
            codes, texts = pd.factorize(group["reason"])
            numbers = [self._reasons.setdefault(str(text), len(self._reasons)) for text in texts]
            lacking = np.array(numbers)[codes] * len(self._ids) + group["item"].cat.codes
            key = tuple(map(str, names))
            known = np.frombuffer(self._gaps.get(key, b""), np.int64)
            every = np.union1d(known, lacking).tobytes()
            self._gaps[key] = self._same.setdefault(every, every)

    def _by_reason(self, lacking: bytes) -> list[tuple[str, tuple[int, ...]]]:
        """Return each reason and the items that it is the reason of."""
        reasons, items = np.divmod(np.frombuffer(lacking, np.int64), len(self._ids))
        codes, starts = np.unique(reasons, return_index=True)
        texts = [*self._reasons]
        parts = zip(codes, np.split(items, starts[1:]), strict=True)
        return [(texts[code], tuple(part.tolist())) for code, part in parts]

    def _add_worst(self, rows: pd.DataFrame) -> None:
        keys = ["model", "image_set", "technique", "target"]
        scored = rows[(rows["metric"] == self._metric) & (rows["technique"] != "")]
        lowest = scored.groupby(keys, observed=True)["lift"].transform("min")
        worst = scored.loc[scored["lift"] == lowest, [*keys, "lift", "item"]]
        worst = worst.sort_values("item").drop_duplicates(keys)  # of many that tie, one
        for *names, lift, item in worst.itertuples(index=False):
            key = tuple(names)
            self._worst[key] = min((lift, item), self._worst.get(key, (lift, item)))
