"""Deletion and insertion: a linear network's curves by hand, loops in NumPy, and the laws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from cnnaudit.audit import Invocation, run_audit
from cnnaudit.config import load_specs
from cnnaudit.heatmaps import compute_heatmaps
from cnnaudit.image_sets.files import read_image
from cnnaudit.metrics import FAITHFULNESS
from cnnaudit.models import build_model
from cnnaudit.models.preprocessing import prepare_image
from cnnaudit.passes import forward
from cnnaudit.report.cells import number
from cnnaudit.specs import MetricSpec, TargetSpec, TechniqueSpec
from cnnaudit.techniques.procedures import own_generator
from cnnaudit.types import AuditError, HeatmapRequest, Heatmaps, Scorer
from tests.metrics.at_once import measure_faithfulness

B, C, H, W = 3, 2, 5, 7
N = H * W
BOTH = ("deletion", "insertion")


@pytest.fixture
def images() -> Tensor:
    return torch.randn(B, C, H, W, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def heatmaps() -> Tensor:
    return torch.randn(B, H, W, generator=torch.Generator().manual_seed(2))


def linear(images: Tensor) -> Scorer:
    weights = torch.randn(C, H, W, generator=torch.Generator().manual_seed(3))
    return Scorer(images, lambda variants: (variants * weights).sum(dim=(1, 2, 3)))


def curved(images: Tensor) -> Scorer:
    """A network in which pixels matter together."""
    return Scorer(images, lambda variants: variants.flatten(1).sum(dim=1).tanh().exp())


def areas(
    name: str, heatmaps: Tensor, scorer: Scorer, **more: float
) -> tuple[np.ndarray, np.ndarray]:
    own, chance = FAITHFULNESS[name].compute(heatmaps, scorer, **more)
    return own.numpy(), chance.numpy()


def by_loop(
    order: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    score: Callable[..., Tensor],
    steps: int,
) -> float:
    """Turn one picture (C, H, W) into another, pixel by pixel, and sum trapezoids."""
    counts = [round(N * step / steps) for step in range(steps + 1)]
    picture, done, scores = before.copy(), 0, []
    for count in counts:
        for pixel in order[done:count]:
            picture[:, pixel // W, pixel % W] = after[:, pixel // W, pixel % W]
        done = count
        scores.append(float(score(torch.from_numpy(picture)[None])))
    widths = np.diff(counts) / N
    return float(sum(w * (a + b) / 2 for w, a, b in zip(widths, scores, scores[1:], strict=False)))


def random_order(image: Tensor, seed: int = 0) -> np.ndarray:
    return torch.randperm(N, generator=own_generator(image, seed)).numpy()


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("steps", [1, 4, 16, 35, 50])
def test_areas_are_those_of_a_loop(name: str, steps: int, images: Tensor, heatmaps: Tensor) -> None:
    heatmaps[1] = heatmaps[1].round()  # ties come in the random order
    scorer = curved(images)
    own, chance = areas(name, heatmaps, scorer, steps=steps, fill=0.3)
    for i, image in enumerate(images):
        ends = image.numpy(), np.full((C, H, W), 0.3, np.float32)
        before, after = ends if name == "deletion" else ends[::-1]
        at_random = random_order(image)
        falling = np.argsort(-heatmaps[i].numpy().ravel()[at_random], kind="stable")
        wanted = by_loop(at_random[falling], before, after, scorer.score, steps)
        assert own[i] == pytest.approx(wanted, rel=1e-5)
        wanted = by_loop(at_random, before, after, scorer.score, steps)
        assert chance[i] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", BOTH)
def test_the_random_order_is_walked_once_for_all_heatmaps(
    name: str, images: Tensor, heatmaps: Tensor
) -> None:
    asked: list[int] = []

    def score(variants: Tensor) -> Tensor:
        asked.append(len(variants) // B)
        return variants.flatten(1).sum(dim=1)

    scorer = Scorer(images, score)
    _, first = areas(name, heatmaps, scorer, steps=4)
    assert sum(asked) == 2 * 5
    _, again = areas(name, -heatmaps, scorer, steps=4)
    assert sum(asked) == 3 * 5
    assert again.tolist() == first.tolist()
    for other in ({"fill": 0.5}, {"seed": 1}, {"steps": 5}):
        asked.clear()
        _, others = areas(name, heatmaps, scorer, **({"steps": 4} | other))
        assert sum(asked) == 2 * (other.get("steps", 4) + 1)
        assert others.tolist() != first.tolist()


def test_a_linear_network_by_hand() -> None:
    """Four pixels that are worth 4, 3, 2, 1: the score falls 10, 6, 3, 1, 0 in that order."""
    images = torch.tensor([4.0, 3, 2, 1]).view(1, 1, 2, 2)
    scorer = Scorer(images, lambda variants: variants.sum(dim=(1, 2, 3)))
    best, worst = images[:, 0], -images[:, 0]
    assert areas("deletion", best, scorer, steps=4)[0] == pytest.approx((5 + 6 + 3 + 1) / 4)
    assert areas("deletion", worst, scorer, steps=4)[0] == pytest.approx((5 + 9 + 7 + 4) / 4)
    assert areas("insertion", best, scorer, steps=4)[0] == pytest.approx((4 + 7 + 9 + 5) / 4)
    assert areas("deletion", best, scorer, steps=1)[0] == pytest.approx(5)


def test_no_order_is_better_than_the_perfect_one(images: Tensor) -> None:
    scorer = linear(images)
    with torch.enable_grad():
        leaf = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(scorer.score(leaf).sum(), leaf)
    perfect = (gradient * images).sum(dim=1)  # each pixel's share of the score
    lowest = areas("deletion", perfect, scorer, steps=N)[0]
    highest = areas("insertion", perfect, scorer, steps=N)[0]
    generator = torch.Generator().manual_seed(4)
    for _ in range(50):
        other = torch.randn(B, H, W, generator=generator)
        assert (areas("deletion", other, scorer, steps=N)[0] > lowest).all()
        assert (areas("insertion", other, scorer, steps=N)[0] < highest).all()


@pytest.mark.parametrize("name", BOTH)
def test_random_maps_earn_their_chance_in_expectation(name: str, images: Tensor) -> None:
    scorer = linear(images)
    generator = torch.Generator().manual_seed(5)
    drawn = [
        areas(name, torch.randn(B, H, W, generator=generator), scorer, seed=seed)
        for seed in range(400)
    ]
    own, chance = (np.array(values) for values in zip(*drawn, strict=True))
    expected = scorer.score(images).numpy() / 2  # of a linear score that begins or ends at 0
    error = 4 * own.std(axis=0) / 20
    assert (abs(own.mean(axis=0) - expected) < error).all()
    assert (abs(chance.mean(axis=0) - expected) < error).all()


@pytest.mark.parametrize("name", BOTH)
def test_a_constant_score_is_its_own_area(name: str, images: Tensor, heatmaps: Tensor) -> None:
    scorer = Scorer(images, lambda variants: variants.new_full((len(variants),), -2.5))
    own, chance = areas(name, heatmaps, scorer, steps=6)
    assert own == pytest.approx(-2.5)
    assert chance == pytest.approx(-2.5)


@pytest.mark.parametrize("name", BOTH)
def test_a_batch_gives_what_its_images_give(name: str, images: Tensor, heatmaps: Tensor) -> None:
    together = areas(name, heatmaps, curved(images))
    for i in range(B):
        alone = areas(name, heatmaps[i : i + 1], curved(images[i : i + 1]))
        assert alone[0] == pytest.approx(together[0][i : i + 1], rel=1e-6)
        assert alone[1] == pytest.approx(together[1][i : i + 1], rel=1e-6)


def test_insertion_can_begin_with_the_picture_blurred(images: Tensor, heatmaps: Tensor) -> None:
    scorer = linear(images)
    own, chance = areas("insertion", heatmaps, scorer, steps=1, blur=0.8)
    blurred = gaussian_filter(images.numpy(), (0, 0, 0.8, 0.8), mode="mirror", radius=(0, 0, 2, 2))
    start = scorer.score(torch.from_numpy(blurred)).numpy()
    assert own == pytest.approx((start + scorer.score(images).numpy()) / 2, rel=1e-4)
    assert chance == pytest.approx(own)
    wide = areas("insertion", heatmaps, scorer, steps=1, blur=50.0)[0]  # wider than the picture
    assert np.isfinite(wide).all()


def panel(*names: str) -> list[MetricSpec]:
    given = {"steps": 4, "fill": 0.0, "seed": 0}
    return [MetricSpec(name, name, "", given) for name in names]


def test_a_dead_heatmap_is_the_random_order(images: Tensor, heatmaps: Tensor) -> None:
    heatmaps[1] = 0
    scores = measure_faithfulness(heatmaps, curved(images), panel(*BOTH))
    for name in BOTH:
        dead, live = scores[name][1], scores[name][0]
        assert (dead.flag, live.flag) == ("dead", "")
        assert dead.value == dead.chance
        assert live.value != live.chance
        assert {one.lift for one in scores[name]} == {None}


@pytest.mark.parametrize("where", ["heatmap", "image"])
def test_what_is_not_finite_touches_nobody_else(
    where: str, images: Tensor, heatmaps: Tensor
) -> None:
    before = measure_faithfulness(heatmaps, curved(images), panel(*BOTH))
    (heatmaps if where == "heatmap" else images)[1] = torch.nan
    after = measure_faithfulness(heatmaps, curved(images), panel(*BOTH))
    for name in BOTH:
        assert [after[name][i] for i in (0, 2)] == [before[name][i] for i in (0, 2)]
        lost = after[name][1]
        assert (lost.value, lost.chance) == (None, None)
        assert lost.status == ("failed" if where == "heatmap" else "undefined")


class _Cramped(nn.Module):
    """A network for which no more than three images at a time find memory."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(C * N, 2)

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 3:
            raise torch.OutOfMemoryError
        found: Tensor = self.head(images.flatten(1)).tanh()
        return found


