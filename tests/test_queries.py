"""What procedures get: passes on variants, every image under its own target, memory permitting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cnnaudit.heatmaps import compute_heatmaps
from cnnaudit.passes import run_passes
from cnnaudit.queries import make_query, scored_network
from cnnaudit.specs import TargetSpec, TechniqueSpec
from cnnaudit.targets import predicted
from cnnaudit.techniques import TECHNIQUES, technique
from cnnaudit.types import HeatmapRequest, Needs, PassSpec

EVERYTHING = PassSpec(
    layers=frozenset({"conv"}),
    gradients=True,
    input_gradient=True,
    guided_input_gradient=True,
    head=True,
)


class Limited(nn.Module):
    """A network that has memory for so many images, and notes how many it got."""

    def __init__(self, limit: int = 10**6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.limit, self.batches = limit, []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("too many")
        return self.fc(self.conv(x).relu().mean(dim=(2, 3)))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 6, 7, generator=torch.Generator().manual_seed(1))


def test_variants_come_variant_by_variant_and_keep_their_images_target(images: Tensor) -> None:
    model, weights = Limited(), torch.eye(5)[[4, 0, 2]]
    variants = torch.stack([images, 2 * images, -images, 0 * images])  # (V, B, C, H, W)
    signals = make_query(model, None, weights)(variants.flatten(0, 1), PassSpec())
    expected = torch.stack(
        [model(v).gather(1, torch.tensor([[4], [0], [2]]))[:, 0] for v in variants]
    )
    torch.testing.assert_close(signals.score, expected.detach().flatten())
    assert torch.equal(signals.weights, weights.repeat(4, 1))
    assert signals.input_gradients == {}


@pytest.mark.parametrize("n", [0, 2, 4])
def test_variants_are_of_the_whole_batch(images: Tensor, n: int) -> None:
    query = make_query(Limited(), None, torch.eye(5)[:3])
    with pytest.raises(ValueError, match=f"query got {n} images, V·B are expected where B is 3"):
        query(images.repeat(2, 1, 1, 1)[:n], PassSpec())


@pytest.mark.parametrize("limit", [1, 2, 5, 11])
def test_out_of_memory_halves_the_variants_and_changes_nothing(images: Tensor, limit: int) -> None:
    weights, variants = (
        torch.eye(5)[[4, 0, 2]],
        images.repeat(4, 1, 1, 1) * torch.randn(12, 1, 1, 1),
    )
    whole = make_query(Limited(), None, weights)(variants, EVERYTHING)
    model = Limited(limit)
    halved = make_query(model, None, weights)(variants, EVERYTHING)
    assert sum(size for size in model.batches if size <= limit) == 12
    for name in ("images", "score", "weights"):
        torch.testing.assert_close(getattr(halved, name), getattr(whole, name))
    for name in ("activations", "gradients", "input_gradients"):
        torch.testing.assert_close(getattr(halved, name), getattr(whole, name))
    assert whole.head is not None
    assert halved.head is not None
    torch.testing.assert_close(halved.head.features, whole.head.features)
    torch.testing.assert_close(halved.head.weights, whole.head.weights)
    assert halved.inapplicable == whole.inapplicable == {}


def test_how_many_variants_the_memory_takes_is_found_once(images: Tensor) -> None:
    model = Limited(5)
    query = make_query(model, None, torch.ones(3, 5))
    for _ in range(2):
        query(images.repeat(4, 1, 1, 1), PassSpec())
    assert model.batches == [12, 6, 3, 3, 3, 3, 3, 3, 3, 3]


def test_memory_that_does_not_suffice_for_one_image_is_said(images: Tensor) -> None:
    model = Limited(0)
    with pytest.raises(torch.OutOfMemoryError):
        make_query(model, None, torch.ones(3, 5))(images, PassSpec())
    assert model.batches == [3, 1]
    assert all(p.requires_grad for p in model.parameters())


def test_score_from_counts_in_queries_as_well(images: Tensor) -> None:
    model = nn.Sequential(Limited(), nn.Softmax(dim=1))
    score = make_query(model, "0", torch.ones(3, 5))(images, PassSpec()).score
    torch.testing.assert_close(score, model[0](images).sum(dim=1).detach())


def test_the_target_is_that_of_the_original_image(images: Tensor) -> None:
    """A variant that the network takes for something else is still asked about the same class."""
    model, seen = Limited(), {}
    model.fc.weight.data.zero_()[0] = 1
    model.fc.bias.data = torch.tensor([0.0, 3, 0, 0, 0])

    @technique(needs=Needs(queries=True), title="", citation="")
    def probing(signals, query):
        seen["score"] = query(5 * images, PassSpec()).score
        return images[:, 0]

    try:
        request = HeatmapRequest(
            TechniqueSpec("probing", "probing", {}), TargetSpec("t", "predicted", {}), ""
        )
        compute_heatmaps(model, None, images, [request])
    finally:
        del TECHNIQUES["probing"]
    original, other = model(images).detach(), model(5 * images).detach()
    assert original.argmax(dim=1).tolist() == [1, 1, 1]
    assert other.argmax(dim=1).tolist() == [0, 0, 0]
    torch.testing.assert_close(seen["score"], other[:, 1])


def test_a_network_of_images_that_gives_the_explained_score(images: Tensor) -> None:
    model = Limited()
    model.fc.weight.requires_grad_(False)
    _, signals = run_passes(model, images, None, {"t": predicted}, {"t": PassSpec()})
    with scored_network(model, None, signals["t"].weights) as network:
        x = images.clone().requires_grad_()
        score = network(x, network.weights)
        score.sum().backward()
        assert not any(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(score.detach(), signals["t"].score)
    assert x.grad is not None
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, True]
    assert all(p.grad is None for p in model.parameters())
