"""What a plan will cost."""

from __future__ import annotations

import pytest
import torch

from cnnaudit.audit import Prepared, prepare
from cnnaudit.config import load_specs
from cnnaudit.cost import cost_of, count_passes, say_work

ASKED = ["metric=[mass_in_mask]", "contrast=[]", "check=[]"]


def _ready(overrides: list[str], *more: str) -> Prepared:
    return prepare(load_specs([*overrides, *ASKED, *more]))


def test_techniques_share_their_passes(overrides: list[str]) -> None:
    def passes(technique: str, *more: str) -> tuple[int, int]:
        ready = _ready(overrides, f"technique=[{technique}]", *more)
        found = count_passes(ready.plan.units, twin=ready.audit.untrained_twin)
        return found.forward, found.backward

    assert passes("edges") == (24, 0)
    assert passes("saliency") == passes("saliency,grad_cam,layer_cam") == (24, 24)
    assert passes("saliency,guided_saliency,edges") == (24, 48)
    assert passes("saliency", "untrained_twin=true") == (48, 48)
    assert passes("edges", "untrained_twin=true") == (24, 0)
    queried = _ready(overrides, "technique=[saliency,occlusion]").plan.units
    assert count_passes(queried, twin=False).queried_by == ("occlusion",)


def test_the_work_of_many_chunks_is_said_at_once(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnaudit.plan.CHUNK", 3)
    targets = ["target=[all_outputs,outputs]", "target.outputs.of={sensor: left}"]
    units = _ready(overrides, "technique=[saliency,edges]", *targets).plan.units
    assert len(units) > 4
    assert list(say_work(units)) == [
        "perception on robot_lighting, 24 images: behaviour, saliency, edges"
    ]


def test_time_and_space_grow_with_the_work_and_nothing_is_kept(overrides: list[str]) -> None:
    small = _ready(overrides, "technique=[saliency]")
    large = _ready(overrides, "technique=[saliency,occlusion]")
    cpu = torch.device("cpu")
    # The first one is for what a process loads when it computes for the first time.
    _, *costs = (cost_of(one.audit, one.plan.units, cpu) for one in (small, small, large))
    assert 0 < costs[0].seconds < costs[1].seconds
    assert 0 < costs[0].size < costs[1].size
    of_planning = {"checked_files", "facts"}
    assert {fields["kind"] for fields, _ in small.store.fields()} == of_planning
