"""Views of a layer: its channels as they were at that use, its filters as they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from cnnaudit.heatmaps import compute_heatmaps
from cnnaudit.specs import TargetSpec, TechniqueSpec
from cnnaudit.techniques import TECHNIQUES, NotApplicable
from cnnaudit.types import Channels, HeatmapRequest

NO_TARGET = TargetSpec("", "all_outputs", {})


def network() -> nn.Sequential:
    torch.manual_seed(0)
    relu = nn.ReLU(inplace=True)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), relu, nn.Flatten()),
    ).eval()


def test_activations_are_the_layers_channels_as_large_as_they_are() -> None:
    model, images = network(), torch.randn(2, 3, 8, 9)
    requests = [
        HeatmapRequest(TechniqueSpec("a", "activations", {}), NO_TARGET, layer)
        for layer in ("0", "1@0", "1")
    ]
    _, results = compute_heatmaps(model, None, images, requests)
    first = functional.conv2d(images, model[0].weight, model[0].bias).detach()
    last = model[3](model[2](first.relu())).relu().detach()
    for result, expected in zip(results, (first, first.relu(), last), strict=True):
        assert isinstance(result, Channels)
        torch.testing.assert_close(result.maps, expected)


def test_kernels_are_the_filters_themselves() -> None:
    model = network()
    filters = TECHNIQUES["kernels"].compute(model[2], layer="2")
    assert filters.shape == (5, 4, 3, 3)
    assert torch.equal(filters, model[2].weight)
    assert not filters.requires_grad


@pytest.mark.parametrize(("layer", "kind"), [("1", "ReLU"), ("3", "BatchNorm2d")])
def test_a_layer_without_filters_has_no_kernels(layer: str, kind: str) -> None:
    with pytest.raises(NotApplicable, match=f"{layer} is a {kind}, it has no filters"):
        TECHNIQUES["kernels"].compute(network().get_submodule(layer), layer=layer)
