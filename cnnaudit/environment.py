"""What the numbers of a run depend on beside its config: inputs, code and machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnnaudit import provenance
from cnnaudit.metrics import metrics_of_heatmaps
from cnnaudit.models import source_digests_of
from cnnaudit.numerics import TF32
from cnnaudit.own_code import source_digests
from cnnaudit.plan import image_set_digest
from cnnaudit.specs import AuditSpec
from cnnaudit.techniques import TECHNIQUES

if TYPE_CHECKING:
    from cnnaudit.audit import Executed, Prepared


def environment(ready: Prepared, executed: Executed) -> dict[str, Any]:
    """Return what the numbers of a run depend on beside its config: inputs, code and machine."""
    audit = ready.audit
    return {
        "git": provenance.git_state(),
        "packages": provenance.packages(),
        "hardware": provenance.hardware(executed.devices),
        "digests": {
            "weights": {m.name: m.weights_digest or None for m in audit.models},
            "image_sets": {s.spec.name: image_set_digest(s) for s in ready.image_sets},
            **_own_code(audit),
        },
        "seed": audit.seed,
        "determinism": audit.determinism,
        "tf32": TF32,
        "amp": False,
    }


def _own_code(audit: AuditSpec) -> dict[str, dict[str, list[str]]]:
    """Return the digests of the sources of what is a user's: models, techniques, metrics."""
    registered = metrics_of_heatmaps()
    found = {
        **{f"model.{m.name}": source_digests_of(m) for m in audit.models if m.factory},
        **{
            f"technique.{t.name}": source_digests(TECHNIQUES[t.uses].compute)
            for t in audit.techniques
        },
        **{f"metric.{m.name}": source_digests(registered[m.uses].compute) for m in audit.metrics},
    }
    own = {name: [*digests] for name, digests in found.items() if digests}
    return {"code": own} if own else {}
