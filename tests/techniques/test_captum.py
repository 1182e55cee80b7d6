"""Captum's methods by config: what Captum gives directly, for each image by itself."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnaudit.config import load_specs
from cnnaudit.heatmaps import compute_heatmaps
from cnnaudit.plan import request_fields
from cnnaudit.specs import TargetSpec, TechniqueSpec
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.techniques.captum import METHODS
from cnnaudit.types import AuditError, HeatmapRequest, Heatmaps, NoHeatmaps
from tests.conftest import state_of

B, C, H, W = 3, 2, 8, 10
PREDICTED = TargetSpec("predicted", "predicted", {})
# What each method cannot do without, and what keeps it quick.
ARGUMENTS: Mapping[str, dict[str, Any]] = {
    "IntegratedGradients": {"n_steps": 6, "baselines": 0.5},
    "DeepLift": {"baselines": 0.25},
    "DeepLiftShap": {"baselines": [0.0, 0.5]},
    "GradientShap": {"baselines": [0.0, 0.5], "n_samples": 3, "stdevs": 1},
    "NoiseTunnel": {"attribution_method": "IntegratedGradients", "nt_samples": 3, "n_steps": 4},
    "FeatureAblation": {"feature_mask": 3},
    "Occlusion": {"sliding_window_shapes": [2, 3, 3], "strides": [2, 2, 2], "baselines": 1},
    "ShapleyValueSampling": {"feature_mask": 2, "n_samples": 3},
    "Lime": {"feature_mask": 3, "n_samples": 8},
    "KernelShap": {"feature_mask": 3, "n_samples": 8},
    "LayerConductance": {"n_steps": 6},
    "InternalInfluence": {"n_steps": 6, "method": "riemann_middle"},
    "LayerIntegratedGradients": {"n_steps": 6},
    "LayerDeepLiftShap": {"baselines": [0.0, 0.5]},
    "LayerGradientShap": {"baselines": [0.0, 0.5], "n_samples": 3},
    "LayerFeatureAblation": {"layer_mask": 2},
}
ALL = [(uses, method) for uses, methods in METHODS.items() for method in methods]


class Network(nn.Module):
    """A ReLU module for each activation; in place, an addition writes into a layer's output."""

    def __init__(self, *, inplace: bool = True) -> None:
        super().__init__()
        self.inplace = inplace
        self.first, self.second = nn.Conv2d(C, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.relu, self.last = nn.ReLU(inplace), nn.ReLU(inplace)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(6 * H * W // 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        y, skipped = self.second(x), x.sum(dim=1, keepdim=True)
        if self.inplace:
            y += skipped
        else:
            y = y + skipped
        return self.head(self.pool(self.last(y)).flatten(1))


def network(*, inplace: bool = True) -> Network:
    torch.manual_seed(4)
    return Network(inplace=inplace).eval()


def pictures() -> Tensor:
    images = torch.randn(B, C, H, W, generator=torch.Generator().manual_seed(5))
    assert len(set(network()(images).argmax(dim=1).tolist())) > 1  # each has a class of its own
    return images


def heatmaps(
    model: nn.Module, images: Tensor, method: str, score_from: str | None = None, **parameters: Any
) -> Heatmaps | NoHeatmaps:
    uses = "captum" if method in METHODS["captum"] else "captum_layer"
    layer = parameters.pop("layer", "second") if uses == "captum_layer" else ""
    given = {"method": method, "arguments": ARGUMENTS.get(method), **parameters}
    request = HeatmapRequest(TechniqueSpec(uses, uses, given), PREDICTED, layer)
    _, (result,) = compute_heatmaps(model, score_from, images, [request], upsample=False)
    assert not isinstance(result, NoHeatmaps) or result.status == "not_applicable", result
    return result


def maps(*args: Any, **parameters: Any) -> Tensor:
    result = heatmaps(*args, **parameters)
    assert isinstance(result, Heatmaps), result
    return result.maps


def grid(number: int, h: int, w: int) -> Tensor:
    cells = [[y * number // h * number + x * number // w for x in range(w)] for y in range(h)]
    return torch.tensor(cells)[None, None]


def by_captum(model: Network, image: Tensor, method: str) -> Tensor:
    """Captum itself on one image (1, C, H, W), with a target as it knows them."""
    arguments: dict[str, Any] = dict(ARGUMENTS.get(method, {}))
    for name, value in arguments.items():
        if name.endswith("_mask"):
            arguments[name] = grid(value, H, W)
        elif name == "baselines" and isinstance(value, list):
            arguments[name] = torch.stack([torch.full((C, H, W), each) for each in value])
        elif isinstance(value, list):
            arguments[name] = tuple(value)
        elif name == "stdevs":
            arguments[name] = float(value)
    kind, inner = getattr(captum.attr, method), arguments.pop("attribution_method", None)
    made = getattr(captum.attr, inner)(model) if inner else model
    explainer = kind(made, model.second) if method in METHODS["captum_layer"] else kind(made)
    if method != "LayerActivation":
        arguments["target"] = int(model(image).argmax())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return explainer.attribute(image.clone().requires_grad_(), **arguments).detach()


@pytest.mark.parametrize(
    "method",
    [
        name
        for _, name in ALL
        if "DeepLift" not in name  # of which Captum alone gives another (see below)
        and not {"n_samples", "nt_samples"} & set(ARGUMENTS.get(name, ()))
    ],
)
def test_a_method_gives_what_captum_gives(method: str) -> None:
    # Captum's own result is right only where nothing is in place (see below).
    reference, images = network(inplace=False), pictures()
    expected = torch.cat([by_captum(reference, image, method) for image in images.split(1)])
    found = maps(network(), images, method)
    assert found.shape == (B, H, W)
    assert found.abs().max() > 0
    torch.testing.assert_close(found, expected.sum(dim=1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "method", ["GradientShap", "NoiseTunnel", "ShapleyValueSampling", "KernelShap"]
)
def test_a_method_that_draws_gives_what_captum_gives_from_the_same_draws(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = network(inplace=False), pictures()
    monkeypatch.setattr(
        "cnnaudit.techniques.captum.own_generator", lambda *_: torch.Generator().manual_seed(7)
    )
    found, expected = maps(model, images, method), []
    for image in images.split(1):
        torch.manual_seed(7)
        np.random.seed(7)
        expected.append(by_captum(model, image, method).sum(dim=1))
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("uses", "method"), ALL)
def test_a_batch_gives_the_maps_of_its_images_and_draws_nothing_from_outside(
    uses: str, method: str
) -> None:
    model, images = network(), pictures()
    torch.manual_seed(1)
    np.random.seed(1)
    found = maps(model, images, method)
    after = torch.rand(2), np.random.rand(2)
    torch.manual_seed(2)
    np.random.seed(2)
    single = torch.cat([maps(model, image[None], method) for image in images.flip(0)]).flip(0)
    torch.testing.assert_close(found, single)
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(torch.rand(2), after[0])
    assert np.array_equal(np.random.rand(2), after[1])


@pytest.mark.parametrize(
    "method", ["GradientShap", "NoiseTunnel", "ShapleyValueSampling", "LayerGradientShap"]
)
def test_another_seed_draws_others(method: str) -> None:
    model, images = network(), pictures()
    zero, again, one = (maps(model, images, method, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(zero, again)
    assert not torch.allclose(zero, one)


@pytest.mark.parametrize("method", ["Saliency", "DeepLift", "Lime", "LayerConductance"])
def test_a_nan_in_one_image_leaves_the_others_as_they_were(method: str) -> None:
    images = pictures()
    before = maps(network(), images, method)
    images[1, 0, 2, 3] = torch.nan
    after = maps(network(), images, method)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert after[1].isnan().all()


def test_channels_are_reduced_as_declared() -> None:
    model, images = network(), pictures()
    found = torch.cat([by_captum(model, image, "InputXGradient") for image in images.split(1)])
    for reduce, expected in {
        "sum": found.sum(dim=1),
        "abs_sum": found.abs().sum(dim=1),
        "abs_max": found.abs().amax(dim=1),
    }.items():
        torch.testing.assert_close(maps(model, images, "InputXGradient", reduce=reduce), expected)


def test_more_cells_than_pixels_are_the_pixels() -> None:
    model, images = network(), pictures()
    few, many = (
        maps(model, images, "FeatureAblation", arguments={"feature_mask": cells})
        for cells in (W, 99)
    )
    torch.testing.assert_close(few, many)


# --- where Captum by itself would be wrong --------------------------------------------------------


@pytest.mark.parametrize("layer", ["first", "relu", "second", "last"])
@pytest.mark.parametrize("method", METHODS["captum_layer"])
def test_what_is_done_in_place_does_not_change_the_maps_of_a_layer(method: str, layer: str) -> None:
    """Captum's LayerFeatureAblation is another map there, LayerIntegratedGradients fails."""
    images = pictures()
    inplace, apart = (
        maps(network(inplace=inplace), images, method, layer=layer) for inplace in (True, False)
    )
    torch.testing.assert_close(inplace, apart)


class Changed(Network):
    """One that differs from what DeepLift is made for."""

    def __init__(self, how: str) -> None:
        super().__init__(inplace=False)
        self.how = how
        if how == "overlapping":
            self.pool = nn.MaxPool2d(3, 2, padding=1)
        if how == "reused":
            self.last = self.relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.how == "functional":
            x = functional.relu(x)
        if self.how == "branch":
            x = 2 * x - 3 * self.relu(x)
        if self.how == "product":
            x = x * x.mean(dim=(2, 3), keepdim=True).sigmoid()
        if self.how == "reused":
            x = self.relu(x)
        return self.head(self.pool(self.last(self.second(x))).flatten(1))


def changed(how: str) -> Changed:
    torch.manual_seed(4)
    return Changed(how).eval()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("reused", "DeepLift needs a module of its own for each activation, and one is used more"),
        ("functional", "do not add up to the change of the score"),
        ("product", "do not add up to the change of the score"),
        ("overlapping", "do not add up to the change of the score"),
    ],
)
@pytest.mark.parametrize("method", ["DeepLift", "DeepLiftShap", "LayerDeepLift"])
def test_deep_lift_without_its_rules_does_not_apply(method: str, how: str, reason: str) -> None:
    result = heatmaps(changed(how), pictures(), method)
    assert isinstance(result, NoHeatmaps)
    assert reason in result.reason


class Rescaled(nn.Module):
    """A ReLU on a pair of an image and its baseline, whose gradient is DeepLift's Δout / Δin."""

    def forward(self, pair: Tensor) -> Tensor:
        x, x0 = held = pair.detach()
        return held.relu() + (pair - held) * ((x.relu() - x0.relu()) / (x - x0))


@pytest.mark.parametrize("how", ["plain", "branch"])
@pytest.mark.parametrize("method", ["DeepLift", "LayerDeepLift"])
def test_deep_lift_is_what_its_definition_gives(method: str, how: str) -> None:
    """Captum alone loses the 2x that branches off before a ReLU."""
    model, images = changed(how), pictures()
    model.pool = nn.AvgPool2d(2)
    if how == "plain":
        model.first = nn.Sequential(model.first, nn.ReLU())
    found = maps(model, images, method, arguments={"baselines": 0.25})
    targets = model(images).argmax(dim=1)
    layers: list[Tensor] = []
    model.second.register_forward_hook(lambda _module, _args, output: layers.append(output))
    if how == "plain":
        model.first[1] = Rescaled()
    model.relu, model.last = Rescaled(), Rescaled()
    for index, image in enumerate(images):
        pair = torch.stack([image, torch.full_like(image, 0.25)]).requires_grad_()
        score = model(pair)[0, targets[index]]
        explained = pair if method == "DeepLift" else layers[-1]
        (gradient,) = torch.autograd.grad(score, explained)
        expected = (gradient[0] * (explained[0] - explained[1])).sum(dim=0).detach()
        torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-6)


def test_deep_lift_adds_up_to_the_change_of_the_score() -> None:
    """Captum alone overlooks its rule for the pool, which comes right after a ReLU."""
    model, images = network(), pictures()
    with torch.no_grad():
        change = model(images) - model(torch.full_like(images, 0.25))
    expected = change[torch.arange(B), model(images).argmax(dim=1)]
    found = maps(model, images, "DeepLift").sum(dim=(1, 2))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    alone = torch.stack([by_captum(model, x, "DeepLift").sum() for x in images.split(1)])
    assert not torch.allclose(alone, expected, rtol=0.01)


@pytest.mark.parametrize("method", ["DeepLift", "LayerDeepLift"])
def test_deep_lift_shap_is_the_mean_over_its_baselines(method: str) -> None:
    model, images = network(), pictures()
    first, second = (
        maps(model, images, method, arguments={"baselines": each}) for each in (0.0, 0.5)
    )
    found = maps(model, images, f"{method}Shap")
    torch.testing.assert_close(found, (first + second) / 2, rtol=1e-4, atol=1e-6)


def test_a_layer_that_is_called_twice_does_not_apply() -> None:
    result = heatmaps(changed("reused"), pictures(), "LayerGradientXActivation", layer="relu@0")
    assert result == NoHeatmaps(
        "not_applicable", "relu is called several times, which Captum cannot tell apart"
    )


# --- the network is left as it was ----------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("uses", "method"), ALL)
def test_the_network_is_left_as_it_was(uses: str, method: str, fails: bool) -> None:
    # The scores come before the end, so that DeepLift's marks on the last module are never used.
    model = nn.Sequential(network(), nn.Sigmoid()).train()
    model[0].pool.eval()
    images = pictures()
    kept = images.clone()
    given = {"method": method, "arguments": ARGUMENTS.get(method)}
    layer = "0.second" if uses == "captum_layer" else ""
    calls: list[int] = []

    def fail(self: nn.Module, x: Tensor) -> Tensor:
        calls.append(1)
        if fails and len(calls) > 1:  # the first pass is the shared one
            raise ValueError("on purpose")
        return functional.max_pool2d(x, 2)

    model[0].pool.forward = fail.__get__(model[0].pool)
    before = state_of(model)
    request = HeatmapRequest(TechniqueSpec(uses, uses, given), PREDICTED, layer)
    _, (result,) = compute_heatmaps(model, "0", images, [request])
    if fails:
        assert result == NoHeatmaps("failed", "ValueError: on purpose")
    assert state_of(model) == before
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert images.grad is None


# --- what a config says ---------------------------------------------------------------------------


def declared(text: str, uses: str = "captum") -> TechniqueSpec:
    (found,) = load_specs(
        ["experiment=none", "technique=[]", f"+technique.mine={{uses:{uses},{text}}}"]
    ).techniques
    return found


def test_every_method_can_be_declared() -> None:
    for uses, method in ALL:
        arguments = str(ARGUMENTS.get(method, {})).replace("'", "").replace(" ", "")
        found = declared(f"method:{method},arguments:{arguments}", uses)
        assert found.parameters["arguments"] == ARGUMENTS.get(method, {})


def test_every_method_of_captum_is_offered_or_refused_with_a_reason() -> None:
    offered = {method for _, method in ALL}
    others = {
        name
        for name in captum.attr.__all__
        if inspect.isclass(getattr(captum.attr, name))
        and issubclass(getattr(captum.attr, name), captum.attr.Attribution)
        and not name.endswith("Attribution")  # what these have in common, and language models
    }
    for name in others - offered:
        with pytest.raises(AuditError, match=f"mine.method: '{name}' is not offered: .+"):
            declared(f"method:{name}")


@pytest.mark.parametrize(
    ("text", "uses", "message"),
    [
        ("method:DeepLft", "captum", r"mine.method: 'DeepLft' .* Did you mean 'DeepLift'\? Allo"),
        ("method:LayerGradCam", "captum", r"mine.method: 'LayerGradCam' belongs to uses: captum_l"),
        ("method:Lime", "captum_layer", r"mine.method: 'Lime' belongs to uses: captum"),
        ("method:GuidedBackprop", "captum", r"take uses: guided_saliency, which is exact"),
        ("method:Deconvolution", "captum", r"relative of it is uses: guided_saliency"),
        ("method:NeuronDeepLift", "captum", r"explains a neuron inside the network"),
        ("method:Saliency,arguments:{absolute:true}", "captum", r"arguments.absolute: .*: abs"),
        ("method:Saliency,arguments:{target:3}", "captum", r"arguments.target: 'target' is no al"),
        (
            "method:IntegratedGradients,arguments:{nsteps:3}",
            "captum",
            r"mine.arguments.nsteps: 'nsteps' is no allowed argument. Did you mean 'n_steps'\?",
        ),
        (
            "method:IntegratedGradients,arguments:{n_steps:many}",
            "captum",
            r"mine.arguments.n_steps: 'many' is not a whole number, at least 1",
        ),
        (
            "method:IntegratedGradients,arguments:{method:simpson}",
            "captum",
            r"mine.arguments.method: 'simpson' is not one of gausslegendre, riemann_left",
        ),
        ("method:GradientShap", "captum", r"mine.arguments.baselines is missing"),
        (
            "method:GradientShap,arguments:{baselines:0.0}",
            "captum",
            r"mine.arguments.baselines: 0.0 is not a list of numbers, at least two",
        ),
        (
            "method:DeepLiftShap,arguments:{baselines:[0]}",
            "captum",
            r"mine.arguments.baselines: \[0\] is not a list of numbers, at least two",
        ),
        ("method:Occlusion", "captum", r"mine.arguments.sliding_window_shapes is missing"),
        ("method:Lime", "captum", r"mine.arguments.feature_mask is missing: how many cells"),
        (
            "method:NoiseTunnel,arguments:{attribution_method:Salience}",
            "captum",
            r"attribution_method: 'Salience' is not one of Saliency, InputXGradient, Integrated",
        ),
        (
            "method:DeepLift,reduce:median",
            "captum",
            r"mine.reduce: 'median' is not one of sum, abs",
        ),
    ],
)
def test_a_mistake_is_named(text: str, uses: str, message: str) -> None:
    with pytest.raises(AuditError, match=message):
        declared(text, uses)


def test_without_the_extra_the_config_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(AuditError, match=r"mine.uses: captum .*pip install 'cnnaudit\[captum\]'"):
        declared("method:DeepLift")


def test_captums_version_is_part_of_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    request = HeatmapRequest(declared("method:DeepLift"), PREDICTED, "")
    model = load_specs().models[0]
    before = request_fields(model, request)
    monkeypatch.setattr("cnnaudit.plan.version_of", lambda name: f"another {name}")
    after = request_fields(model, request)
    assert {name for name in before if before[name] != after[name]} == {"library_of_technique"}
    assert after["library_of_technique"] == "another captum"
    assert TECHNIQUES["saliency"].library == ""
