"""What must hold of every technique, and the identities between them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cnnaudit.execute import compute_heatmaps
from cnnaudit.passes import run_passes
from cnnaudit.targets import all_outputs
from cnnaudit.techniques import TECHNIQUES, technique
from cnnaudit.types import (
    HeatmapRequest,
    Heatmaps,
    ModelSpec,
    Needs,
    NoHeatmaps,
    PassSpec,
    Preprocessing,
    TargetSpec,
    TechniqueSpec,
)

SPEC = ModelSpec(
    name="small",
    builder="",
    weights=None,
    preprocessing=Preprocessing((9, 7), "box", "rgb", (0, 0, 0), (1, 1, 1)),
    score_from=None,
    roles={},
    task="structured_regression",
    outputs=(),
    target="all_outputs",
)
TARGETS = {
    "all_outputs": TargetSpec("all_outputs", "all_outputs", {}),
    "second": TargetSpec("second", "class", {"index": 1}),
}
ALL = sorted(name for name, found in TECHNIQUES.items() if not found.sees_no_network)


class Small(nn.Module):
    """Two convolutions, in-place ReLUs, a pooled and a flat way to the scores."""

    def __init__(self, c: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(c, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        h, w = (side // 2 for side in size)
        self.head = nn.Linear(6 * h * w, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.first(x)))
        return self.head(self.relu(self.second(x)).flatten(1))


def request(name: str, target: str = "all_outputs", layer: str = "relu") -> HeatmapRequest:
    needs_layer = TECHNIQUES[name].needs.layer
    return HeatmapRequest(
        TechniqueSpec(name, name, {}), TARGETS[target], layer if needs_layer else ""
    )


def heatmaps(model: nn.Module, images: Tensor, name: str, target: str = "all_outputs") -> Tensor:
    _, (result,) = compute_heatmaps(model, SPEC.score_from, images, [request(name, target)])
    assert isinstance(result, Heatmaps)
    return result.maps


def small(seed: int = 0, c: int = 3, size: tuple[int, int] = (10, 14)) -> Small:
    torch.manual_seed(seed)
    return Small(c, size).eval()


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=5, deadline=None)
@given(
    b=st.integers(1, 4),
    c=st.integers(1, 5),
    h=st.integers(4, 13),
    w=st.integers(4, 13),
    seed=st.integers(0, 9),
)
def test_a_batch_gives_the_maps_of_its_images(
    name: str, b: int, c: int, h: int, w: int, seed: int
) -> None:
    model = small(seed, c, (h, w))
    images = torch.randn(b, c, h, w)
    maps = heatmaps(model, images, name)
    assert maps.shape == (b, h, w)
    single = torch.cat([heatmaps(model, image[None], name) for image in images])
    torch.testing.assert_close(maps, single, rtol=1e-4, atol=1e-6)
    order = torch.arange(b - 1, -1, -1)
    torch.testing.assert_close(
        heatmaps(model, images[order], name), maps[order], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("name", ALL)
def test_maps_are_those_of_double_precision(name: str) -> None:
    model, images = small(), torch.randn(2, 3, 10, 14)
    in_float = heatmaps(model, images, name)
    in_double = heatmaps(model.double(), images.double(), name)
    assert in_double.dtype == torch.float64
    torch.testing.assert_close(in_float.double(), in_double, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_maps_are_not_negative_and_not_dead(name: str) -> None:
    maps = heatmaps(small(), torch.randn(4, 3, 10, 14), name, "second")
    assert (maps >= 0).all()
    assert (maps > 0).any()


@pytest.mark.parametrize("name", ALL)
def test_a_score_three_times_as_large_gives_maps_three_times_as_large(name: str) -> None:
    model, images = small(), torch.randn(2, 3, 10, 14)
    before = heatmaps(model, images, name)
    model.head.weight.data *= 3
    torch.testing.assert_close(heatmaps(model, images, name), 3 * before)


@pytest.mark.parametrize("name", ALL)
def test_a_nan_in_one_image_leaves_the_others_as_they_were(name: str) -> None:
    model, images = small(), torch.randn(3, 3, 10, 14)
    before = heatmaps(model, images, name)
    images[1, 0, 4, 5] = torch.nan
    after = heatmaps(model, images, name)
    assert torch.equal(after[[0, 2]], before[[0, 2]])


def test_requests_together_give_what_they_give_alone_in_their_order() -> None:
    model, images = small(), torch.randn(2, 3, 10, 14)
    calls = []
    model.pool.register_forward_hook(lambda *_: calls.append(1))
    requests = [
        request(name, target, layer)
        for target in TARGETS
        for name in ALL
        for layer in ("first", "second")
    ]
    outputs, together = compute_heatmaps(model, SPEC.score_from, images, requests)
    assert len(calls) == 1  # one forward for two targets, two layers and every technique
    torch.testing.assert_close(outputs, model(images).detach())
    for wanted, result in zip(requests, together, strict=True):
        _, (alone,) = compute_heatmaps(model, SPEC.score_from, images, [wanted])
        torch.testing.assert_close(result.maps, alone.maps)


def test_a_coarse_map_is_upsampled_bilinearly_with_its_corners_not_aligned() -> None:
    images = torch.zeros(1, 1, 2, 4)
    images[0, 0, :, 2:] = 8.0
    model = nn.Sequential(nn.AvgPool2d(2), nn.Flatten())
    wanted = request("hires_cam", layer="0")
    _, (result,) = compute_heatmaps(model, SPEC.score_from, images, [wanted])
    assert result.maps.tolist() == [[[0, 2, 6, 8], [0, 2, 6, 8]]]


def test_what_does_not_apply_and_what_fails_says_why_and_stops_nobody_else() -> None:
    @technique(needs=Needs(input_gradient=True), title="", citation="")
    def broken(signals):
        raise ZeroDivisionError("on purpose")

    try:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten())
        _, results = compute_heatmaps(
            model,
            SPEC.score_from,
            torch.randn(2, 3, 5, 6),
            [request("guided_saliency"), request("broken"), request("saliency")],
        )
    finally:
        del TECHNIQUES["broken"]
    assert results[0] == NoHeatmaps("not_applicable", "the network has no ReLU")
    assert results[1] == NoHeatmaps("failed", "ZeroDivisionError: on purpose")
    assert isinstance(results[2], Heatmaps)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'saliency' is registered already"):

        @technique(needs=Needs(), title="", citation="")
        def saliency(signals):
            raise NotImplementedError


# --- identities -----------------------------------------------------------------------------------


def signals_at(model: nn.Module, images: Tensor, layer: str):
    spec = PassSpec(frozenset({layer}), gradients=True)
    return run_passes(model, images, None, {"t": all_outputs}, {"t": spec})[1]["t"]


@given(seed=st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_gradient_times_activation_adds_up_to_the_score(seed: int) -> None:
    """Without biases the rest of the network is homogeneous: Σ g ⊙ A = y."""
    model = small(seed)
    model.second.bias.data.zero_()
    model.head.bias.data.zero_()
    images = torch.randn(2, 3, 10, 14)
    signals = signals_at(model, images, "pool")
    total = (signals.gradients["pool", 0] * signals.activations["pool", 0]).sum(dim=(1, 2, 3))
    torch.testing.assert_close(total, model(images).sum(dim=1).detach(), rtol=1e-3, atol=1e-5)


@given(seed=st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_grad_cam_is_hires_cam_before_a_global_average_pool(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)),
    )
    signals = signals_at(model, torch.randn(2, 3, 8, 9), "1")
    maps = [TECHNIQUES[name].compute(signals, layer="1") for name in ("grad_cam", "hires_cam")]
    torch.testing.assert_close(*maps)


@given(seed=st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_layer_cam_is_nowhere_below_hires_cam_after_a_relu(seed: int) -> None:
    model = small(seed)
    signals = signals_at(model, torch.randn(2, 3, 10, 14), "relu")
    hires, layer = (
        TECHNIQUES[name].compute(signals, layer="relu") for name in ("hires_cam", "layer_cam")
    )
    assert (layer >= hires - 1e-6).all()
