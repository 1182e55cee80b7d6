"""Every technique on every architecture that ships: it runs, or it says why it does not apply."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cnnaudit.config import load_specs
from cnnaudit.heatmaps import compute_heatmaps
from cnnaudit.models import ModelFacts, build_model, inspect_model
from cnnaudit.models.layers import names_of
from cnnaudit.plan import requests_of
from cnnaudit.specs import AuditSpec
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import Channels, HeatmapRequest, Heatmaps, NoHeatmaps

CONF = Path(__file__).parents[2] / "conf/model"
NOT_SHIPPED = ("factory", "timm")  # doors for other people's networks
MODELS = sorted(
    path.stem
    for path in CONF.glob("*.yaml")
    if path.stem not in NOT_SHIPPED and not path.stem.endswith("_untrained")
)
FEW = {  # passes
    "smooth_grad.samples": 2,
    "integrated_gradients.steps": 2,
    "occlusion.patch": 0.6,
    "occlusion.stride": 0.4,
    "rise.masks": 3,
}
GUIDED = ("guided_saliency", "guided_grad_cam")
NO_RELU = dict.fromkeys(GUIDED, "the network has no ReLU")
NO_POOL = {"cam": "no global average pool comes before the last linear layer"}
NOT_APPLICABLE = {
    "alexnet": NO_POOL,
    "vgg16": NO_POOL,
    "perception": NO_POOL,
    "perception_mixed": NO_POOL,
    # a hidden layer comes between the pool and the last one
    "mobilenet_v3_large": NO_POOL
    | dict.fromkeys(GUIDED, "the network has activations other than ReLU (Hardsigmoid, Hardswish)"),
    "efficientnet_b0": NO_RELU,  # SiLU
    # GELU; a layer norm comes after the pool
    "convnext_tiny": NO_RELU | {"cam": "more than a linear layer comes after the average pool"},
}


def prepared(name: str) -> tuple[AuditSpec, ModelFacts, torch.nn.Module]:
    """Return an audit of an untrained model under every technique, on small pictures."""
    few = [f"technique.{parameter}={value}" for parameter, value in FEW.items()]
    chosen = ["experiment=none", f"model=[{name}]", "technique=[all,activations]", *few]
    audit = load_specs([*chosen, f"model.{name}.weights=none"])
    (spec,) = audit.models
    if spec.task == "classification":
        preprocessing = replace(spec.preprocessing, resize=72, crop=(64, 64))
        spec = replace(spec, preprocessing=preprocessing)
    model = build_model(spec, seed=1)
    with pytest.MonkeyPatch.context() as patch:  # building the large ones again takes seconds
        patch.setattr("cnnaudit.models.build_model", lambda *_: model)
        facts = inspect_model(spec, 1)
    return replace(audit, models=(spec,)), facts, model


def with_a_small_layer(request: HeatmapRequest, facts: ModelFacts) -> HeatmapRequest:
    """Let Score-CAM, which takes a pass for each channel, have the layer with the fewest."""
    if request.technique.uses != "score_cam":
        return request
    uses = [
        (layer.shape[0], name)
        for name, layer in zip(names_of(facts.layers), facts.layers, strict=True)
        if layer.shape is not None and layer.is_spatial and layer.shape[1] > 1
    ]
    return replace(request, layer=min(uses)[1])


@pytest.mark.parametrize("name", MODELS)
def test_every_technique_runs_or_says_why_not(name: str) -> None:
    audit, facts, model = prepared(name)
    (spec,) = audit.models
    requests = [with_a_small_layer(one, facts) for one in requests_of(audit, spec, facts)]
    torch.manual_seed(2)
    images = torch.randn(1, *facts.input)
    outputs, results = compute_heatmaps(model, spec.score_from, images, requests)
    assert outputs.shape == (1, facts.outputs)
    reasons = {}
    for request, result in zip(requests, results, strict=True):
        if isinstance(result, NoHeatmaps):
            assert result.status == "not_applicable", result
            reasons[request.technique.uses] = result.reason
            continue
        if isinstance(result, Channels):
            assert result.maps.ndim == 4
        else:
            assert isinstance(result, Heatmaps)
            assert result.maps.shape == images[:, 0].shape
        assert torch.isfinite(result.maps).all()
    assert reasons == NOT_APPLICABLE.get(name, {})
    kernels = TECHNIQUES["kernels"].compute(
        model.get_submodule(facts.roles["first_conv"]), layer="first_conv"
    )
    assert kernels.shape[1] == 3


def test_the_table_is_about_all_that_ships() -> None:
    assert set(NOT_APPLICABLE) < set(MODELS)
    assert len(MODELS) == 16
