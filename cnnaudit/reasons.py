"""Why cells would be computed: what of their keys is not as it is in the store."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from cnnaudit.plan import stored_fields
from cnnaudit.store import Store
from cnnaudit.types import Cell, Unit

_SHOWN = 3  # differences of a cell that are named
_LONG = 40  # characters of a value
_ABSENT = object()
_OF_PICTURES = ("chunk", "partners")  # what of a key is about its pictures


class _Difference(NamedTuple):
    path: str
    own: Any
    other: Any


@dataclass(frozen=True)
class _Stored:
    """What determined the key of a cell that lies in the store."""

    fields: Mapping[str, Any]
    again: bool  # whether something in it failed

    @property
    def pictures(self) -> set[str]:
        return set(self.fields["chunk"])


def reasons(units: Iterable[Unit], store: Store) -> list[str]:
    """Say of each cell that is to be computed in what it differs from the stored one most like it.

    Cells of one reason are counted together.
    """
    known: dict[tuple[str, str], list[_Stored]] = {}
    for fields, again in store.fields():
        if "chunk" in fields:
            known.setdefault(_kind(fields), []).append(_Stored(_named(fields), again))
    found = Counter(
        (_name(unit, cell), _reason(fields[cell.key], known.get(_kind(cell.fields), ())))
        for unit in units
        for fields in [stored_fields(unit)]
        for cell in unit.cells
    )
    return [f"{name}: {why}{f' ({n} cells)' * (n > 1)}" for (name, why), n in found.items()]


def _kind(fields: Mapping[str, Any]) -> tuple[str, str]:
    return str(fields.get("kind")), str(fields.get("technique", ""))


def _name(unit: Unit, cell: Cell) -> str:
    what = cell.request.technique.name if cell.request else "behaviour"
    return f"{unit.model.name} on {unit.image_set.spec.name}, {what}"


def _named(value: Any) -> Any:
    """Return fields in which what has a name or an id is found by it, not by its place."""
    if isinstance(value, Mapping):
        return {key: _named(inner) for key, inner in value.items()}
    if isinstance(value, list):
        names = [one.get("name", one.get("id")) if isinstance(one, Mapping) else None
                 for one in value]  # fmt: skip
        if value and None not in names:
            return {str(name): _named(one) for name, one in zip(names, value, strict=True)}
    return value


def _reason(fields: Mapping[str, Any], stored: Iterable[_Stored]) -> str:
    own = _named(json.loads(json.dumps(fields)))  # as it would be read back
    ids = set(own["chunk"])

    def unlike(other: _Stored) -> tuple[int, int]:
        return -len(ids & other.pictures), len([*_differences(own, other.fields)])

    nearest = min(stored, key=unlike, default=None)
    if nearest is None or not ids & nearest.pictures:
        return "nothing like it is in the store"
    found = list(_differences(own, nearest.fields))
    if not found:
        return "something in it failed" if nearest.again else "it was damaged and set aside"
    settings = [one for one in found if one.path.split(".")[0] not in _OF_PICTURES]
    told = [_told(one) for one in settings[:_SHOWN]]
    if len(settings) > _SHOWN:
        told.append(f"and {len(settings) - _SHOWN} more")
    return "; ".join([*told, *_told_of_pictures(own["chunk"], nearest.fields["chunk"])]) or (
        "the masks that heatmaps are swapped onto changed"
    )


def _differences(own: Any, other: Any, path: str = "") -> Iterator[_Difference]:
    """Yield where two trees of fields part."""
    if not (isinstance(own, Mapping) and isinstance(other, Mapping)):
        if own != other:
            yield _Difference(path, own, other)
        return
    for key in dict.fromkeys([*own, *other]):
        below = f"{path}.{key}" if path else str(key)
        yield from _differences(own.get(key, _ABSENT), other.get(key, _ABSENT), below)


def _told(one: _Difference) -> str:
    if one.other is _ABSENT:
        return f"{one.path} is new"
    if one.own is _ABSENT:
        return f"{one.path} is gone"
    return f"{one.path} is {_short(one.own)}, was {_short(one.other)}"


def _told_of_pictures(own: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    new = [name for name in own if name not in other]
    gone = [name for name in other if name not in own]
    changed = [name for name in own if name in other and own[name] != other[name]]
    for names, what in ((new, "new"), (gone, "gone"), (changed, "changed")):
        if names:
            number = "1 picture" if len(names) == 1 else f"{len(names)} pictures"
            yield f"{number} {what}, such as {names[0]}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"
