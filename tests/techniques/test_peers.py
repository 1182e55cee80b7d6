"""Against Captum, pytorch-grad-cam and torch-cam: the same maps where they are right.

Where a peer is wrong, a value computed by hand decides, and its wrong value stands beside it, so
that we notice when it changes.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache, partial

import captum.attr
import numpy as np
import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
from pytorch_grad_cam.guided_backprop import GuidedBackpropReLUModel
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18

from cnnaudit.heatmaps import compute_heatmaps
from cnnaudit.specs import TargetSpec, TechniqueSpec
from cnnaudit.types import HeatmapRequest, Heatmaps

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting backward hooks"),
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients"),
]
PARAMETERS = {
    "integrated_gradients": {"steps": 6},
    "occlusion": {"patch": 0.6, "stride": 0.4},
}


def ours(
    model: nn.Module, images: Tensor, technique: str, layer: str, target: str = "predicted"
) -> Tensor:
    spec = TechniqueSpec(technique, technique, PARAMETERS.get(technique, {}))
    named = layer if technique not in WITHOUT_LAYER else ""
    request = HeatmapRequest(spec, TargetSpec("t", target, {}), named)
    _, (result,) = compute_heatmaps(model, None, images, [request], upsample=False)
    assert isinstance(result, Heatmaps)
    return result.maps


# --- the peers: (model, path of the layer, images, classes) → (B, h, w) ---------------------------


def of_captum(name: str, model, layer, images, classes, **arguments) -> Tensor:
    found = getattr(captum.attr, name)(model).attribute(images, target=classes, **arguments)
    return found.detach()


def of_captum_layer(name: str, model, layer, images, classes, **arguments) -> Tensor:
    explainer = getattr(captum.attr, name)(model, model.get_submodule(layer))
    return explainer.attribute(images, target=classes, **arguments).detach()


def captum_guided_grad_cam(model, layer, images, classes) -> Tensor:
    both = of_captum_layer(
        "GuidedGradCam", model, layer, images, classes, interpolate_mode="bilinear"
    )
    return both.abs().amax(dim=1)


def captum_occlusion(model, layer, images, classes) -> Tensor:
    _, c, h, w = images.shape
    patch, stride = ([c, round(share * h), round(share * w)] for share in (0.6, 0.4))
    return of_captum(
        *("Occlusion", model, layer, images, classes),
        sliding_window_shapes=tuple(patch),
        strides=tuple(stride),
    )[:, 0]


def of_pytorch_grad_cam(name: str, model, layer, images, classes) -> Tensor:
    """Return its map before it is scaled to 0–1, which loses what is compared."""
    module, targets = model.get_submodule(layer), [*map(ClassifierOutputTarget, classes)]
    with getattr(pytorch_grad_cam, name)(model, [module]) as explainer:
        explainer(images, targets)
        seen = explainer.activations_and_grads
        gradients = seen.gradients[0].numpy() if seen.gradients else None
        found = explainer.get_cam_image(
            images, module, targets, seen.activations[0].numpy(), gradients, eigen_smooth=False
        )
    return torch.as_tensor(found).relu()


def pytorch_grad_cam_guided(model, layer, images, classes) -> Tensor:
    explain = GuidedBackpropReLUModel(deepcopy(model))  # it replaces the modules of what it gets
    found = [explain(image[None].clone(), k) for image, k in zip(images, classes, strict=True)]
    return torch.as_tensor(np.stack(found)).abs().amax(dim=3)


def of_torch_cam(name: str, model, layer, images, classes, **arguments) -> Tensor:
    with getattr(torchcam.methods, name)(model, layer, **arguments) as explainer:
        scores = model(images)
        (found,) = explainer(classes.tolist(), scores, normalized=False)
    return found.detach()


PEERS = [
    ("saliency", lambda *case: of_captum("Saliency", *case).amax(dim=1)),
    ("guided_saliency", lambda *case: of_captum("GuidedBackprop", *case).abs().amax(dim=1)),
    ("guided_saliency", pytorch_grad_cam_guided),
    ("input_x_gradient", lambda *case: of_captum("InputXGradient", *case).sum(dim=1)),
    (
        "integrated_gradients",
        lambda *case: of_captum(
            "IntegratedGradients", *case, n_steps=6, method="gausslegendre"
        ).sum(dim=1),
    ),
    ("occlusion", captum_occlusion),
    (
        "grad_cam",
        lambda *case: of_captum_layer("LayerGradCam", *case, relu_attributions=True)[:, 0],
    ),
    ("grad_cam", partial(of_pytorch_grad_cam, "GradCAM")),
    ("grad_cam", partial(of_torch_cam, "GradCAM")),
    (
        "hires_cam",
        lambda *case: of_captum_layer("LayerGradientXActivation", *case).sum(dim=1).relu(),
    ),
    ("hires_cam", partial(of_pytorch_grad_cam, "HiResCAM")),
    ("layer_cam", partial(of_pytorch_grad_cam, "LayerCAM")),
    ("layer_cam", partial(of_torch_cam, "LayerCAM")),
    ("xgrad_cam", partial(of_pytorch_grad_cam, "XGradCAM")),
    ("xgrad_cam", partial(of_torch_cam, "XGradCAM")),
    ("guided_grad_cam", captum_guided_grad_cam),
    ("cam", partial(of_torch_cam, "CAM", fc_layer="fc")),
]
WITHOUT_LAYER = {
    *("saliency", "guided_saliency", "input_x_gradient", "integrated_gradients"),
    *("occlusion", "cam"),
}


# --- networks with random weights -----------------------------------------------------------------


class Small(nn.Module):
    """A module for each ReLU, none in place: what every peer can take."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3), nn.ReLU()),
        )
        self.fc = nn.Linear(5, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean(dim=(2, 3)))


