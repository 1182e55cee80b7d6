"""From a batch and requests to results: the right target, what has no truth, what comes beside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnnaudit.heatmaps import compute_heatmaps, weights_of
from cnnaudit.specs import TargetSpec, TechniqueSpec
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.techniques.registry import technique
from cnnaudit.types import (
    AuditError,
    Channels,
    HeatmapRequest,
    Heatmaps,
    LayerChoice,
    Needs,
    NoHeatmaps,
    Signals,
)

B, C, H, W, N = 3, 2, 6, 8, 4
ALL = TargetSpec("all", "all_outputs", {})
TRUTH = TargetSpec("truth", "truth", {})


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(C, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, N)),
    )


@pytest.fixture
def images() -> Tensor:
    return torch.randn(B, C, H, W, generator=torch.Generator().manual_seed(1))


def request(
    name: str, target: TargetSpec = ALL, layer: str = "1", **parameters: object
) -> HeatmapRequest:
    layer = layer if TECHNIQUES[name].needs.layer else ""
    return HeatmapRequest(TechniqueSpec(name, name, parameters), target, layer)


def maps_of(model: nn.Module, images: Tensor, *requests: HeatmapRequest, **more) -> list[Tensor]:
    _, results = compute_heatmaps(model, None, images, requests, **more)
    assert all(isinstance(result, Heatmaps) for result in results)
    return [result.maps for result in results]


def a_class(index: int, sign: str = "positive") -> TargetSpec:
    return TargetSpec(f"class {index} {sign}", "class", {"indices": [index]}, sign)


def test_without_requests_there_are_outputs_and_no_graph(model: nn.Module, images: Tensor) -> None:
    graphs = []
    model[1].register_forward_hook(lambda _m, _a, output: graphs.append(output.requires_grad))
    outputs, results = compute_heatmaps(model, None, images, [])
    assert (outputs.shape, results, graphs) == ((B, N), [], [False])


class RuledOut(nn.Module):
    """A network with some classes that are ruled out, as when only a few may be answered."""

    def __init__(self, model: nn.Module, offset: float) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("offsets", torch.tensor([0.0, offset, 0.0, -offset]))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + self.offsets


@pytest.mark.parametrize(
    "name",
    [
        *("saliency", "guided_saliency", "grad_cam", "occlusion", "score_cam", "smooth_grad"),
        "integrated_gradients",
    ],
)
def test_an_infinite_score_of_another_class_is_no_matter(
    model: nn.Module, images: Tensor, name: str
) -> None:
    without, with_it = (
        maps_of(RuledOut(model, offset), images, request(name, a_class(2), "model.1"))[0]
        for offset in (0.0, -torch.inf)
    )
    assert without.abs().max() > 0
    torch.testing.assert_close(with_it, without)
    (own,) = maps_of(RuledOut(model, -torch.inf), images, request(name, a_class(1), "model.1"))
    assert own.isnan().all()


def test_results_come_in_the_order_of_their_requests(model: nn.Module, images: Tensor) -> None:
    targets = [a_class(index) for index in range(N)]
    together = maps_of(model, images, *(request("cam", target) for target in targets))
    features = torch.relu(model[0](images)).detach()
    for index, maps in enumerate(
        maps_of(model, images, *(request("cam", t) for t in targets), upsample=False)
    ):
        weights = model[4].weight.detach()[index]
        torch.testing.assert_close(maps, torch.einsum("k,bkhw->bhw", weights, features))
    assert {maps.shape for maps in together} == {(B, H, W)}


def test_what_speaks_against_a_class_is_what_speaks_for_its_negative(
    model: nn.Module, images: Tensor
) -> None:
    (against,) = maps_of(model, images, request("grad_cam", a_class(2, "negative")))
    model[4].weight.data[2] *= -1
    (expected,) = maps_of(model, images, request("grad_cam", a_class(2)))
    torch.testing.assert_close(against, expected)


# --- truth ----------------------------------------------------------------------------------------


def truths(n: int) -> list[np.ndarray | None]:
    assert n == N
    return [np.eye(n)[3], None, np.eye(n)[0]]


@pytest.mark.parametrize("name", ["saliency", "occlusion"])
def test_each_image_is_asked_about_its_own_truth(
    model: nn.Module, images: Tensor, name: str
) -> None:
    _, (result, other) = compute_heatmaps(
        model, None, images, [request(name, TRUTH), request(name)], truths
    )
    assert isinstance(result, Heatmaps)
    assert result.ineligible == {1: "no_truth"}
    for index, k in ((0, 3), (2, 0)):
        (expected,) = maps_of(model, images[[index]], request(name, a_class(k)))
        torch.testing.assert_close(result.maps[[index]], expected)
    assert isinstance(other, Heatmaps)
    assert other.ineligible == {}  # another target's request needs no truth


def test_a_truth_weighs_its_own_scores_and_none_where_there_is_none() -> None:
    found = weights_of(TRUTH, truths, torch.randn(B, N))
    assert found.tolist() == [[0, 0, 0, 1], [0] * N, [1, 0, 0, 0]]


def test_what_does_not_apply_does_not_apply_to_a_truth(model: nn.Module, images: Tensor) -> None:
    hidden = nn.Sequential(model, nn.Softmax(dim=1))
    _, (cam, saliency) = compute_heatmaps(
        hidden, None, images, [request("cam", TRUTH), request("saliency", TRUTH)], truths
    )
    assert cam == NoHeatmaps("not_applicable", "no linear layer gives the scores")
    assert isinstance(saliency, Heatmaps)


def test_without_any_truth_no_image_is_eligible(model: nn.Module, images: Tensor) -> None:
    _, (result,) = compute_heatmaps(model, None, images, [request("saliency", TRUTH)])
    assert isinstance(result, Heatmaps)
    assert set(result.ineligible) == set(range(B))


# --- what comes beside heatmaps -------------------------------------------------------------------


def test_every_declared_diagnostic_comes_with_its_heatmaps(
    model: nn.Module, images: Tensor
) -> None:
    for name in ("integrated_gradients", "saliency"):
        _, (result,) = compute_heatmaps(model, None, images, [request(name)])
        assert isinstance(result, Heatmaps)
        assert set(result.diagnostics) == set(TECHNIQUES[name].diagnostics)
        for key, values in result.diagnostics.items():
            low, high = TECHNIQUES[name].diagnostics[key].bounds
            assert values.shape == (B,)
            assert ((values >= low) & (values <= high)).all()


def test_channels_are_not_enlarged(model: nn.Module, images: Tensor) -> None:
    _, (result,) = compute_heatmaps(model, None, images, [request("activations", layer="0")])
    assert isinstance(result, Channels)
    torch.testing.assert_close(result.maps, model[0](images).detach())


def test_an_image_without_a_score_has_no_map_but_its_references(
    model: nn.Module, images: Tensor
) -> None:
    """A ReLU passes no gradient where it met a NaN: saliency would be finite, and mean nothing."""
    images[1] = torch.nan
    saliency, prior = maps_of(model, images, request("saliency"), request("center_prior"))
    assert saliency.isnan().flatten(1).any(dim=1).tolist() == [False, True, False]
    assert saliency[1].isnan().all()
    assert prior.isfinite().all()


def test_what_does_not_apply_has_its_reason(model: nn.Module, images: Tensor) -> None:
    hidden = nn.Sequential(*model[:4], nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, N))
    _, (cam, layer) = compute_heatmaps(
        *(hidden, None, images),
        [request("cam"), replace(request("grad_cam"), layer="3")],
    )
    assert cam == NoHeatmaps(
        "not_applicable", "more than a linear layer comes after the average pool"
    )
    assert layer == NoHeatmaps(
        "not_applicable", "the output of 3 is not spatial, its shape is (5,)"
    )


@pytest.fixture
def greedy() -> Iterator[None]:
    """Techniques that write into what they are given, each into something else."""

    def writes_gradients(signals: Signals) -> Tensor:
        return signals.input_gradients["plain"].abs_().sum(dim=1)

    def writes_activations(signals: Signals, *, layer: LayerChoice) -> Tensor:
        call = signals.call_of(layer)
        assert call is not None
        return signals.activations[call].zero_().sum(dim=1)

    def writes_pictures(signals: Signals) -> Tensor:
        return signals.images.mul_(2).sum(dim=1)

    def writes_head(signals: Signals) -> Tensor:
        assert signals.head is not None
        return signals.head.weights.zero_()[:, :, None, None].sum(dim=1).expand(B, H, W)

    def writes_network(signals: Signals, scored: nn.Module) -> Tensor:
        for parameter in scored.parameters():
            parameter.mul_(0.5)
        return signals.images.sum(dim=1)

    def writes_buffers(signals: Signals, scored: nn.Module) -> Tensor:
        for buffer in scored.buffers():
            buffer.add_(1)
        return signals.images.sum(dim=1)

    kinds = {
        writes_gradients: Needs(input_gradient=True),
        writes_activations: Needs(layer=True),
        writes_pictures: Needs(),
        writes_head: Needs(head=True),
        writes_network: Needs(network=True),
        writes_buffers: Needs(network=True),
    }
    for compute, needs in kinds.items():
        technique(needs=needs, title="Greedy", citation="")(compute)
    yield
    for compute in kinds:
        del TECHNIQUES[compute.__name__]


@pytest.mark.usefixtures("greedy")
@pytest.mark.parametrize("upsample", [True, False])
@pytest.mark.parametrize(
    "name", ["writes_gradients", "writes_activations", "writes_pictures", "writes_head"]
)
def test_a_technique_that_writes_into_its_signals_fails_alone(
    model: nn.Module, images: Tensor, name: str, upsample: bool
) -> None:
    others = [request("input_x_gradient"), request("hires_cam"), request("cam")]
    expected = maps_of(model, images, *others, upsample=upsample)
    given = images.clone()
    for place in range(4):
        asked = [*others[:place], request(name), *others[place:]]
        outputs, results = compute_heatmaps(model, None, given, asked, upsample=upsample)
        failed = results.pop(place)
        assert isinstance(failed, NoHeatmaps)
        assert failed.status == "failed"
        assert "must work on a clone" in failed.reason
        for found, known in zip(results, expected, strict=True):
            torch.testing.assert_close(found.maps, known)
        assert torch.equal(outputs, model(images))
    assert torch.equal(given, images)


@pytest.mark.usefixtures("greedy")
@pytest.mark.parametrize("name", ["writes_network", "writes_buffers"])
def test_a_technique_that_writes_into_the_network_stops_the_audit(
    model: nn.Module, images: Tensor, name: str
) -> None:
    asked = [request(name), request("saliency")]
    with pytest.raises(
        AuditError, match=rf"technique\.{name}: it wrote into the network's weights"
    ):
        compute_heatmaps(RuledOut(model, 1.0), None, images, asked)
