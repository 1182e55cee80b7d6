"""Cells → one table of their rows, sorted, with the unit and the factors of each row's item.

There may be millions of rows. So they are gathered column by column, each text once, and sorted by
their numbers: what is held at a time is little more than the table itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from cnnaudit.statistics import Ints
from cnnaudit.store import Store
from cnnaudit.types import (
    CELL_COLUMNS,
    EARNED,
    ROW_COLUMNS,
    ROWS_FILE,
    SORTED_BY,
    Cell,
    ImageSet,
)

_TEXTS = tuple(name for name in ROW_COLUMNS if name not in EARNED)


def collect_rows(cells: Iterable[Cell], store: Store) -> pd.DataFrame:
    """Return the rows of all cells with their model, technique, unit and factors, sorted.

    Texts are categories, in sorted order.
    """
    cells = list(cells)
    texts = {name: _Texts() for name in (*CELL_COLUMNS, *_TEXTS)}
    numbers = {name: array("d") for name in EARNED}
    items, places = _Items(_image_sets(cells)), array("q")
    for cell in cells:
        table = pa.ipc.open_file(pa.BufferReader(store.read(cell.key, ROWS_FILE))).read_all()
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        for name, text in zip(CELL_COLUMNS, _names(cell), strict=True):
            texts[name].repeat(text, len(table))
        for name in _TEXTS:
            texts[name].add(columns[name])
        for name, column in numbers.items():
            column.frombytes(columns[name].to_numpy(zero_copy_only=False).tobytes())
        places.frombytes(items.places(cell.image_set.spec.name, columns["item"]).tobytes())
    about = {name: texts.pop(name).categorical() for name in [*texts]}
    order = np.lexsort([about[name].codes for name in reversed((*SORTED_BY, "item"))])
    made: dict[str, pd.Categorical[str] | NDArray[np.float64]] = {}
    for name in (*CELL_COLUMNS, *ROW_COLUMNS):
        made[name] = (
            np.frombuffer(numbers.pop(name))[order] if name in EARNED else about.pop(name)[order]
        )
    of_item = np.frombuffer(places, np.int64)[order]
    made |= {name: column[of_item] for name, column in items.columns.items()}
    return pd.DataFrame(made, copy=False)


class _Texts:
    """A column of texts, each of them stored once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.rows = array("i")  # of each row the text's number

    def add(self, column: pa.DictionaryArray) -> None:
        numbers = np.array([*map(self._number, column.dictionary.to_pylist())], np.int32)
        self.rows.frombytes(numbers[column.indices.to_numpy()].tobytes())

    def extend(self, texts: Sequence[str]) -> None:
        self.rows.extend(map(self._number, texts))

    def repeat(self, text: str, times: int) -> None:
        self.rows.extend([self._number(text)] * times)

    def categorical(self) -> pd.Categorical[str]:
        """Return all of it as categories in sorted order."""
        texts = sorted(self.numbers)
        places = np.empty(len(texts), np.int32)
        places[[self.numbers[text] for text in texts]] = np.arange(len(texts))
        numbers = np.frombuffer(self.rows, np.int32)
        return pd.Categorical.from_codes(places[numbers], pd.Index(texts, dtype=str))

    def _number(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


class _Items:
    """The unit and the factors of all items, and where an item stands among them."""

    def __init__(self, image_sets: Sequence[ImageSet]) -> None:
        items = [(one, item) for one in image_sets for item in one.items]
        known = ((one.spec.name, item.id) for one, item in items)
        self._places = {key: place for place, key in enumerate(known)}
        factors = dict.fromkeys(name for one in image_sets for name in _factors(one))
        units = [image_set.unit_of(item) for image_set, item in items]
        self.columns = {"unit": _categorical(units)}
        for name in factors:
            levels = [item.factors.get(name, "") for _, item in items]
            self.columns[name] = _categorical(levels)

    def places(self, image_set: str, ids: pa.DictionaryArray) -> Ints:
        """Return the place of each id of an image set."""
        places = [self._places[image_set, item] for item in ids.dictionary.to_pylist()]
        of_rows: Ints = np.array(places, np.int64)[ids.indices.to_numpy()]
        return of_rows


def _categorical(texts: Sequence[str]) -> pd.Categorical[str]:
    column = _Texts()
    column.extend(texts)
    return column.categorical()


def _image_sets(cells: Iterable[Cell]) -> list[ImageSet]:
    return list({cell.image_set.spec.name: cell.image_set for cell in cells}.values())


def _factors(image_set: ImageSet) -> list[str]:
    """Return the factors that a mean can keep apart: all but the unit itself."""
    return [name for name in image_set.factors if name != image_set.spec.unit]


def _names(cell: Cell) -> tuple[str, ...]:
    request = cell.request
    of_request = (
        (request.target.name, request.technique.name, request.layer) if request else ("", "", "")
    )
    return (cell.model.name, *of_request, cell.image_set.spec.name)
