"""Which output a class label stands for."""

from __future__ import annotations

from cnnaudit.sections import near_miss
from cnnaudit.specs import ModelSpec
from cnnaudit.types import AuditError

_SHOWN = 20  # labels that a message lists


def class_index(spec: ModelSpec, label: str, outputs: int, where: str) -> int:
    """Return the class that a label's text (in any case) or an index names.

    Raises AuditError for none and for several, listing the candidates.
    """
    exact = [index for index, text in enumerate(spec.labels) if text == label]
    alike = [index for index, text in enumerate(spec.labels) if text.lower() == label.lower()]
    found = exact or alike
    if len(found) == 1:
        return found[0]
    if not found and label.isdecimal() and int(label) < outputs:
        return int(label)
    if found:
        raise AuditError(
            f"{where}: the label {label!r} stands for several classes of {spec.name!r}; "
            f"give the index: {', '.join(map(str, found))}"
        )
    raise AuditError(
        f"{where}: {label!r} is no class of the model {spec.name!r}.{_guess(spec, label)} "
        f"Allowed: an index from 0 to {outputs - 1}{_known(spec)}"
    )


def _guess(spec: ModelSpec, label: str) -> str:
    """Name the labels that a text is part of, or else the one that it is nearest to."""
    parts = [i for i, text in enumerate(spec.labels) if label.lower() in text.lower()]
    if parts:
        listed = ", ".join(f"{spec.labels[i]!r} ({i})" for i in parts[:_SHOWN])
        more = f" and {len(parts) - _SHOWN} more" * (len(parts) > _SHOWN)
        return f" Did you mean {listed}{more}?"
    return near_miss(label, spec.labels)


def _known(spec: ModelSpec) -> str:
    if not spec.labels:
        return ""
    if len(spec.labels) > _SHOWN:
        return f" or one of its {len(spec.labels)} labels"
    return f" or one of {', '.join(spec.labels)}"
