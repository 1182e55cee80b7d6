"""What must hold of every technique, and the identities between them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cnnaudit.heatmaps import compute_heatmaps
from cnnaudit.passes import run_passes
from cnnaudit.specs import TargetSpec, TechniqueSpec
from cnnaudit.targets import all_outputs
from cnnaudit.techniques import TECHNIQUES, procedures, technique
from cnnaudit.types import HeatmapRequest, Heatmaps, Needs, NoHeatmaps, PassSpec
from tests.conftest import state_of

TARGETS = {
    "all_outputs": TargetSpec("all_outputs", "all_outputs", {}),
    "predicted": TargetSpec("predicted", "predicted", {}),
    "second": TargetSpec("second", "class", {"indices": [1]}),
    "against": TargetSpec("against", "all_outputs", {}, "negative"),
}
FEW = {  # passes; the laws hold for any number
    "smooth_grad": {"samples": 3},
    "integrated_gradients": {"steps": 4},
    "occlusion": {"patch": 0.4, "stride": 0.3},
    "rise": {"masks": 5, "cells": 3, "centred": True},
}
# A library's own methods, which get the network itself, have the library's laws.
ALL = sorted(
    name
    for name, found in TECHNIQUES.items()
    if found.gives == "heatmap" and not (found.sees_no_network or found.needs.network)
)
PROCEDURES = [name for name in ALL if TECHNIQUES[name].needs.queries]
SIGNED = ["cam", "input_x_gradient", "integrated_gradients", "occlusion", "rise"]
NOT_NEGATIVE = [name for name in ALL if name not in (*SIGNED, "eigen_cam")]
# With which power of the score a heatmap grows; α of Grad-CAM++ and Score-CAM has none.
DEGREES = dict.fromkeys(ALL, 1) | {"eigen_cam": 0, "guided_grad_cam": 2}
del DEGREES["grad_cam_plus_plus"], DEGREES["score_cam"]


class Small(nn.Module):
    """Two convolutions, one in-place ReLU module used twice, a pooled way to the scores."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(c, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.first(x)))
        return self.head(self.relu(self.second(x)).mean(dim=(2, 3)))


def request(
    name: str, target: str = "all_outputs", layer: str = "relu@0", **parameters: object
) -> HeatmapRequest:
    spec = TechniqueSpec(name, name, {**FEW.get(name, {}), **parameters})
    return HeatmapRequest(spec, TARGETS[target], layer if TECHNIQUES[name].needs.layer else "")


def heatmaps(
    model: nn.Module, images: Tensor, name: str, target: str = "all_outputs", **parameters: object
) -> Tensor:
    _, (result,) = compute_heatmaps(model, None, images, [request(name, target, **parameters)])
    assert isinstance(result, Heatmaps)
    return result.maps


def small(seed: int = 0, c: int = 3) -> Small:
    torch.manual_seed(seed)
    return Small(c).eval()


# --- every technique ------------------------------------------------------------------------------


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
    # In double precision, as rounding decides the sign and order of components that are near.
    model = small(seed, c).double()
    images = torch.randn(b, c, h, w).double()
    maps = heatmaps(model, images, name, "predicted")
    assert maps.shape == (b, h, w)
    single = torch.cat([heatmaps(model, image[None], name, "predicted") for image in images])
    torch.testing.assert_close(maps, single)
    order = torch.arange(b - 1, -1, -1)
    torch.testing.assert_close(heatmaps(model, images[order], name, "predicted"), maps[order])


@pytest.mark.parametrize("b", [1, 2])
@pytest.mark.parametrize("name", ALL)
def test_four_different_sizes(name: str, b: int) -> None:
    assert heatmaps(small(c=3), torch.randn(b, 3, 10, 14), name).shape == (b, 10, 14)


@pytest.mark.parametrize("name", ALL)
def test_maps_are_those_of_double_precision(name: str) -> None:
    model, images = small(), torch.randn(2, 3, 10, 14)
    in_float = heatmaps(model, images, name)
    in_double = heatmaps(model.double(), images.double(), name)
    assert in_double.dtype == torch.float64
    torch.testing.assert_close(
        in_float.double(), in_double, rtol=1e-4, atol=1e-5 * float(in_double.abs().max())
    )


@pytest.mark.parametrize("name", ALL)
def test_maps_have_the_sign_that_they_state_and_are_not_dead(name: str) -> None:
    maps = heatmaps(small(), torch.randn(4, 3, 10, 14), name, "second")
    assert (maps > 0).any()
    assert (maps < 0).any() == (name not in NOT_NEGATIVE)


@pytest.mark.parametrize("name", SIGNED)
def test_a_signed_map_of_what_speaks_against_is_the_opposite(name: str) -> None:
    model, images = small(), torch.randn(2, 3, 10, 14)
    against = heatmaps(model, images, name, "against")
    torch.testing.assert_close(against, -heatmaps(model, images, name))


