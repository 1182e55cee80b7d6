"""What decides whether torch computes the same numbers again."""

from __future__ import annotations

import os
from typing import Any

import torch

from cnnaudit.types import AuditSpec


def configure(audit: AuditSpec) -> None:
    """Seed torch and set the determinism that an audit asks for; full float32, no TF32."""
    torch.manual_seed(audit.seed)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    strict = audit.determinism == "strict"
    if strict:  # cuBLAS asks for it
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(audit.determinism != "off", warn_only=not strict)
    torch.backends.cudnn.benchmark = audit.determinism == "off"


def describe(audit: AuditSpec) -> dict[str, Any]:
    """Return the flags as they stand."""
    return {
        "determinism": audit.determinism,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "amp": False,
    }


def gpu_name(device: torch.device) -> str | None:
    """Return the name of the GPU that a device is, or None."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None