class VGG(nn.Module):
    """In-place ReLUs and a head with a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        stages = [
            (nn.Conv2d(c, k, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
            for c, k in ((3, 8), (8, 12), (12, 16))
        ]
        self.features = nn.Sequential(*(module for stage in stages for module in stage))
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(64, 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, 7)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


# network → builder, the layer, the input's height and width
NETWORKS = {
    "small": (Small, "features", (20, 26)),
    "resnet18": (partial(resnet18, num_classes=7), "layer4", (64, 40)),
    "vgg": (VGG, "features", (40, 24)),
}
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-6}  # of a map's maximum


@cache
def built(network: str, dtype: torch.dtype) -> tuple[nn.Module, str, Tensor, Tensor]:
    """Return a network in evaluation mode, its layer, two images and the classes it gives them."""
    build, layer, size = NETWORKS[network]
    torch.manual_seed(8)
    model = build().eval().to(dtype)
    images = torch.randn(2, 3, *size).to(dtype)
    return model, layer, images, model(images).argmax(dim=1)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Hold each map against the peer's, relative to its maximum; a dead one would hold nothing."""
    assert found.shape == expected.shape
    peaks = expected.abs().amax(dim=(1, 2))
    assert (peaks > 0).all()
    errors = (found - expected).abs().amax(dim=(1, 2)) / peaks
    assert (errors < TOLERANCES[found.dtype]).all(), errors


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("network", "technique", "peer"),
    [
        (network, technique, peer)
        for network in NETWORKS
        for technique, peer in PEERS
        if (network, technique) != ("vgg", "cam")  # which has no linear end
    ],
)
def test_the_peers_agree(network: str, technique: str, peer, dtype: torch.dtype) -> None:
    model, layer, images, classes = built(network, dtype)
    expected = peer(model, layer, images.clone(), classes)
    assert_same(ours(model, images, technique, layer), expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_eigen_cam_is_theirs_but_for_the_sign_and_the_part_below_zero(network: str) -> None:
    """pytorch-grad-cam leaves the sign to chance, and gives single precision."""
    model, layer, images, classes = built(network, torch.float32)
    found, theirs = (
        ours(model, images, "eigen_cam", layer),
        of_pytorch_grad_cam("EigenCAM", model, layer, images, classes),
    )
    for one, expected in zip(found, theirs, strict=True):
        sign = 1 if (one * expected).sum() > 0 else -1
        assert_same((sign * one).relu()[None], expected[None])


# --- where peers are wrong: guided backpropagation ------------------------------------------------


class Of(nn.Module):
    """A function of the input and of one ReLU module; with a parameter, as peers ask for one."""

    def __init__(self, function, *, inplace: bool = False) -> None:
        super().__init__()
        self.function, self.relu = function, nn.ReLU(inplace=inplace)
        self.parameter = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * self.parameter, self.relu).flatten(1)


