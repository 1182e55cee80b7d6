"""The CAM family: by hand, and against references written from the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from cnnaudit.models.perception import SimpleCNN
from cnnaudit.passes import run_passes
from cnnaudit.targets import all_outputs, predicted
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import PassSpec


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


REFERENCES = {"grad_cam": grad_cam, "hires_cam": hires_cam, "layer_cam": layer_cam}


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
        # A = (4, −1, 1), (2, 3, 1) before it; g = (2, 0, −1), (−3, 1, −4), means ⅓ and −2
        ("grad_cam", "0", [[0, 0, 0]]),
        ("hires_cam", "0", [[8 - 6, 0 + 3, 0]]),
        ("layer_cam", "0", [[8, 0 + 3, 0]]),
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
    assert heatmaps(model, images, technique, layer).tolist() == [expected]


@pytest.mark.parametrize("layer", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("technique", sorted(REFERENCES))
def test_simple_cnn(technique: str, layer: int) -> None:
    torch.manual_seed(2)
    model = SimpleCNN().eval()
    images = torch.randn(3, 3, 64, 80)
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
