"""What planning needs to know of a model: inspected once, then taken from the store."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from cnnaudit.models import ModelFacts, inspect_model
from cnnaudit.models.layers import Layer
from cnnaudit.plan import run_fields
from cnnaudit.specs import AuditSpec, ModelSpec
from cnnaudit.store import Store, cell_key
from cnnaudit.types import AuditError

VERSION = 1  # raise it when inspecting would find other facts
_FILE = "facts.json"


def facts_of(audit: AuditSpec, spec: ModelSpec, store: Store) -> ModelFacts:
    """Return a model's facts; it is built, and torch loaded, only if the store lacks them.

    Raises AuditError if the model is not what its config says it is.
    """
    try:
        network = run_fields(audit, spec)
    except OSError as error:
        raise AuditError(
            f"model.{spec.name}: {error.filename} cannot be read ({error.strerror})"
        ) from error
    fields = {
        **network,
        "kind": "facts",
        "version": VERSION,
        # what the model is held against
        "roles": dict(spec.roles),
        "axes": [asdict(axis) for axis in spec.outputs],
        "gives": spec.gives,
    }
    key = cell_key(fields)
    if not store.has(key):
        found = inspect_model(spec, audit.seed)
        store.write(key, {_FILE: json.dumps(asdict(found)).encode()}, fields)
        return found
    return _read(json.loads(store.read(key, _FILE)))


def _read(stored: dict[str, Any]) -> ModelFacts:
    layers = tuple(
        Layer(one["path"], one["kind"], None if one["shape"] is None else tuple(one["shape"]))
        for one in stored.pop("layers")
    )
    return ModelFacts(layers=layers, input=tuple(stored.pop("input")), **stored)
