"""Why cells would be computed: what of their keys is not as it is in the store."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from cnnaudit.plan import stored_fields
from cnnaudit.provenance import differences
from cnnaudit.store import Store, canonical_json, digest_json
from cnnaudit.types import Cell, Unit

_SHOWN = 3  # differences of a cell that are named
_LONG = 40  # characters of a value
_ABSENT = object()
_OF_PICTURES = ("chunk", "partners")  # what of a key is about its pictures


@dataclass(frozen=True)
class _Fields:
    """What determines the key of a cell."""

    settings: Mapping[str, Any]  # all but its pictures
    pictures: Mapping[str, str]  # id → what it consists of
    partners: str  # a digest of the masks that heatmaps are swapped onto
    failed: bool = False  # whether something in the stored cell did


def reasons(units: Iterable[Unit], store: Store) -> list[str]:
    """Say of each cell that is to be computed in what it differs from the stored one most like it.

    Cells of one reason are counted together.
    """
    known = _Known(store)
    found = Counter(
        (_name(unit, cell), _reason(known.read(fields[cell.key]), known))
        for unit in units
        for fields in [stored_fields(unit)]
        for cell in unit.cells
    )
    return [f"{name}: {why}{f' ({n} cells)' * (n > 1)}" for (name, why), n in found.items()]


class _Known:
    """The cells of a store, found by their pictures: there may be a hundred thousand.

    Many have the same settings or the same pictures: those are one object, known by its id().
    """

    def __init__(self, store: Store) -> None:
        self._parsed = cache(_parsed)
        self._alike: dict[tuple[str, str, int], list[_Fields]] = {}  # of a kind, about a chunk
        self._chunks: dict[str, set[int]] = {}  # id of a picture → the chunks that have it
        for fields, failed in store.fields():
            if "chunk" in fields:
                stored = self.read(fields, failed=failed)
                chunk = id(stored.pictures)
                self._alike.setdefault((*_kind(fields), chunk), []).append(stored)
                for picture in stored.pictures:
                    self._chunks.setdefault(picture, set()).add(chunk)

    def read(self, fields: Mapping[str, Any], *, failed: bool = False) -> _Fields:
        """Return a cell's fields, stored ones or of a plan."""
        settings = {name: x for name, x in fields.items() if name not in _OF_PICTURES}
        return _Fields(
            self._parsed(canonical_json(settings)),
            self._parsed(canonical_json(fields["chunk"])),
            digest_json(fields.get("partners")),
            failed,
        )

    def nearest(self, own: _Fields) -> _Fields | None:
        """Return the stored cell of this kind that has most pictures in common, and settings."""
        shared = Counter(
            chunk for picture in own.pictures for chunk in self._chunks.get(picture, ())
        )
        found = (
            (-count, len([*differences(other.settings, own.settings)]), other)
            for chunk, count in shared.items()
            for other in self._alike.get((*_kind(own.settings), chunk), ())
        )
        return min(found, key=lambda one: one[:2], default=(0, 0, None))[2]


def _parsed(text: str) -> Mapping[str, Any]:
    """Return fields in which what has a name is found by it; of pictures the text of each."""
    value = json.loads(text)
    if isinstance(value, list):
        return {picture["id"]: canonical_json(picture) for picture in value}
    named: Mapping[str, Any] = _named(value)
    return named


def _kind(fields: Mapping[str, Any]) -> tuple[str, str]:
    return str(fields.get("kind")), str(fields.get("technique", ""))


def _name(unit: Unit, cell: Cell) -> str:
    what = cell.request.technique.name if cell.request else "behaviour"
    return f"{unit.model.name} on {unit.image_set.spec.name}, {what}"


def _named(value: Any) -> Any:
    """Return fields in which what has a name is found by it, not by its place."""
    if isinstance(value, Mapping):
        return {key: _named(inner) for key, inner in value.items()}
    if isinstance(value, list):
        names = [one.get("name") if isinstance(one, Mapping) else None for one in value]
        if value and None not in names:
            return {str(name): _named(one) for name, one in zip(names, value, strict=True)}
    return value


def _reason(own: _Fields, known: _Known) -> str:
    nearest = known.nearest(own)
    if nearest is None:
        return "nothing like it is in the store"
    found = list(differences(nearest.settings, own.settings, _ABSENT))
    told = [_told(*one) for one in found[:_SHOWN]]
    if len(found) > _SHOWN:
        told.append(f"and {len(found) - _SHOWN} more")
    told += _told_of_pictures(own.pictures, nearest.pictures)
    if not told and own.partners != nearest.partners:
        return "the masks that heatmaps are swapped onto changed"
    return "; ".join(told) or (
        "something in it failed" if nearest.failed else "it was damaged and set aside"
    )


def _told(path: str, other: Any, own: Any) -> str:
    if other is _ABSENT:
        return f"{path} is new"
    if own is _ABSENT:
        return f"{path} is gone"
    if isinstance(own, list) and isinstance(other, list):
        apart = [[x for x in one if x not in two] for one, two in ((own, other), (other, own))]
        own, other = apart if all(apart) else (own, other)
    return f"{path} is {_short(own)}, was {_short(other)}"


def _told_of_pictures(own: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    new = [name for name in own if name not in other]
    gone = [name for name in other if name not in own]
    changed = [name for name in own if name in other and own[name] != other[name]]
    parts = {part for name in changed for part in _parts_changed(own[name], other[name])}
    how = f"changed ({', '.join(sorted(parts))})"
    for names, what in ((new, "new"), (gone, "gone"), (changed, how)):
        if names:
            number = "1 picture" if len(names) == 1 else f"{len(names)} pictures"
            yield f"{number} {what}, such as {names[0]}"


def _parts_changed(own: str, other: str) -> Iterator[str]:
    """Yield what of a picture's fields differs: the image itself, masks by name, or else."""
    for path, _, _ in differences(json.loads(other), json.loads(own)):
        yield path.removeprefix("regions.").partition(".")[0]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"