@pytest.mark.parametrize("name", sorted(DEGREES))
def test_a_score_three_times_as_large_gives_maps_that_are_larger_by_their_degree(name: str) -> None:
    model, images = small(), torch.randn(2, 3, 10, 14)
    before = heatmaps(model, images, name)
    model.head.weight.data *= 3
    model.head.bias.data *= 3
    torch.testing.assert_close(
        heatmaps(model, images, name), 3 ** DEGREES[name] * before, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("name", ALL)
def test_a_constant_in_the_score_changes_no_map(name: str) -> None:
    model, images = small().double(), torch.randn(2, 3, 10, 14).double()
    before = heatmaps(model, images, name)
    model.head.bias.data += 7
    torch.testing.assert_close(heatmaps(model, images, name), before)


@pytest.mark.parametrize("name", ALL)
def test_a_nan_in_one_image_leaves_the_others_as_they_were(name: str) -> None:
    model, images = small(), torch.randn(3, 3, 10, 14)
    before = heatmaps(model, images, name)
    images[1, 0, 4, 5] = torch.nan
    after = heatmaps(model, images, name)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert after[1].isnan().all()  # also where a ReLU's gradient, 0, hides it


@pytest.mark.parametrize("at_once", [1, 1000])
@pytest.mark.parametrize("name", PROCEDURES)
def test_how_many_variants_go_at_once_changes_nothing(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = small(), torch.randn(2, 3, 10, 14)
    before = heatmaps(model, images, name, "predicted")
    monkeypatch.setattr(procedures, "AT_ONCE", at_once)
    after = heatmaps(model, images, name, "predicted")
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-6)


def test_requests_together_give_what_they_give_alone_in_their_order() -> None:
    model, images = small(), torch.randn(2, 3, 10, 14)
    requests = [
        request(name, target, layer)
        for target in TARGETS
        for name in (*ALL, "activations")
        for layer in ("relu@0", "second")
    ]
    outputs, together = compute_heatmaps(model, None, images, requests)
    torch.testing.assert_close(outputs, model(images).detach())
    for wanted, result in zip(requests, together, strict=True):
        _, (alone,) = compute_heatmaps(model, None, images, [wanted])
        torch.testing.assert_close(result.maps, alone.maps)


def test_one_forward_for_all_targets_layers_and_techniques_but_the_procedures() -> None:
    model, calls = small(), []
    model.pool.register_forward_hook(lambda *_: calls.append(1))
    requests = [
        request(name, target, layer)
        for target in TARGETS
        for name in (*ALL, "activations")
        for layer in ("first", "second")
        if name not in PROCEDURES
    ]
    compute_heatmaps(model, None, torch.randn(2, 3, 10, 14), requests)
    assert len(calls) == 1


# --- what is left behind --------------------------------------------------------------------------


class Fails(nn.Module):
    """Hand on the input, and raise in the forward or the backward pass of a call and all later."""

    def __init__(self, backward: bool, first: int) -> None:
        super().__init__()
        self.backward, self.first, self.calls = backward, first, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls >= self.first:
            if not self.backward:
                raise ValueError("on purpose")
            if x.requires_grad:
                x.register_hook(self._fail)
        return x

    def _fail(self, gradient: Tensor) -> None:
        raise ValueError("on purpose")


@pytest.mark.parametrize("first", [1, 2, 99])  # the shared pass, a procedure's own, none
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", [*ALL, "activations"])
def test_everything_is_left_as_it_was(name: str, backward: bool, first: int) -> None:
    torch.manual_seed(0)
    fails = Fails(backward, first)
    model = nn.Sequential(
        *(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            fails,
            nn.Dropout(),
            nn.Conv2d(4, 5, 1),
        ),
        *(nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2)),
    )
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    images = torch.randn(2, 3, 6, 7)
    kept, before = images.clone(), state_of(model)
    status = "ok"
    try:
        _, (result,) = compute_heatmaps(model, None, images, [request(name, layer="2")])
    except ValueError:
        status = "raised"
    else:
        if isinstance(result, NoHeatmaps):
            assert result == NoHeatmaps("failed", "ValueError: on purpose")
            status = "failed"
    assert state_of(model) == before
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert status == _expected(name, backward, first)


def _expected(name: str, backward: bool, first: int) -> str:
    needs = TECHNIQUES[name].needs
    goes_back = needs.gradients or needs.input_gradient or needs.guided_input_gradient
    of_procedure = name in ("smooth_grad", "integrated_gradients")
    if first == 1 and (not backward or goes_back):
        return "raised"
    if first <= 2 and needs.queries and (not backward or of_procedure):
        return "failed"
    return "ok"


# --- resizing, failures, the registry -------------------------------------------------------------


