"""What planning needs to know of models and files: found out once, then in the store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import PIL

from cnnaudit.image_sets.files import check_files
from cnnaudit.models import ModelFacts, inspect_model
from cnnaudit.models.layers import Layer
from cnnaudit.plan import item_fields, run_fields
from cnnaudit.specs import AuditSpec, ModelSpec
from cnnaudit.store import Store, cell_key, digest_list
from cnnaudit.types import File, Item

VERSION = 3  # raise it when inspecting would find other facts
CHECK_VERSION = 1  # raise it when checking files would find something else
_FILE = "facts.json"


def facts_of(audit: AuditSpec, spec: ModelSpec, store: Store) -> ModelFacts:
    """Return a model's facts; it is built, and torch loaded, only if the store lacks them.

    Raises AuditError if the model is not what its config says it is.
    """
    fields = {
        **run_fields(audit, spec),
        "kind": "facts",
        "version": VERSION,
        # what the model is held against
        "roles": dict(spec.roles),
        "axes": [asdict(axis) for axis in spec.outputs],
        "task": spec.task,
        "gives": spec.gives,
    }
    key = cell_key(fields)
    if not store.has(key):
        found = inspect_model(spec, audit.seed)
        store.write(key, {_FILE: json.dumps(asdict(found)).encode()}, fields)
        return found
    return _read(json.loads(store.read(key, _FILE)))


def checked_files(items: Sequence[Item], where: str, store: Store) -> tuple[str, ...]:
    """Return what `check_files` does, without decoding files that the store knows to be good.

    Of a picture that cannot be read the store knows nothing: it may have been the disk.
    """
    fields = {
        "kind": "checked_files",
        "version": CHECK_VERSION,
        "pillow": PIL.__version__,
        "items": digest_list(map(_contents, items)),
    }
    key = cell_key(fields)
    if store.has(key):
        return ()
    unreadable = check_files(items, where)
    if not unreadable:
        store.write(key, {}, fields)
    return unreadable


def _read(stored: dict[str, Any]) -> ModelFacts:
    layers = tuple(
        Layer(one["path"], one["kind"], None if one["shape"] is None else tuple(one["shape"]))
        for one in stored.pop("layers")
    )
    return ModelFacts(layers=layers, input=tuple(stored.pop("input")), **stored)


def _contents(item: Item) -> list[Any]:
    """Return all of an item that a check of it depends on."""
    fields = item_fields(item)
    truth = fields["truth"] if isinstance(item.truth, File) else None
    return [fields["image"], [*fields["regions"].values()], truth]
