"""Away from the CPU the numbers are the same, and the device is seldom waited for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision.models import resnet18

import cnnaudit
from cnnaudit.audit import Invocation, prepare, run_audit
from cnnaudit.config import load_specs
from cnnaudit.execute import _Work, make_reader
from cnnaudit.fitting import Fitting
from cnnaudit.models import build_model
from cnnaudit.models.untrained import untrained_twin
from tests.conftest import SCENES, write_image_set
from tests.second_device import second_device, waits

EVERYTHING = ["technique=[all,activations,kernels]", "target=[all_outputs]"]
EVERYTHING += ["technique.rise.masks=8", "technique.smooth_grad.samples=3"]
EVERYTHING += ["technique.occlusion.stride=0.2", "technique.integrated_gradients.steps=4"]
EVERYTHING += ["metric=[all_overlap,insertion,deletion]", "metric.insertion.steps=4"]
EVERYTHING += ["metric.deletion.steps=4", "sanity=[randomisation]", "sanity.randomisation.items=4"]


@pytest.fixture
def device() -> Iterator[torch.device]:
    with second_device() as device:
        waits.clear()
        yield device


def test_tensors_of_two_devices_do_not_meet(device: torch.device) -> None:
    there = torch.ones(3).to(device)
    with pytest.raises(RuntimeError, match="got tensors on apart:0 and on cpu"):
        there + torch.ones(3)
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()
    assert waits == []
    assert (there * 2).cpu().tolist() == [2, 2, 2]
    assert float(there.sum()) == 3
    assert there[there > 2].shape == (0,)
    assert [each.split(".")[1] for each in waits] == ["_to_copy", "_local_scalar_dense", "index"]


def test_every_technique_and_metric_gives_the_numbers_of_the_cpu(
    overrides: list[str], tmp_path: Path, device: torch.device
) -> None:
    write_image_set(tmp_path / "small", SCENES[:2])
    overrides += ["image_set.robot_lighting.root=" + str(tmp_path / "small"), *EVERYTHING]
    runs = []
    for name in ("cpu", str(device)):
        own = [f"device={name}", f"store_dir={tmp_path / name}", "executor.workers=0"]
        outcome = run_audit(load_specs([*overrides, *own]), Invocation("", [], ""))
        runs.append(cnnaudit.load_run(outcome.run_dir))
    here, there = (run.rows for run in runs)
    columns = ["technique", "target", "item", "metric", "flag", "status", "reason"]
    pd.testing.assert_frame_equal(here[columns], there[columns])
    numbers = ["value", "chance", "lift", "swap", "twin", "ceiling"]
    close = np.isclose(here[numbers], there[numbers], rtol=1e-4, atol=1e-4, equal_nan=True)
    assert close.mean() > 0.999  # the last bit may decide which of two pixels comes first
    assert set(there.status) == {"ok", "ineligible", "not_applicable"}
    curves = [run.randomisation[["technique", "step", "correlation"]] for run in runs]
    pd.testing.assert_frame_equal(*curves, atol=1e-3)


def test_the_numbers_of_a_batch_come_back_in_one_copy(
    overrides: list[str], device: torch.device
) -> None:
    """Of several techniques on two targets, with swaps, twins, ceilings and the answers."""
    chosen = ("technique=[saliency,guided_saliency,grad_cam]", "target=[all_outputs,predicted]")
    ready = prepare(load_specs([*overrides, *chosen, "metric=[all_overlap]"]))
    metrics = [one for one in ready.audit.metrics if one.uses != "box_iou"]  # OpenCV's regions
    (unit,) = ready.plan.units
    model = build_model(unit.model, 0)
    twin = untrained_twin(model, 1).to(device)
    reader = make_reader(unit.model, metrics, 24, workers=0)
    ((batch,),) = map(list, reader.read([(unit.chunk, unit.partners)]))
    work = _Work(unit, model.to(device), metrics, twin, Fitting(24))
    work.add(batch)
    assert waits == ["aten._to_copy.default"]
    rows = [row for cell in unit.cells for row in work.rows[cell.key]]
    assert len(rows) == 24 * (7 * 6 + 5)
    assert any(row.swap is not None and row.twin is not None and row.ceiling for row in rows)


def test_heatmaps_from_python_stay_where_the_network_is(device: torch.device) -> None:
    model = resnet18().eval()
    images, mask = torch.randn(2, 3, 64, 48), torch.zeros(64, 48, dtype=torch.bool)
    mask[10:30, 5:25] = True
    asked = ["saliency", "guided_saliency", "cam", "grad_cam", "integrated_gradients"]
    here = cnnaudit.explain(model, images, asked)
    there = cnnaudit.explain(model.to(device), images.to(device), asked)
    assert isinstance(here, dict)
    assert isinstance(there, dict)
    for name, maps in there.items():
        assert maps.device == device
        torch.testing.assert_close(maps.cpu(), here[name], rtol=1e-3, atol=1e-4)
        scores = [cnnaudit.score(each, [mask, mask], "auroc") for each in (maps, here[name])]
        pd.testing.assert_frame_equal(*scores, rtol=1e-3)
