"""Saliency, plain and guided: by hand, and against references written from the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, ResNet

from cnnaudit.models.perception import SimpleCNN
from cnnaudit.passes import run_passes
from cnnaudit.targets import all_outputs, predicted
from cnnaudit.techniques import TECHNIQUES, NotApplicable
from cnnaudit.types import PassSpec


def heatmaps(
    model: nn.Module,
    images: Tensor,
    technique: str,
    *,
    target=all_outputs,
    score_from: str | None = None,
    reduce: str = "max",
) -> Tensor:
    needs = TECHNIQUES[technique].needs
    spec = PassSpec(
        input_gradient=needs.input_gradient, guided_input_gradient=needs.guided_input_gradient
    )
    _, signals = run_passes(model, images, score_from, {"t": target}, {"t": spec})
    return TECHNIQUES[technique].compute(signals["t"], reduce=reduce)


class GuidedReLU(torch.autograd.Function):
    """The reference: g_in = g_out · 1[x > 0] · 1[g_out > 0]."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * (x > 0)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (x > 0) * (g > 0)


RULES = {"saliency": functional.relu, "guided_saliency": GuidedReLU.apply}


def by_definition(score_of, images: Tensor, reduce: str) -> np.ndarray:
    x = images.clone().requires_grad_()
    score_of(x).backward()
    magnitude = np.abs(x.grad.numpy())
    return magnitude.max(axis=1) if reduce == "max" else magnitude.sum(axis=1)


@pytest.mark.parametrize(
    ("technique", "reduce", "expected"),
    [
        ("saliency", "max", [[5, 1]]),
        ("saliency", "sum", [[6, 2]]),
        ("guided_saliency", "max", [[2, 1]]),
        ("guided_saliency", "sum", [[4, 2]]),
    ],
)
def test_by_hand(technique: str, reduce: str, expected: list[list[float]]) -> None:
    # Channels p = (1, −2), q = (3, 1) → p + q = (4, −1), q − p = (2, 3) → ReLU (4, 0), (2, 3),
    # weighed by (2, 5), (−3, 1). ∂y/∂p = (2 + 3, 0 − 1), ∂y/∂q = (2 − 3, 0 + 1); the guided rule
    # cuts the −3, so that ∂y/∂p = (2, −1), ∂y/∂q = (2, 1).
    model = nn.Sequential(
        nn.Conv2d(2, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4, 1, bias=False)
    )
    model[0].weight.data = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])[:, :, None, None]
    model[3].weight.data = torch.tensor([[2.0, 5.0, -3.0, 1.0]])
    images = torch.tensor([[[[1.0, -2.0]], [[3.0, 1.0]]]])
    assert heatmaps(model, images, technique, reduce=reduce).tolist() == [expected]


@pytest.mark.parametrize("reduce", ["max", "sum"])
@pytest.mark.parametrize("technique", sorted(RULES))
def test_simple_cnn(technique: str, reduce: str) -> None:
    torch.manual_seed(2)
    model, relu = SimpleCNN(), RULES[technique]

    def score_of(x: Tensor) -> Tensor:
        for index in (0, 3, 6):
            conv = model.encoder[index]
            x = functional.max_pool2d(
                relu(functional.conv2d(x, conv.weight, conv.bias, padding=1)), 2
            )
        hidden, last = model.decoder[1], model.decoder[3]
        x = relu(functional.linear(x.flatten(1), hidden.weight, hidden.bias))
        return functional.linear(x, last.weight, last.bias).sum()

    images = torch.randn(3, 3, 64, 80)
    found = heatmaps(model, images, technique, score_from="decoder.3", reduce=reduce)
    expected = by_definition(score_of, images, reduce)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("technique", sorted(RULES))
def test_resnet(technique: str) -> None:
    """Every use of its shared, in-place ReLU modules counts."""
    torch.manual_seed(3)
    model, relu = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=7).eval(), RULES[technique]

    def score_of(x: Tensor) -> Tensor:
        x = model.maxpool(relu(model.bn1(model.conv1(x))))
        for block in (*model.layer1, *model.layer2, *model.layer3, *model.layer4):
            y = block.bn2(block.conv2(relu(block.bn1(block.conv1(x)))))
            x = relu(y + (x if block.downsample is None else block.downsample(x)))
        return model.fc(model.avgpool(x).flatten(1)).amax(dim=1).sum()

    images = torch.randn(2, 3, 40, 56)
    found = heatmaps(model, images, technique, target=predicted)
    expected = by_definition(score_of, images, "max")
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6 * expected.max())


VIEWS = {
    "flattened": lambda x: x.flatten(2),
    "pooled": lambda x: functional.adaptive_avg_pool2d(x, 3).flatten(1),
    "permuted": lambda x: x.permute(0, 2, 3, 1),
    "sliced": lambda x: x[:, 1:3],
}


@pytest.mark.parametrize("relu", [nn.ReLU(inplace=True), torch.relu_, lambda x: x.relu_()])
@pytest.mark.parametrize("view", sorted(VIEWS))
def test_guided_counts_a_relu_that_writes_into_a_view(view: str, relu) -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.relu = relu

        def forward(self, x: Tensor) -> Tensor:
            features = self.second(self.first(x).relu())
            self.relu(VIEWS[view](features))
            seen = self.relu(VIEWS[view](features))  # and what it wrote is there for all
            return both_ways(seen, features)

    def both_ways(*parts: Tensor) -> Tensor:
        together = torch.cat([part.flatten(1) for part in parts], dim=1)
        return together * torch.arange(together.shape[1]).cos()

    def by_rule(x: Tensor) -> Tensor:
        features = model.second(GuidedReLU.apply(model.first(x)))
        if view == "pooled":
            seen = GuidedReLU.apply(GuidedReLU.apply(VIEWS[view](features)))
            return both_ways(seen, features).sum()
        whole = GuidedReLU.apply(GuidedReLU.apply(features))
        if view == "sliced":
            whole = torch.cat([features[:, :1], whole[:, 1:3], features[:, 3:]], dim=1)
        seen = VIEWS[view](whole)
        return both_ways(seen, whole).sum()

    model, images = Viewed(), torch.randn(2, 3, 9, 8)
    expected = by_definition(by_rule, images, "max")
    np.testing.assert_allclose(heatmaps(model, images, "guided_saliency"), expected, atol=1e-6)


def test_guided_differs_from_plain_where_a_negative_gradient_meets_a_relu() -> None:
    torch.manual_seed(2)
    model, images = SimpleCNN(), torch.randn(2, 3, 64, 80)
    plain, guided = (
        heatmaps(model, images, name, score_from="decoder.3")
        for name in ("saliency", "guided_saliency")
    )
    assert (plain - guided).abs().max() > 0.1 * plain.max()


@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        (nn.Identity(), "the network has no ReLU"),
        (nn.Tanh(), "the network has no ReLU"),
        (nn.Hardswish(), "the network has no ReLU"),
        (
            nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.SiLU(inplace=True)),
            r"activations other than ReLU \(Silu\)",
        ),
        (
            nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.LeakyReLU(inplace=True)),
            r"activations other than ReLU \(LeakyRelu\)",
        ),
        (
            nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(2), nn.ELU(inplace=True)),
            r"activations other than ReLU \(Elu\)",
        ),
    ],
)
def test_guided_saliency_does_not_apply(activation: nn.Module, reason: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Flatten())
    images = torch.randn(2, 3, 5, 6)
    with pytest.raises(NotApplicable, match=reason):
        heatmaps(model, images, "guided_saliency")
    assert heatmaps(model, images, "saliency").shape == (2, 5, 6)  # it needs no ReLU