ONE = torch.ones(1, 1, 1, 1)
CLASS = torch.tensor([0])


def signed(explain) -> float:
    """Return Captum's or pytorch-grad-cam's guided gradient of a function of one number at 1."""
    return float(np.asarray(explain).squeeze())


def test_guided_at_a_branch() -> None:
    """y = 2x − 3·relu(x) at 1: the −3 is cut at the ReLU, the 2 goes beside it.

    Captum cuts the gradient of the tensor that goes into the ReLU, which has the 2 − 3 in it.
    """
    model = Of(lambda x, relu: 2 * x - 3 * relu(x))
    assert ours(model, ONE, "guided_saliency", "").item() == 2
    assert signed(of_captum("GuidedBackprop", model, "", ONE.clone(), CLASS)) == 0  # wrong
    assert signed(GuidedBackpropReLUModel(deepcopy(model))(ONE.clone(), 0)) == 2


@pytest.mark.parametrize("relu", [functional.relu, torch.relu, Tensor.relu])
def test_guided_through_a_functional_relu(relu) -> None:
    """y = −relu(x) at 1 is 0: what comes from above is negative.

    A function is no module, so that peers give the plain gradient and call it guided.
    """
    model = Of(lambda x, _: -relu(x))
    assert ours(model, ONE, "guided_saliency", "").item() == 0
    assert signed(of_captum("GuidedBackprop", model, "", ONE.clone(), CLASS)) == -1  # wrong
    assert signed(GuidedBackpropReLUModel(deepcopy(model))(ONE.clone(), 0)) == -1  # wrong


