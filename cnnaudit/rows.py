"""Cells → their rows, sorted, with the unit and the factors of each row's item.

There may be millions of rows. So they are gathered piece by piece into a file, a piece column by
column with each text once, and what is asked of the file is read from it.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cnnaudit.numerics import release_memory
from cnnaudit.statistics import Ints
from cnnaudit.store import Store, drafted
from cnnaudit.types import CELL_COLUMNS, EARNED, ROW_COLUMNS, ROWS_FILE, SORTED_BY, Cell, ImageSet

ITEMS_AT_ONCE = 50_000  # of the cells whose rows are gathered and sorted together
ROWS_AT_ONCE = 200_000  # of those that are a table
_TEXTS = tuple(name for name in ROW_COLUMNS if name not in (*EARNED, "item"))
_CATEGORY = pa.dictionary(pa.int32(), pa.string())


def collect_rows(cells: Iterable[Cell], store: Store) -> pd.DataFrame:
    """Return the rows of all cells with their model, technique, unit and factors, sorted.

    Texts are categories, in sorted order.
    """
    cells = list(cells)
    (rows,) = _collect(cells, store, _Items(_image_sets(cells)), sys.maxsize)
    return rows


class Rows:
    """The rows of an audit in a file, the whole of them in memory only if they are few."""

    def __init__(
        self, path: Path, cells: Iterable[Cell], store: Store, see: Callable[[pd.DataFrame], None]
    ) -> None:
        """Write what `collect_rows` returns piece by piece, and show `see` each of them.

        Rows that agree in all of SORTED_BY are in one piece. Raises AuditError if the file
        cannot be written.
        """
        cells = sorted(cells, key=_names)
        self._path = path
        self._metrics: set[str] = set()
        self._whole: pd.DataFrame | None = None
        with drafted(path) as draft:
            writer = None
            for piece in _pieces(cells, store):
                see(piece)
                self._metrics |= {*piece["metric"].unique()}
                self._whole = piece if writer is None else None
                table = _arrow(piece)
                writer = writer or pq.ParquetWriter(draft, table.schema)
                writer.write_table(table)
                del piece, table  # or there are two while the next is made
                release_memory()
            assert writer is not None, "there is one piece at least"
            writer.close()

    def of(self, metric: str) -> pd.DataFrame:
        """Return all rows of a metric, and more where all are at hand."""
        if self._whole is not None:
            return self._whole
        return read_where(self._path, pc.field("metric") == metric)

    def by_metric(self) -> Iterator[pd.DataFrame]:
        """Yield all rows, those of a metric together."""
        yield from [self._whole] if self._whole is not None else map(self.of, sorted(self._metrics))


def read_where(path: Path, wanted: pc.Expression, columns: list[str] | None = None) -> pd.DataFrame:
    """Return those rows of a file for which something holds; it is read piece by piece.

    Texts are categories, in sorted order.
    """
    with pq.ParquetFile(path) as file:
        groups = range(file.num_row_groups)
        found = [file.read_row_group(group, columns).filter(wanted) for group in groups]
    table = pa.concat_tables(found).unify_dictionaries()
    del found
    release_memory()
    rows: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    for name in rows.select_dtypes("category"):
        texts = rows[name].cat.categories  # in the order of the pieces that had them first
        rows[name] = rows[name].cat.reorder_categories(sorted(texts))
    return rows


def _pieces(cells: Sequence[Cell], store: Store) -> Iterator[pd.DataFrame]:
    items = _Items(_image_sets(cells))
    for part in _parts(cells):
        yield from _collect(part, store, items, ROWS_AT_ONCE)


def _collect(
    cells: Sequence[Cell], store: Store, items: _Items, at_once: int
) -> Iterator[pd.DataFrame]:
    """Yield the rows of cells, sorted, in pieces of `at_once` rows or little more."""
    own, of_cell, of_item = _gather(cells, store, items)
    for place, name in enumerate(CELL_COLUMNS):
        own[name] = _categorical(_names(cell)[place] for cell in cells)[of_cell]
    names = dict.fromkeys((*CELL_COLUMNS, *ROW_COLUMNS, *items.columns))
    keys = [own[name].codes for name in SORTED_BY]
    order = np.lexsort([items.columns["item"].codes[of_item], *reversed(keys)])
    for part in _slices(order, keys, at_once):
        of_part = of_item[part]
        yield pd.DataFrame(
            {
                name: own[name][part] if name in own else items.columns[name][of_part]
                for name in names
            },
            copy=False,
        )


def _gather(
    cells: Sequence[Cell], store: Store, items: _Items
) -> tuple[dict[str, Any], NDArray[np.int32], NDArray[np.int32]]:
    """Return the columns that cells hold themselves, and of each row its cell's and item's place.

    Numbers are arrays and texts are categories.
    """
    texts = {name: _Texts() for name in _TEXTS}
    numbers = {name: array("d") for name in EARNED}
    of_cell, of_item = array("i"), array("i")
    for number, cell in enumerate(cells):
        table = pa.ipc.open_file(pa.BufferReader(store.read(cell.key, ROWS_FILE))).read_all()
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        for name, text in texts.items():
            text.add(columns[name])
        for name, column in numbers.items():
            column.frombytes(columns[name].to_numpy(zero_copy_only=False).tobytes())
        of_cell.extend([number] * len(table))
        of_item.frombytes(items.places(cell.image_set.spec.name, columns["item"]).tobytes())
    own: dict[str, Any] = {name: np.frombuffer(column) for name, column in numbers.items()}
    own |= {name: texts.pop(name).categorical() for name in _TEXTS}
    return own, np.frombuffer(of_cell, np.int32), np.frombuffer(of_item, np.int32)


def _slices(order: Ints, keys: Sequence[NDArray[np.integer]], at_once: int) -> Iterator[Ints]:
    """Divide rows, in their order, after `at_once` or little more; what agrees stays together."""
    starts = np.zeros(len(order), bool)
    for key in keys:
        starts[1:] |= np.diff(key[order]) != 0
    start = 0
    for end in (*np.flatnonzero(starts), len(order)):
        if end - start >= at_once or end == len(order):
            yield order[start:end]
            start = end


def _parts(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Divide sorted cells into parts of ITEMS_AT_ONCE or little more; one's own stay together."""
    part: list[Cell] = []
    for _, own in groupby(cells, key=_names):
        if sum(len(cell.chunk) for cell in part) >= ITEMS_AT_ONCE:
            yield part
            part = []
        part += own
    yield part