def test_a_coarse_map_is_upsampled_bilinearly_with_its_corners_not_aligned() -> None:
    images = torch.zeros(1, 1, 2, 4)
    images[0, 0, :, 2:] = 8.0
    model = nn.Sequential(nn.AvgPool2d(2), nn.Flatten())
    wanted = request("hires_cam", layer="0")
    _, (result,) = compute_heatmaps(model, None, images, [wanted])
    assert result.maps.tolist() == [[[0, 2, 6, 8], [0, 2, 6, 8]]]
    _, (coarse,) = compute_heatmaps(model, None, images, [wanted], upsample=False)
    assert coarse.maps.tolist() == [[[0, 8]]]


def test_what_does_not_apply_and_what_fails_says_why_and_stops_nobody_else() -> None:
    @technique(needs=Needs(input_gradient=True), title="", citation="")
    def broken(signals):
        raise ZeroDivisionError("on purpose")

    try:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten())
        _, results = compute_heatmaps(
            model,
            None,
            torch.randn(2, 3, 5, 6),
            [request(name) for name in ("guided_saliency", "broken", "cam", "saliency")],
        )
    finally:
        del TECHNIQUES["broken"]
    assert results[0] == NoHeatmaps("not_applicable", "the network has no ReLU")
    assert results[1] == NoHeatmaps("failed", "ZeroDivisionError: on purpose")
    assert results[2] == NoHeatmaps("not_applicable", "no linear layer gives the scores")
    assert isinstance(results[3], Heatmaps)


def test_running_out_of_memory_is_not_a_failure_of_the_technique() -> None:
    """With a smaller batch it may do; who halves batches has to hear of it."""

    @technique(needs=Needs(), title="", citation="")
    def greedy(signals):
        raise torch.OutOfMemoryError("on purpose")

    try:
        with pytest.raises(torch.OutOfMemoryError):
            compute_heatmaps(small(), None, torch.randn(2, 3, 5, 6), [request("greedy")])
    finally:
        del TECHNIQUES["greedy"]


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'saliency' is registered already"):

        @technique(needs=Needs(), title="", citation="")
        def saliency(signals):
            raise NotImplementedError


def test_a_notebooks_cell_may_register_its_technique_again() -> None:
    for _ in range(2):

        @technique(needs=Needs(), title="", citation="")
        def own(signals):
            raise NotImplementedError

    assert TECHNIQUES.pop("own").compute is own


def test_what_needs_a_layer_takes_one() -> None:
    with pytest.raises(
        TypeError, match=r"^deep needs a layer: it must take one by keyword, \*, lay"
    ):

        @technique(needs=Needs(layer=True), title="", citation="")
        def deep(signals):
            raise NotImplementedError


# --- identities -----------------------------------------------------------------------------------


def signals_at(model: nn.Module, images: Tensor, layer: str):
    spec = PassSpec(frozenset({layer}), gradients=True, head=True)
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
def test_before_a_global_average_pool_the_cams_are_one(seed: int) -> None:
    """g = W/(h·w) everywhere: Grad-CAM before its ReLU is CAM/(h·w), HiResCAM and XGrad-CAM too."""
    model = small(seed).double()
    signals = signals_at(model, torch.randn(2, 3, 10, 14).double(), "relu")
    expected = TECHNIQUES["cam"].compute(signals).relu() / (5 * 7)
    for name in ("grad_cam", "hires_cam", "xgrad_cam"):
        torch.testing.assert_close(TECHNIQUES[name].compute(signals, layer="relu"), expected)
    gradients, activations = signals.gradients["relu", 1], signals.activations["relu", 1]
    signed = (gradients.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1)
    torch.testing.assert_close(signed, TECHNIQUES["cam"].compute(signals) / (5 * 7))


@given(seed=st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_layer_cam_is_nowhere_below_hires_cam_after_a_relu(seed: int) -> None:
    model = small(seed)
    signals = signals_at(model, torch.randn(2, 3, 10, 14), "relu@0")
    hires, layer = (
        TECHNIQUES[name].compute(signals, layer="relu@0") for name in ("hires_cam", "layer_cam")
    )
    assert (layer >= hires - 1e-6).all()


@pytest.mark.parametrize("reduce", ["max", "sum"])
def test_smooth_grad_without_noise_is_saliency(reduce: str) -> None:
    model, images = small(), torch.randn(2, 3, 10, 14)
    torch.testing.assert_close(
        heatmaps(model, images, "smooth_grad", sigma=0.0, reduce=reduce),
        heatmaps(model, images, "saliency", reduce=reduce),
    )


def test_guided_grad_cam_is_the_product_of_the_two() -> None:
    model, images = small(), torch.randn(2, 3, 10, 14)
    guided = heatmaps(model, images, "guided_saliency")
    coarse = heatmaps(model, images, "grad_cam", layer="second")
    product = heatmaps(model, images, "guided_grad_cam", layer="second")
    torch.testing.assert_close(product, guided * coarse)
