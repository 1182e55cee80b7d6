"""The CAM family: by hand, and against references written from the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, ResNet

from cnnaudit.heatmaps import compute_heatmaps
from cnnaudit.models.perception import SimpleCNN
from cnnaudit.passes import run_passes
from cnnaudit.specs import TargetSpec, TechniqueSpec
from cnnaudit.targets import all_outputs, predicted
from cnnaudit.techniques import TECHNIQUES, NotApplicable
from cnnaudit.types import HeatmapRequest, Heatmaps, NoHeatmaps, PassSpec, Signals


def heatmaps(
    model: nn.Module,
    images: Tensor,
    technique: str,
    layer: str,
    *,
    target=all_outputs,
    score_from: str | None = None,
) -> Tensor:
    spec = PassSpec(frozenset({layer}), gradients=True)
    _, signals = run_passes(model, images, score_from, {"t": target}, {"t": spec})
    return TECHNIQUES[technique].compute(signals["t"], layer=layer)


def grad_cam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """ReLU(Σ_k mean_hw(g[k]) · A[k]) of one image."""
    total = np.zeros(a.shape[1:])
    for k in range(len(a)):
        total += g[k].mean() * a[k]
    return np.maximum(total, 0)


def hires_cam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """ReLU(Σ_k g ⊙ A) of one image."""
    total = np.zeros(a.shape[1:])
    for k in range(len(a)):
        total += g[k] * a[k]
    return np.maximum(total, 0)


def layer_cam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """ReLU(Σ_k ReLU(g) ⊙ A) of one image."""
    total = np.zeros(a.shape[1:])
    for k in range(len(a)):
        total += np.maximum(g[k], 0) * a[k]
    return np.maximum(total, 0)


def grad_cam_plus_plus(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """α = g² / (2 g² + g³ · ΣA) where that is defined, w = Σ α · ReLU(g), ReLU(Σ_k w · A[k])."""
    total = np.zeros(a.shape[1:])
    for k in range(len(a)):
        weight = 0.0
        for place in np.argwhere(g[k] > 0):
            slope = g[k][tuple(place)]
            weight += slope * slope**2 / (2 * slope**2 + slope**3 * a[k].sum())
        total += weight * a[k]
    return np.maximum(total, 0)


def xgrad_cam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """w = Σ(g ⊙ A) / ΣA where ΣA ≠ 0, else 0; ReLU(Σ_k w · A[k])."""
    total = np.zeros(a.shape[1:])
    for k in range(len(a)):
        if a[k].sum() != 0:
            total += (g[k] * a[k]).sum() / a[k].sum() * a[k]
    return np.maximum(total, 0)


REFERENCES = {
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "hires_cam": hires_cam,
    "layer_cam": layer_cam,
    "xgrad_cam": xgrad_cam,
}


def by_definition(technique: str, activations: Tensor, score: Tensor) -> np.ndarray:
    (gradients,) = torch.autograd.grad(score, activations)
    pairs = zip(activations.detach().double().numpy(), gradients.double().numpy(), strict=True)
    return np.stack([REFERENCES[technique](a, g) for a, g in pairs])


@pytest.mark.parametrize(
    ("technique", "layer", "expected"),
    [
        # A = (4, 0, 1), (2, 3, 1) after the ReLU; g = (2, 5, −1), (−3, 1, −4), means 2 and −2
        ("grad_cam", "1", [[8 - 4, 0, 0]]),
        ("hires_cam", "1", [[8 - 6, 0 + 3, 0]]),
        ("layer_cam", "1", [[8, 0 + 3, 0]]),
        # ΣA = 5, 6: α = (1/12, 1/27, 0), (0, 1/8, 0); w = 19/54, 1/8
        ("grad_cam_plus_plus", "1", [[19 / 54 * 4 + 2 / 8, 3 / 8, 19 / 54 + 1 / 8]]),
        # Σ g ⊙ A = 7, −7; w = 7/5, −7/6
        ("xgrad_cam", "1", [[28 / 5 - 14 / 6, 0, 7 / 5 - 7 / 6]]),
        # A = (4, −1, 1), (2, 3, 1) before it; g = (2, 0, −1), (−3, 1, −4), means ⅓ and −2
        ("grad_cam", "0", [[0, 0, 0]]),
        ("hires_cam", "0", [[8 - 6, 0 + 3, 0]]),
        ("layer_cam", "0", [[8, 0 + 3, 0]]),
        # ΣA = 4, 6: α = (1/10, 0, 0), (0, 1/8, 0)
        ("grad_cam_plus_plus", "0", [[8 / 10 + 2 / 8, -2 / 10 + 3 / 8, 2 / 10 + 1 / 8]]),
        ("xgrad_cam", "0", [[7 - 14 / 6, 0, 7 / 4 - 7 / 6]]),
    ],
)
def test_by_hand(technique: str, layer: str, expected: list[list[float]]) -> None:
    # Channels p = (1, −2, 0), q = (3, 1, 1) → p + q and q − p.
    model = nn.Sequential(
        nn.Conv2d(2, 2, 1, bias=False),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(6, 1, bias=False),
    )
    model[0].weight.data = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])[:, :, None, None]
    model[3].weight.data = torch.tensor([[2.0, 5.0, -1.0, -3.0, 1.0, -4.0]])
    images = torch.tensor([[[[1.0, -2.0, 0.0]], [[3.0, 1.0, 1.0]]]])
    found = heatmaps(model, images, technique, layer)
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float32))


@pytest.mark.parametrize("layer", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("technique", sorted(REFERENCES))
def test_simple_cnn(technique: str, layer: int) -> None:
    torch.manual_seed(2)
    model = SimpleCNN().eval().double()  # α has poles, near which single precision is not enough
    images = torch.randn(3, 3, 64, 80).double()
    activations = model.encoder[: layer + 1](images).detach().requires_grad_()
    scores = model.decoder[:4](model.encoder[layer + 1 :](activations).flatten(1))
    found = heatmaps(model, images, technique, f"encoder.{layer}", score_from="decoder.3")
    expected = by_definition(technique, activations, scores.sum())
    assert found.shape == activations[:, 0].shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * expected.max())


@pytest.mark.parametrize("technique", sorted(REFERENCES))
def test_resnet_uses_the_last_call_of_a_shared_relu(technique: str) -> None:
    torch.manual_seed(3)
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=7).eval()
    images = torch.randn(2, 3, 72, 104)
    front = nn.Sequential(
        *(model.conv1, model.bn1, model.relu, model.maxpool),
        *(model.layer1, model.layer2, model.layer3),
    )
    activations = model.layer4(front(images)).detach().requires_grad_()
    scores = model.fc(model.avgpool(activations).flatten(1))
    found = heatmaps(model, images, technique, "layer4.0.relu", target=predicted)
    expected = by_definition(technique, activations, scores.amax(dim=1).sum())
    assert found.shape == (2, 3, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * expected.max())


# --- where a quotient has no value ----------------------------------------------------------------


def signals(activations: list, gradients: list) -> Signals:
    """Return the signals of one image at a layer of so many channels, each with one row."""
    a, g = (torch.tensor(values)[None, :, None] for values in (activations, gradients))
    return Signals(
        images=torch.zeros(1, 3, 4, 6),
        score=torch.zeros(1),
        weights=torch.ones(1, 1),
        activations={("x", 0): a},
        gradients={("x", 0): g},
    )


@pytest.mark.parametrize("technique", sorted({*REFERENCES, "eigen_cam"}))
def test_a_dead_channel_counts_nothing(technique: str) -> None:
    a, g = [[1.0, 2.0, 4.0], [3.0, 0.0, 1.0]], [[1.0, 1.0, -1.0], [2.0, -1.0, 1.0]]
    compute = TECHNIQUES[technique].compute
    without = compute(signals(a, g), layer="x")
    with_it = compute(signals([*a, [0.0, 0.0, 0.0]], [*g, [5.0, -1.0, 3.0]]), layer="x")
    assert torch.isfinite(without).all()
    torch.testing.assert_close(with_it, without)


@pytest.mark.parametrize("technique", sorted({*REFERENCES, "eigen_cam"}))
def test_a_layer_that_is_dead_gives_a_dead_map(technique: str) -> None:
    dead = signals([[0.0, 0.0]] * 3, [[1.0, -2.0]] * 3)
    assert (TECHNIQUES[technique].compute(dead, layer="x") == 0).all()


def test_channels_whose_activations_cancel_have_no_weight_in_xgrad_cam() -> None:
    found = signals([[3.0, -3.0], [1.0, 2.0]], [[5.0, 1.0], [1.0, 1.0]])
    assert TECHNIQUES["xgrad_cam"].compute(found, layer="x").tolist() == [[[1, 2]]]


@pytest.mark.parametrize("mean", [0.0, 20.0])
def test_channels_whose_activations_cancel_but_for_rounding_have_no_weight_either(
    mean: float,
) -> None:
    """A channel that was normalised sums to 0; what is left of it decides over nothing."""
    torch.manual_seed(0)
    normalised = functional.instance_norm(torch.randn(1, 2, 24, 32) + mean)
    assert (normalised.sum(dim=(2, 3)) != 0).any()
    own, g = torch.rand(1, 1, 24, 32), torch.randn(1, 3, 24, 32)
    a = torch.cat([normalised, own], dim=1)
    found = Signals(
        *(torch.zeros(1, 3, 4, 6), torch.zeros(1), torch.ones(1, 1)),
        activations={("x", 0): a},
        gradients={("x", 0): g},
    )
    maps = TECHNIQUES["xgrad_cam"].compute(found, layer="x")
    expected = xgrad_cam(own[0].double().numpy(), g[0, 2:].double().numpy())
    np.testing.assert_allclose(maps[0], expected, rtol=1e-3, atol=1e-6)


def test_a_sum_of_half_precision_is_no_rounding() -> None:
    found = Signals(
        *(torch.zeros(1, 3, 4, 6), torch.zeros(1), torch.ones(1, 1)),
        activations={("x", 0): torch.ones(1, 1, 24, 32, dtype=torch.bfloat16)},
        gradients={("x", 0): torch.full((1, 1, 24, 32), 0.5, dtype=torch.bfloat16)},
    )
    assert (TECHNIQUES["xgrad_cam"].compute(found, layer="x") == 0.5).all()


def test_alpha_is_zero_where_its_denominator_is() -> None:
    # ΣA = −2: 2 + g · ΣA is 0 at g = 1, and 2 − 4 at g = 2.
    found = signals([[2.0, -4.0]], [[1.0, 2.0]])
    w = 2 / (2 - 4)
    torch.testing.assert_close(
        TECHNIQUES["grad_cam_plus_plus"].compute(found, layer="x"), torch.tensor([[[0, -4 * w]]])
    )


def test_alpha_of_small_gradients_is_that_of_the_formula() -> None:
    """Where g · ΣA is small against 2, α is ½ at any scale."""
    for scale in (1e-3, 1e-9, 1e-15):
        found = signals([[1.0, 3.0]], [[scale, -scale]])
        maps = TECHNIQUES["grad_cam_plus_plus"].compute(found, layer="x")
        torch.testing.assert_close(maps / scale, torch.tensor([[[0.5, 1.5]]]), rtol=3e-3, atol=0)


# --- CAM ------------------------------------------------------------------------------------------


def test_cam_by_hand() -> None:
    model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    model[3].weight.data = torch.tensor([[9.0, 9], [2, -3], [9, 9]])
    model[3].bias.data.zero_()
    images = torch.tensor([[[[1.0, -2, 4]], [[0, 5, 1]]]])
    second = TargetSpec("t", "class", {"indices": [1]})
    request = HeatmapRequest(TechniqueSpec("cam", "cam", {}), second, "")
    _, (result,) = compute_heatmaps(model, None, images, [request])
    assert isinstance(result, Heatmaps)
    # A = (1, 0, 4), (0, 5, 1)
    assert result.maps.tolist() == [[[2, -15, 8 - 3]]]


class Cosine(nn.Linear):
    """A classifier by the angle between features and weights, its argument named in its own way."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        unit = nn.functional.normalize
        return unit(features) @ unit(self.weight).T


