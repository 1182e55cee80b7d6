"""On a CUDA device the numbers are the CPU's, within float32."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from cnnaudit.audit import Invocation, run_audit
from cnnaudit.config import load_specs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


def test_cuda_agrees_with_the_cpu(overrides: list[str], tmp_path: Path) -> None:
    rows = {}
    for device in ("cpu", "cuda"):
        own = [f"device={device}", f"store_dir={tmp_path / device}"]
        outcome = run_audit(load_specs([*overrides, *own]), Invocation("test", [], ""))
        assert outcome.complete
        manifest = json.loads((outcome.run_dir / "manifest.json").read_text())
        assert manifest["hardware"]["device"].startswith(device)
        rows[device] = pd.read_parquet(outcome.run_dir / "results/rows.parquet")
    pd.testing.assert_frame_equal(rows["cpu"], rows["cuda"], rtol=1e-3, atol=1e-4)
