"""The small classifier: both heads, and what the audit finds in it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cnnaudit.config import load_specs
from cnnaudit.models import inspect_model
from cnnaudit.models.detector import CLASSES, Detector, flat, pooled


@pytest.mark.parametrize("make", [pooled, flat])
def test_both_heads_give_a_logit_for_each_class(make) -> None:
    model: Detector = make().eval()
    images = torch.randn(3, 3, 64, 64)
    assert model(images).shape == (3, len(CLASSES))
    assert model.features(images).shape == (3, 32, 8, 8)


def test_a_pooled_head_does_not_know_places() -> None:
    model = pooled().eval()
    features = torch.randn(2, 32, 8, 8)
    assert torch.allclose(model.head(features), model.head(features.flip(2, 3)), atol=1e-6)
    assert not torch.allclose(flat().eval().head(features), flat().eval().head(features.flip(2)))


@pytest.mark.parametrize("builder", ["detector_pooled", "detector_flat"])
def test_the_audit_finds_its_layers(builder: str) -> None:
    chosen = ["experiment=none", "model=[tank_clean]", "model.tank_clean.weights=none"]
    spec = load_specs([*chosen, f"model.tank_clean.builder={builder}"]).models[0]
    facts = inspect_model(spec, seed=0)
    assert facts.input == (3, 64, 64)
    assert facts.outputs == len(spec.labels) == 2
    assert spec.labels == CLASSES
    assert facts.roles["first_conv"] == "features.0"
    assert facts.roles["last_conv"] == "features.12"
    assert facts.roles["last_features"] == "features"  # what the last ReLU leaves
    fine = next(layer for layer in facts.layers if layer.path == "features.10")
    assert isinstance(pooled().features[10], nn.ReLU)
    assert fine.shape[-2:] == (16, 16)
