"""From Python: the runner's own numbers, on any model, and errors that say what was meant."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import get_ident
from typing import Any, get_overloads

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image

import cnnaudit
from cnnaudit.audit import Invocation, run_audit
from cnnaudit.config import load_specs
from cnnaudit.image_sets.files import read_image, read_mask
from cnnaudit.models import build_model
from cnnaudit.models.preprocessing import prepare_image, prepare_mask
from cnnaudit.report.run import read_table
from cnnaudit.summary import to_csv
from cnnaudit.types import AuditError
from tests.processes import RUN, python


@pytest.fixture
def resnet() -> torch.nn.Module:
    torch.manual_seed(1)
    return torchvision.models.resnet18(weights=None).eval()


def test_all_that_is_public_is_there() -> None:
    assert {name: getattr(cnnaudit, name) is not None for name in cnnaudit.__all__}
    with pytest.raises(AttributeError, match="nonsense"):
        _ = cnnaudit.nonsense


def test_tab_completion_finds_what_is_public() -> None:
    code = "import cnnaudit; assert set(cnnaudit.__all__) <= set(dir(cnnaudit))"
    assert python("-c", code, cwd=RUN.parent).returncode == 0  # before anything was asked for


def test_a_type_checker_knows_one_technique_from_several() -> None:
    said = [one.__annotations__["return"] for one in get_overloads(cnnaudit.explain)]
    assert said == ["Tensor", "dict[str, Tensor]"]


def test_techniques_can_be_listed_whatever_was_imported_before() -> None:
    """The package of this name is the function as well, and comes with the first import of it."""
    code = "import cnnaudit; n = [len(cnnaudit.techniques()) for _ in range(2)]; assert min(n) > 20"
    for first in ("pass", "import cnnaudit.techniques.cam", "from cnnaudit import explain"):
        assert python("-c", f"{first}; {code}", cwd=RUN.parent).returncode == 0


def test_explaining_and_scoring_give_the_runners_numbers(
    overrides: list[str], tmp_path: Path, image_set: Path
) -> None:
    audit = load_specs(overrides)
    outcome = run_audit(audit, Invocation("test", [], ""))
    run = cnnaudit.load_run(outcome.run_dir)
    assert run.verdict == "NOT MEASURED"
    assert re.fullmatch(r"FinishedRun\(verdict: NOT MEASURED, rows: \d+ × \d+, .*\)", repr(run))
    assert run == run
    assert run != cnnaudit.load_run(outcome.run_dir)
    with pytest.raises(AuditError, match=f"no finished run.*latest run is {outcome.run_dir}"):
        cnnaudit.load_run(outcome.run_dir.parent)
    for name in ("model", "technique", "region", "metric"):
        assert set(run.summary[name]) == set(run.rows[name])
    spec = audit.models[0]
    names = ["scene_00-left-equal", "scene_02-overhead-different"]
    images = torch.stack(
        [
            prepare_image(read_image(image_set / f"images/{n}.png"), spec.preprocessing)
            for n in names
        ]
    )
    masks = [
        prepare_mask(read_mask(image_set / f"masks/{n[:8]}.png"), spec.preprocessing) for n in names
    ]
    maps = cnnaudit.explain(
        build_model(spec, 0),
        images,
        ["saliency", "grad_cam"],
        layer="encoder.7",
        target="all_outputs",
        score_from=spec.score_from,
    )
    assert isinstance(maps, dict)
    for technique, own in maps.items():
        scores = cnnaudit.score(own, masks, ["mass_in_mask", "iou"]).set_index(["metric", "item"])
        rows = run.rows[run.rows.technique == technique].set_index(["metric", "item"])
        for metric in ("mass_in_mask", "iou"):
            for index, name in enumerate(names):
                expected = rows.value[metric, name]
                assert scores.value[metric, index] == pytest.approx(expected, rel=1e-4)


def test_factors_and_levels_are_read_back_as_they_are(tmp_path: Path) -> None:
    """As texts, also where they look like numbers, and without the apostrophe of the CSV."""
    levels = ["-5", "+10", "01", "", "NA"]
    table = pd.DataFrame({"level": levels, "+light": levels, "mean": [1, 2.5, np.nan, 0, 0]})
    (tmp_path / "table.csv").write_bytes(to_csv(table))
    pd.testing.assert_frame_equal(read_table(tmp_path / "table.csv", ["mean"]), table)


def test_one_technique_gives_its_maps_and_leaves_the_model_alone(resnet: torch.nn.Module) -> None:
    resnet.train()
    images = torch.randn(2, 3, 40, 48)
    maps = cnnaudit.explain(resnet, images, "grad_cam", layer="layer4", target=281)
    assert isinstance(maps, torch.Tensor)
    assert maps.shape == (2, 40, 48)
    assert resnet.training
    assert all(p.requires_grad and p.grad is None for p in resnet.parameters())


def test_threads_that_share_a_network_are_answered_in_turn(resnet: torch.nn.Module) -> None:
    """Hooks of one would see the passes of another, and the network would keep the wrong mode."""
    resnet.train()
    images, passing = torch.randn(2, 3, 32, 32), []
    resnet.conv1.register_forward_pre_hook(lambda *_: passing.append(get_ident()))

    def explained(_: int) -> torch.Tensor:
        return cnnaudit.explain(resnet, images, "grad_cam", layer="layer4", target=1)

    expected = explained(0)
    each = len(passing)
    with ThreadPoolExecutor(4) as pool:
        for maps in pool.map(explained, range(8)):
            torch.testing.assert_close(maps, expected)
    turns = [passing[start : start + each] for start in range(0, len(passing), each)]
    assert [len(set(turn)) for turn in turns] == [1] * 9
    assert resnet.training


@pytest.mark.parametrize("by_name", [False, True])
def test_what_the_network_counts_is_put_back(resnet: torch.nn.Module, by_name: bool) -> None:
    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = resnet
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if by_name:
                self.seen = self.seen + 1
            else:
                self.seen += 1
            return self.model(images)

    model, images = Counting(), torch.randn(1, 3, 32, 32)
    model(images)
    seen = model.seen
    cnnaudit.explain(model, images, ["grad_cam", "occlusion"], layer="model.layer4")
    assert model.seen is seen
    assert seen == 1
    with pytest.raises(AuditError):
        cnnaudit.explain(model, images, "saliency", target=5000)
    assert model.seen is seen
    assert seen == 1


def test_parameters_of_a_technique(resnet: torch.nn.Module) -> None:
    images = torch.randn(1, 3, 32, 32)
    maps = cnnaudit.explain(resnet, images, {"saliency": {"reduce": "sum"}, "edges": {}})
    assert isinstance(maps, dict)
    assert set(maps) == {"saliency", "edges"}
    most = cnnaudit.explain(resnet, images, "saliency")
    assert isinstance(most, torch.Tensor)
    assert (maps["saliency"] >= most).all()


def test_scores_of_every_status() -> None:
    maps = torch.rand(4, 5, 6)
    maps[1] = 0
    maps[3, 0, 0] = torch.nan
    mask = torch.zeros(5, 6, dtype=torch.bool)
    mask[:2] = True
    table = cnnaudit.score(maps, [mask, mask, None, mask], {"pointing_game": {"tolerance": 1}})
    metrics = ["pointing_game", "mass_in_mask"]
    same = cnnaudit.score(maps, [mask, mask, None, mask], metrics, tolerance=1)
    pd.testing.assert_frame_equal(same[:4], table)
    with pytest.raises(cnnaudit.AuditError, match="tolerance: none of auroc has one"):
        cnnaudit.score(maps, [mask] * 4, "auroc", tolerance=1)
    assert list(table.status) == ["ok", "ok", "ineligible", "failed"]
    assert table.flag[1] == "dead"
    assert table["lift"][1] == pytest.approx(0)
    assert isinstance(table, pd.DataFrame)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"technique": "grad_can"}, "technique: 'grad_can' .*Did you mean 'grad_cam'"),
        ({"technique": "grad_cam", "layer": "layer5"}, "'layer5' does not exist.*Did you mean"),
        ({"technique": "grad_cam", "layer": "fc"}, "layer: 'fc' has no spatial output"),
        ({"technique": "saliency", "target": "cat"}, "target: 'cat' is no allowed target"),
        ({"technique": "saliency", "target": 5000}, "output 5000 is out of range"),
        ({"technique": "saliency", "target": [float("nan"), 1.0]}, "target: it holds NaN or inf"),
        ({"technique": {"occlusion": {"fill": float("inf")}}}, "fill: inf is not a finite number"),
        (
            {"technique": "saliency", "target": True},
            r"target: shape \(\) of torch.bool, a class ind",
        ),
        (
            {"technique": "saliency", "target": [True]},
            r"target: shape \(1,\) of torch.bool, a class",
        ),
        (
            {"technique": "saliency", "target": [1, 2]},
            r"shape \(2,\) of torch.int64, .*, \(1,\) whole",
        ),
        (
            {"technique": "saliency", "target": None},
            "target: None is none of all_outputs, predicted",
        ),
        ({"technique": "kernels"}, "technique: 'kernels' shows a network's own filters"),
        ({"technique": "robot"}, "technique: 'robot' is a choice in configs, for one or several"),
        ({"technique": {"saliency": {"reduc": "sum"}}}, "technique.saliency.reduc: 'reduc'"),
        ({"technique": None}, "^technique: None is no name, no list of names and no names with"),
        ({"technique": {"saliency": None}}, "^technique.saliency: None is not a set of keys"),
        ({"technique": "saliency", "score_from": 3}, "^score_from: '3' is no module of the model"),
    ],
)
def test_mistakes_are_said(resnet: torch.nn.Module, arguments: dict, message: str) -> None:
    with pytest.raises(cnnaudit.AuditError, match=message):
        cnnaudit.explain(resnet, torch.randn(1, 3, 32, 32), **arguments)


def test_arrays_of_numpy_are_scored_as_tensors_are() -> None:
    maps, masks = torch.rand(2, 8, 8), torch.rand(2, 8, 8) > 0.5
    expected = cnnaudit.score(maps, masks)
    pd.testing.assert_frame_equal(cnnaudit.score(maps.numpy(), masks.numpy()), expected)
    pd.testing.assert_frame_equal(cnnaudit.score(maps, [*masks.numpy()]), expected)
    backwards = maps.flip(1).numpy()[:, ::-1]  # as from OpenCV: strides below 0
    pd.testing.assert_frame_equal(cnnaudit.score(backwards, masks.byte().numpy() * 255), expected)


def test_numbers_of_numpy_are_parameters_as_pythons_are(resnet: torch.nn.Module) -> None:
    maps = cnnaudit.explain(resnet, torch.randn(1, 3, 32, 32), layer=np.int64(1), upsample=False)
    assert maps.shape == (1, 16, 16)
    cnnaudit.score(maps, [None], "pointing_game", tolerance=np.int64(1))
    cnnaudit.score(maps, [None], {"pointing_game": {"tolerance": np.int64(1)}})


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            torch.rand(1, 4, 4),
            r"^masks\[0\]: it has several values beside 0; bool is expected, or 0",
        ),
        (torch.full((1, 4, 4), torch.nan), r"^masks\[0\]: it has several values beside 0"),
        ([Image.new("L", (4, 4))], r"^masks\[0\]: a Image; a tensor or an array of numbers is exp"),
        (torch.ones(4, 4), r"^masks: shape \(4, 4\), \(B, H, W\) is expected"),
        (3, r"^masks: 3; \(B, H, W\) is expected, or a list with None for some images"),
    ],
)
def test_what_no_masks_are_is_refused(masks: Any, message: str) -> None:
    """As in the file of a mask, several values are a label map, or a mask resized smoothly."""
    with pytest.raises(AuditError, match=message):
        cnnaudit.score(torch.rand(1, 4, 4), masks)
    with pytest.raises(AuditError, match=r"^maps: a list; a tensor or an array of numbers is exp"):
        cnnaudit.score([torch.rand(4, 4)], masks)  # type: ignore[arg-type]


def test_numbers_are_numbers_also_where_there_is_none() -> None:
    for maps, masks in ((torch.rand(2, 4, 4), [None, None]), (torch.rand(0, 4, 4), [])):
        table = cnnaudit.score(maps, masks)
        assert [*table.dtypes[["value", "chance", "lift"]]] == ["float64"] * 3


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
            "images: torch.uint8; floating point, as pre",
        ),
        ([torch.zeros(3, 8, 8)], r"images: a list; a tensor \(B, C, H, W\) is expected"),
        (Image.new("RGB", (8, 8)), r"images: a Image; a tensor \(B, C, H, W\) is expected"),
        (torch.zeros(0, 3, 8, 8), r"images: shape \(0, 3, 8, 8\), .*with B at least 1"),
        (np.zeros((1, 3, 64, 64)), "images: torch.float64 on cpu; the network is torch.float32 on"),
        (
            torch.zeros(1, 3, 64, 64).half(),
            "images: torch.float16 on cpu; the network is torch.floa",
        ),
        (torch.tensor([0, torch.nan]).expand(1, 3, 4, 2), r"images\[0\]: it holds NaN or infinity"),
        (np.array([None]), "images: a ndarray; a tensor or an array of numbers is expected"),
        (
            torch.zeros(1, 64, 64, 3),
            r"images: the model does not accept an input of shape \(1, 64, 64, 3\) .* channels",
        ),
    ],
)
def test_what_no_preprocessed_images_are_is_refused(
    resnet: torch.nn.Module, images: Any, message: str
) -> None:
    with pytest.raises(AuditError, match=message):
        cnnaudit.explain(resnet, images, "saliency")


def test_an_array_of_numpy_is_explained_as_a_tensor_is(resnet: torch.nn.Module) -> None:
    images = torch.randn(2, 3, 32, 32)
    backwards = images.flip(1).numpy()[:, ::-1]  # as from OpenCV: strides below 0
    expected = cnnaudit.explain(resnet, images, "saliency")
    torch.testing.assert_close(cnnaudit.explain(resnet, backwards, "saliency"), expected)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_classes_may_be_whole_numbers_of_any_kind(resnet: torch.nn.Module, kind: Any) -> None:
    images, classes = torch.randn(3, 3, 32, 32), [7, 0, 7]
    several = cnnaudit.explain(resnet, images, "saliency", target=kind(classes))
    assert isinstance(several, torch.Tensor)
    for image, heatmap, own in zip(images, several, classes, strict=True):
        alone = cnnaudit.explain(resnet, image[None], "saliency", target=np.int64(own))
        torch.testing.assert_close(heatmap[None], alone)


def test_inference_mode_changes_nothing(resnet: torch.nn.Module) -> None:
    images, names = torch.randn(1, 3, 32, 32), ["saliency", "grad_cam"]
    expected = cnnaudit.explain(resnet, images, names)
    with torch.inference_mode():
        found = cnnaudit.explain(resnet, images.clone(), names)
        made_in_it = torchvision.models.resnet18(weights=None).eval()
        with pytest.raises(AuditError, match=r"model: it was made under torch.inference_mode"):
            cnnaudit.explain(made_in_it, images, names)
    torch.testing.assert_close(found, expected)


def test_a_network_without_a_spatial_layer() -> None:
    mlp = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
    with pytest.raises(
        AuditError, match=r"grad_cam.layer: the technique does not apply to the mod"
    ):
        cnnaudit.explain(mlp, torch.randn(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (
            "overlap",
            "metric: 'overlap' is a choice in configs, for one or several of these .* auroc",
        ),
        ("deletion", "metric: 'deletion' asks the network, which score does not know"),
    ],
)
def test_metrics_that_are_elsewhere(metric: str, message: str) -> None:
    with pytest.raises(AuditError, match=message):
        cnnaudit.score(torch.rand(1, 4, 4), [None], metric)


def test_maps_of_several_techniques_are_not_scored_at_once() -> None:
    maps: Any = {"saliency": torch.rand(1, 4, 4), "grad_cam": torch.rand(1, 4, 4)}
    with pytest.raises(
        AuditError, match=r"maps: a dict of saliency, grad_cam; score takes the map"
    ):
        cnnaudit.score(maps, [None])


def test_shapes_that_do_not_fit_are_said(resnet: torch.nn.Module, tmp_path: Path) -> None:
    maps, mask = torch.rand(2, 4, 4), torch.ones(4, 5, dtype=torch.bool)
    with pytest.raises(AuditError, match=r"images: shape \(3, 32, 32\)"):
        cnnaudit.explain(resnet, torch.randn(3, 32, 32), "saliency")
    with pytest.raises(cnnaudit.AuditError, match=r"masks\[0\]: shape \(4, 5\)"):
        cnnaudit.score(maps, [mask, mask])
    with pytest.raises(cnnaudit.AuditError, match=r"masks: 1 of them for 2 maps"):
        cnnaudit.score(maps, [mask[:, :4]])
    with pytest.raises(cnnaudit.AuditError, match=r"metric: 'mass' is no allowed metric"):
        cnnaudit.score(maps, [None, None], "mass")
    with pytest.raises(cnnaudit.AuditError, match="is no finished run"):
        cnnaudit.load_run(tmp_path)


def test_a_guided_map_of_a_network_without_relu_is_refused() -> None:
    model = torchvision.models.convnext_tiny(weights=None)
    with pytest.raises(cnnaudit.AuditError, match=r"guided_saliency: not applicable, .*no ReLU"):
        cnnaudit.explain(model, torch.randn(1, 3, 32, 32), "guided_saliency")


def test_the_readmes_python_is_true(resnet: torch.nn.Module, tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    assert "cnnaudit.explain" in code
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "cat.jpg")
    images, masks = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[:, 10:30, 10:30] = True
    names = {"model": resnet, "images": images, "masks": masks}
    exec(code.partition("run = ")[0], names)
    assert len(names["rows"]) == 2 * 2  # type: ignore[arg-type]


def test_the_output_may_be_an_entry_of_a_tuple() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 5)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = self.conv(images).relu()
            return features, self.head(features.mean(dim=(2, 3)))

    model, images = Two(), torch.randn(2, 3, 8, 9)
    maps = cnnaudit.explain(model, images, "saliency", output_entry="1")
    assert maps.shape == (2, 8, 9)
    assert isinstance(model(images), tuple)
    with pytest.raises(cnnaudit.AuditError, match=r"output_entry: .* entries 0 .*, 1 \(2, 5\)"):
        cnnaudit.explain(model, images, "saliency")
    assert isinstance(model(images), tuple)


@pytest.mark.parametrize("n", [1, 3])
def test_there_is_a_weight_for_each_output(n: int) -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    with pytest.raises(AuditError, match=f"target: {n} weights, the model has 5 outputs"):
        cnnaudit.explain(model, torch.rand(2, 3, 16, 16), "saliency", target=torch.ones(n))


@pytest.mark.parametrize("target", ["predicted", 1, [0, 1]])
def test_a_class_with_a_score_at_every_place_is_refused(target: Any) -> None:
    dense = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU())
    images = torch.randn(2, 3, 8, 8)
    with pytest.raises(AuditError, match=r"is about one score of a class, and each class has 36"):
        cnnaudit.explain(dense, images, "saliency", target=target)
    for everywhere in ("all_outputs", torch.ones(2 * 36)):
        assert cnnaudit.explain(dense, images, "saliency", target=everywhere).shape == (2, 8, 8)
    pooled = dense.append(torch.nn.AdaptiveAvgPool2d(1))  # (B, C, 1, 1)
    assert cnnaudit.explain(pooled, images, "saliency", target=target).shape == (2, 8, 8)


def test_a_model_that_takes_no_single_image_is_explained_on_two() -> None:
    class Squeezing(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.model[2](self.model[:2](images).mean(dim=(2, 3), keepdim=True).squeeze())

    parts = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Linear(4, 5)
    plain = torch.nn.Sequential(
        *parts[:2], torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), parts[2]
    )
    model, images = Squeezing(torch.nn.Sequential(*parts)), torch.randn(3, 3, 8, 9)
    for technique in ("saliency", "grad_cam"):
        expected = cnnaudit.explain(plain, images, technique)
        torch.testing.assert_close(cnnaudit.explain(model, images, technique), expected)


def test_what_is_no_network_whose_parts_can_be_seen_is_refused(resnet: torch.nn.Module) -> None:
    images = torch.randn(2, 3, 32, 32)
    with pytest.raises(AuditError, match=r"^model: a function; a torch.nn.Module is expected"):
        cnnaudit.explain(lambda x: resnet(x), images, "saliency")  # type: ignore[arg-type]
    lazy = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(5))
    with pytest.raises(AuditError, match=r"^model: its module '1' has no weights yet; load them,"):
        cnnaudit.explain(lazy, images, "saliency")
    lazy(images)
    assert cnnaudit.explain(lazy, images, "saliency").shape == (2, 32, 32)
    with pytest.raises(AuditError, match=r"^score_from: 'fcc' is no module of .* layer4, .*, fc$"):
        cnnaudit.explain(resnet, images, "saliency", score_from="fcc")


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_network_is_refused_and_a_traced_one_is_not() -> None:
    def block() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU()).eval()

    images, end = torch.randn(2, 3, 8, 9), torch.nn.Flatten()
    scripted = torch.jit.script(block())
    for model, named in (
        (scripted, "it"),
        (torch.nn.Sequential(scripted, end), "its module '0'"),
    ):
        with pytest.raises(AuditError, match=rf"^model: {named} is made by torch.jit.script, and"):
            cnnaudit.explain(model, images, "saliency")
    plain = block()
    traced = torch.jit.trace(plain, images)
    for technique in ("saliency", "grad_cam"):
        expected, found = (
            cnnaudit.explain(torch.nn.Sequential(part, end), images, technique, layer="0")
            for part in (plain, traced)
        )
        torch.testing.assert_close(found, expected)


def test_a_compiled_network_is_refused() -> None:
    """It runs past hooks that come later: Grad-CAM would find that no score depends on a layer."""
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU(), torch.nn.Flatten())
    within = torch.nn.Sequential(torch.compile(plain, backend="eager"))
    images = torch.randn(2, 3, 8, 9)
    with pytest.raises(AuditError, match=r"^model: its module '0' is compiled by torch.compile,"):
        cnnaudit.explain(within, images, "saliency")
    cnnaudit.explain(plain, images, "saliency")
    plain.compile(backend="eager")
    with pytest.raises(AuditError, match=r"^model: it is compiled by torch.compile,"):
        cnnaudit.explain(plain, images, "saliency")


def test_masks_that_are_none_at_all() -> None:
    with pytest.raises(AuditError, match=r"^masks: None; \(B, H, W\) is expected, or a list with"):
        cnnaudit.score(torch.rand(2, 4, 4), None)  # type: ignore[arg-type]