def test_cam_is_not_of_a_layer_that_does_more_than_its_weights_say() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(2, 4, 3), Cosine(4, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(features=self.body(images).mean(dim=(2, 3)))

    target = TargetSpec("t", "class", {"indices": [1]})
    request = HeatmapRequest(TechniqueSpec("cam", "cam", {}), target, "")
    _, (result,) = compute_heatmaps(Network(), None, torch.randn(2, 2, 8, 8), [request])
    assert isinstance(result, NoHeatmaps)
    assert result.reason == "no linear layer gives the scores"


# --- Eigen-CAM ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 5, 3, 4), (3, 4, 5, 6), (2, 40, 3, 2), (2, 1, 4, 3)])
def test_eigen_cam_is_the_first_principal_component(shape: tuple[int, ...]) -> None:
    b, k, h, w = shape
    rng = np.random.default_rng(k)
    a = rng.normal(size=shape) * rng.uniform(0.1, 3, size=(b, k, 1, 1)) + 2
    maps = TECHNIQUES["eigen_cam"].compute(at_layer(torch.from_numpy(a)), layer="x").numpy()
    for one, heatmap in zip(a, maps, strict=True):
        component = PCA(1).fit_transform(one.reshape(k, h * w).T)[:, 0]
        sign = np.sign(np.corrcoef(component, one.sum(axis=0).ravel())[0, 1])
        np.testing.assert_allclose(heatmap.ravel(), sign * component, atol=1e-9)


def test_eigen_cam_shows_what_is_active() -> None:
    """The sign of a component is arbitrary; ours is high where the channels are."""
    bright = [[0.0, 5.0, 0.0, 0.0]] * 2
    heatmap = TECHNIQUES["eigen_cam"].compute(signals(bright, bright), layer="x")[0, 0]
    assert int(heatmap.argmax()) == 1
    assert heatmap.sum().item() == pytest.approx(0, abs=1e-5)


def at_layer(a: torch.Tensor) -> Signals:
    b = len(a)
    return Signals(torch.zeros(b, 3, 9, 9), torch.zeros(b), torch.zeros(b, 1), {("x", 0): a})


@pytest.mark.parametrize("scale", [1e-4, -1.0, -1e-4])
def test_eigen_cam_goes_with_the_size_and_the_sign_of_its_layer(scale: float) -> None:
    a = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found, scaled = (
        TECHNIQUES["eigen_cam"].compute(at_layer(x), layer="x") for x in (a, scale * a)
    )
    torch.testing.assert_close(scaled, scale * found, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_eigen_cam_of_a_layer_that_is_not_finite_is_none(value: float) -> None:
    a = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(2))
    alone = TECHNIQUES["eigen_cam"].compute(at_layer(a[:1]), layer="x")
    a[1, 3, 2, 2] = value
    maps = TECHNIQUES["eigen_cam"].compute(at_layer(a), layer="x")
    assert maps[1].isnan().all()
    torch.testing.assert_close(maps[:1], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_layer_that_is_the_same_everywhere_has_no_component(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    flat = torch.randn(2, 40, 1, 1).expand(2, 40, 22, 30).clone().to(dtype)
    found = at_layer(flat)
    assert (TECHNIQUES["eigen_cam"].compute(found, layer="x") == 0).all()
    flat[1, :, 3:9, 4:7] += 0.1  # what little there is in one image is seen
    maps = TECHNIQUES["eigen_cam"].compute(found, layer="x")
    assert (maps[0] == 0).all()
    assert (maps[1, 3:9, 4:7] > 0).all() or (maps[1, 3:9, 4:7] < 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_eigen_cam_of_half_precision_is_that_of_single(dtype: torch.dtype) -> None:
    a = torch.randn(2, 5, 6, 7).to(dtype)
    half, single = (
        TECHNIQUES["eigen_cam"].compute(at_layer(some), layer="x") for some in (a, a.float())
    )
    assert half.dtype == dtype
    torch.testing.assert_close(half, single.to(dtype))


# --- Score-CAM ------------------------------------------------------------------------------------


def test_score_cam_against_loops() -> None:
    torch.manual_seed(6)
    model = nn.Sequential(
        *(nn.Conv2d(3, 5, 3, stride=2), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(4 * 2 * 3, 6)),
    ).double()
    model[0].bias.data[2] = -1e3  # a dead channel masks everything
    images = 3 * torch.randn(2, 3, 9, 11).double()
    target = TargetSpec("t", "predicted", {})
    request = HeatmapRequest(TechniqueSpec("s", "score_cam", {}), target, "1")
    outputs, (result,) = compute_heatmaps(model, None, images, [request], upsample=False)
    assert isinstance(result, Heatmaps)
    for image, output, heatmap in zip(images, outputs, result.maps, strict=True):
        a = model[:2](image[None])[0].detach()
        scores = []
        for channel in a:
            mask = functional.interpolate(
                channel[None, None], (9, 11), mode="bilinear", align_corners=False
            )[0, 0]
            mask = mask - mask.min()
            mask = mask / mask.max() if mask.max() > 0 else mask
            scores.append(model(image[None] * mask)[0, output.argmax()].item())
        alpha = np.exp(scores) / np.exp(scores).sum()
        expected = np.maximum(np.einsum("k,khw->hw", alpha, a.numpy()), 0)
        np.testing.assert_allclose(heatmap.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("level", [0.1, 0.3, -0.7, 1.9, 1e4])
def test_a_channel_that_is_the_same_everywhere_masks_everything(level: float) -> None:
    """Enlarging it would make rounding of it, which scaled to 0–1 is a mask of noise."""
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.LazyLinear(1))
    images = torch.randn(1, 3, 24, 32)
    model(images)
    model[0].weight.data[1] = 0
    model[0].bias.data[1] = level
    seen = []
    model.register_forward_pre_hook(lambda _module, args: seen.append(args[0].clone()))
    target = TargetSpec("t", "all_outputs", {})
    request = HeatmapRequest(TechniqueSpec("s", "score_cam", {}), target, "0")
    compute_heatmaps(model, None, images, [request])
    masked = torch.cat(seen[1:])
    assert masked.shape == (2, 3, 24, 32)
    assert (masked[0] != 0).any()
    assert (masked[1] == 0).all()


# --- layers without a map -------------------------------------------------------------------------


@pytest.mark.parametrize("technique", sorted({*REFERENCES, "eigen_cam", "activations"}))
def test_a_layer_without_places_or_part_in_the_forward_pass(technique: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.ReLU())
    with pytest.raises(
        NotApplicable, match=r"the output of 2 is not spatial, its shape is \(48,\)"
    ):
        heatmaps(model, torch.randn(2, 3, 5, 6), technique, "2")
    with pytest.raises(NotApplicable, match="0@1 takes no part in the forward pass"):
        heatmaps(model, torch.randn(2, 3, 5, 6), technique, "0@1")


@pytest.mark.parametrize("technique", sorted({*REFERENCES, "eigen_cam", "activations"}))
def test_a_layer_that_sees_each_image_twice(technique: str) -> None:
    class Mirrored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            one, other = self.fc(self.conv(torch.cat([x, x.flip(3)])).mean((2, 3))).chunk(2)
            return one + other

    with pytest.raises(NotApplicable, match="conv gives 4 outputs for 2 images, as where a net"):
        heatmaps(Mirrored(), torch.randn(2, 3, 5, 6), technique, "conv")