def _arrow(rows: pd.DataFrame) -> pa.Table:
    """Return rows as a table whose columns have the same types in every piece."""
    kinds = [(name, pa.float64() if name in EARNED else _CATEGORY) for name in rows]
    return pa.Table.from_pandas(rows, schema=pa.schema(kinds), preserve_index=False)


class _Texts:
    """A column of texts, each of them stored once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.rows = array("i")  # of each row the text's number

    def add(self, column: pa.DictionaryArray) -> None:
        numbers = np.array([*map(self._number, column.dictionary.to_pylist())], np.int32)
        self.rows.frombytes(numbers[column.indices.to_numpy()].tobytes())

    def extend(self, texts: Iterable[str]) -> None:
        self.rows.extend(map(self._number, texts))

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
    """The id, the unit and the factors of all items, and where an item stands among them."""

    def __init__(self, image_sets: Sequence[ImageSet]) -> None:
        items = [item for one in image_sets for item in one.items]
        places = iter(range(len(items)))
        self._places = {
            one.spec.name: {item.id: next(places) for item in one.items} for one in image_sets
        }
        units = (one.unit_of(item) for one in image_sets for item in one.items)
        self.columns = {
            "item": _categorical(item.id for item in items),
            "unit": _categorical(units),
        }
        for name in dict.fromkeys(name for one in image_sets for name in one.conditions):
            self.columns[name] = _categorical(item.factors.get(name, "") for item in items)

    def places(self, image_set: str, ids: pa.DictionaryArray) -> NDArray[np.int32]:
        """Return the place of each id of an image set."""
        place_of = self._places[image_set]
        places = np.array([place_of[item] for item in ids.dictionary.to_pylist()], np.int32)
        of_rows: NDArray[np.int32] = places[ids.indices.to_numpy()]
        return of_rows


def _categorical(texts: Iterable[str]) -> pd.Categorical[str]:
    column = _Texts()
    column.extend(texts)
    return column.categorical()


def _image_sets(cells: Iterable[Cell]) -> list[ImageSet]:
    return list({cell.image_set.spec.name: cell.image_set for cell in cells}.values())


def _names(cell: Cell) -> tuple[str, ...]:
    request = cell.request
    of_request = (
        (request.target.name, request.technique.name, request.layer) if request else ("", "", "")
    )
    return (cell.model.name, *of_request, cell.image_set.spec.name)