def test_each_image_keeps_its_target_also_where_memory_is_short(
    images: Tensor, heatmaps: Tensor
) -> None:
    torch.manual_seed(0)
    model = _Cramped().eval()
    request = HeatmapRequest(
        TechniqueSpec("saliency", "saliency", {}), TargetSpec("predicted", "predicted", {}), ""
    )
    _, (result,) = compute_heatmaps(model, None, images, [request])
    assert isinstance(result, Heatmaps)
    assert result.scorer is not None
    own, chance = areas("insertion", heatmaps, result.scorer)
    label = model(images).argmax(dim=1)
    for i in range(B):
        plain = Scorer(
            images[i : i + 1],
            lambda x, i=i: torch.cat([model(y[None]) for y in x])[:, label[i]].detach(),
        )
        one = areas("insertion", heatmaps[i : i + 1], plain)
        assert own[i] == pytest.approx(one[0][0], rel=1e-5)
        assert chance[i] == pytest.approx(one[1][0], rel=1e-5)


def test_a_run_measures_them_without_masks(overrides: list[str], image_set: Path) -> None:
    audit = load_specs(
        ["experiment=none", *overrides, "technique=[saliency,edges]", "metric=[deletion,insertion]",
         "metric.deletion.steps=5"]
    )  # fmt: skip
    run_dir = run_audit(audit, Invocation("test", [], "")).run_dir
    rows = pd.read_parquet(run_dir / "results/rows.parquet")
    found = rows[(rows.technique == "saliency") & (rows.metric == "deletion")].set_index("item")
    assert set(found.status) == {"ok"}  # of all images, whether they have a mask or not
    assert found.lift.isna().all()
    assert set(found.region) == {""}
    references = rows[rows.technique == "edges"]
    assert set(references.status) == {"not_applicable"}
    page = (run_dir / "report.html").read_text()
    chance = number(found.chance.mean(), (found.value.min(), 0))
    assert "deletion" in page
    assert f'<span class="note">chance {chance}</span>' in page  # there is no lift
    spec, name = audit.models[0], "scene_01-left-equal"
    image = prepare_image(read_image(image_set / f"images/{name}.png"), spec.preprocessing)
    _, h, w = image.shape
    model, generator = build_model(spec, 0), own_generator(image, 0)
    order, scores = torch.randperm(h * w, generator=generator), []
    for count in (round(h * w * step / 5) for step in range(6)):
        variant = image.clone().flatten(1)
        variant[:, order[:count]] = 0
        scored = forward(model, variant.view(1, -1, h, w), spec.score_from)[1]
        scores.append(float(scored.sum()))
    wanted = np.trapezoid(scores, dx=1 / 5)
    assert found.chance[name] == pytest.approx(wanted, rel=1e-4)


def test_configs_say_what_is_wrong(overrides: list[str]) -> None:
    for more, message in (
        (
            ["metric=[deletion]", "metric.deletion.steps=0"],
            "metric.deletion.steps: 0 is not a whole",
        ),
        (["metric=[deletion]", "+metric.deletion.region=mask"], "metric.deletion.region: 'region'"),
        (["metric=[insertion]", "metric.insertion.blur=-1"], "metric.insertion.blur: -1 is not"),
        (["metric=[mass_in_mask]", "metric.mass_in_mask.uses=delation"], "Did you mean 'deletion'"),
    ):
        with pytest.raises(AuditError, match=message):
            load_specs(["experiment=none", *overrides, *more])