def test_a_network_stays_what_it_was() -> None:
    """pytorch-grad-cam leaves one ReLU of its own, not in place, wherever there had been one."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(inplace=True), nn.ReLU())
    modules = list(model)
    ours(model, ONE, "guided_saliency", "")
    assert list(model) == modules
    GuidedBackpropReLUModel(model)(ONE.clone(), 0)
    assert model[2] is model[3]  # wrong


# --- where peers are wrong: the CAM family --------------------------------------------------------


def linear_after_relu(weights: list[float]) -> nn.Sequential:
    """Return an identity convolution of two channels, an in-place ReLU, and a weighted sum."""
    model = nn.Sequential(
        *(nn.Conv2d(2, 2, 1, bias=False), nn.ReLU(inplace=True), nn.Flatten()),
        nn.Linear(len(weights), 1, bias=False),
    ).eval()
    model[0].weight.data = torch.eye(2)[:, :, None, None]
    model[3].weight.data = torch.tensor([weights])
    return model


def test_a_convolution_before_an_in_place_relu() -> None:
    """A = (1, −2), (1, 5), g = (1, 0), (1, 1): Grad-CAM is ½ · (1, −2) + (1, 5).

    pytorch-grad-cam has kept the tensor that the ReLU overwrites, so that A is (1, 0), (1, 5);
    torch-cam also differentiates by what is there afterwards, g = (1, 1), (1, 1).
    """
    model, images = linear_after_relu([1.0] * 4), torch.tensor([[[[1.0, -2.0]], [[1.0, 5.0]]]])
    case = (model, "0", images, CLASS)
    assert ours(model, images, "grad_cam", "0").tolist() == [[[1.5, 4]]]
    captums = of_captum_layer("LayerGradCam", *case, relu_attributions=True)
    assert captums[:, 0].tolist() == [[[1.5, 4]]]
    assert of_pytorch_grad_cam("GradCAM", *case).tolist() == [[[1.5, 5]]]  # wrong
    assert of_torch_cam("GradCAM", *case).tolist() == [[[2, 5]]]  # wrong


@pytest.mark.parametrize(("scale", "right"), [(1e3, True), (1e-4, False)])
def test_alpha_of_grad_cam_plus_plus(scale: float, right: bool) -> None:
    """A = (1, 3), (2, 0), g = s · (1, 0), (1, −1): α₀₀ = 1/(2 + 4s), α₁₀ = 1/(2 + 2s).

    pytorch-grad-cam adds 10⁻⁶ to 2 g² + g³ · ΣA, which is 50 times as large as that at s = 10⁻⁴.
    torch-cam divides a copy of g², so that its α is g² itself.
    """
    model = linear_after_relu([scale, 0, scale, -scale])
    images = torch.tensor([[[[1.0, 3.0]], [[2.0, 0.0]]]])
    case = (model, "1", images, CLASS)
    first, second = scale / (2 + 4 * scale), scale / (2 + 2 * scale)
    expected = torch.tensor([[[first + 2 * second, 3 * first]]])
    torch.testing.assert_close(ours(model, images, "grad_cam_plus_plus", "1"), expected)
    theirs = of_pytorch_grad_cam("GradCAMPlusPlus", *case)
    assert torch.allclose(theirs, expected, rtol=1e-4) == right
    assert right or (theirs < 0.05 * expected).all()  # wrong
    cubed = scale**3 * torch.tensor([[[1.0 + 2, 3]]])
    torch.testing.assert_close(of_torch_cam("GradCAMpp", *case), cubed)  # wrong


def test_grad_cam_plus_plus_is_pytorch_grad_cams_where_gradients_are_large() -> None:
    model, _, images, classes = built("vgg", torch.float64)
    model = deepcopy(model)
    model.classifier[3].weight.data *= 1e4
    classes = model(images).argmax(dim=1)
    expected = of_pytorch_grad_cam("GradCAMPlusPlus", model, "features", images, classes)
    assert_same(ours(model, images, "grad_cam_plus_plus", "features"), expected)


def score_cam_with(
    model: nn.Module, layer: int, images: Tensor, classes: Tensor, mask_of
) -> Tensor:
    """Return Score-CAM with masks made of activations (B, K, h, w) by a function."""
    a = model.features[: layer + 1](images).detach()
    masks = mask_of(a)
    scores = [
        model(images * masks[:, k, None]).gather(1, classes[:, None])[:, 0]
        for k in range(a.shape[1])
    ]
    alpha = torch.stack(scores, dim=1).softmax(dim=1).detach()
    return (alpha[:, :, None, None] * a).sum(dim=1).relu()


def unit_scaled(a: Tensor) -> Tensor:
    low = a.amin(dim=(2, 3), keepdim=True)
    return (a - low) / (a.amax(dim=(2, 3), keepdim=True) - low).clamp(min=1e-12)


def test_score_cam_of_a_layer_as_large_as_the_input_is_theirs() -> None:
    """Where masks need not be enlarged."""
    model, _, images, classes = built("small", torch.float64)
    case = (model, "features.1", images, classes)
    found = ours(model, images, "score_cam", "features.1")
    assert_same(found, of_torch_cam("ScoreCAM", *case))
    # pytorch-grad-cam's scores are in single precision.
    assert_same(found.float(), of_pytorch_grad_cam("ScoreCAM", *case).float())


def test_masks_of_score_cam() -> None:
    """Enlarged with corners not aligned, then scaled to 0–1, as the paper's s(Up(A)).

    pytorch-grad-cam aligns the corners. torch-cam scales first, so that what it enlarges does not
    come to 0 and 1 any more.
    """
    model, layer, images, classes = built("small", torch.float64)
    size = images.shape[-2:]
    up = partial(functional.interpolate, size=size, mode="bilinear", align_corners=False)
    aligned = partial(functional.interpolate, size=size, mode="bilinear", align_corners=True)
    right, corners, scaled_first = (
        score_cam_with(model, 7, images, classes, masks)
        for masks in (
            lambda a: unit_scaled(up(a)),
            lambda a: unit_scaled(aligned(a)),
            lambda a: up(unit_scaled(a)),
        )
    )
    case = (model, layer, images, classes)
    assert_same(ours(model, images, "score_cam", layer), right)
    assert_same(of_pytorch_grad_cam("ScoreCAM", *case).float(), corners.float())  # wrong
    assert_same(of_torch_cam("ScoreCAM", *case), scaled_first)  # wrong
    for other in (corners, scaled_first):
        assert (right - other).abs().max() > 1e-5 * right.max()


def test_what_is_no_number_is_shown_as_none() -> None:
    """Peers put 0 for a NaN, and the map of a broken image looks like any other."""
    model, images = linear_after_relu([1.0] * 4), torch.tensor([[[[1.0, 2.0]], [[1.0, torch.nan]]]])
    case = (model, "1", images, CLASS)
    assert ours(model, images, "grad_cam", "1", "all_outputs").isnan().all()
    assert of_torch_cam("GradCAM", *case).isfinite().all()  # wrong
    assert of_pytorch_grad_cam("EigenCAM", *case).isfinite().all()  # wrong
