"""``cnnaudit explain`` as users have it: PNG files beside what they show, and clear mistakes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cnnaudit
import cnnaudit.cli
from cnnaudit import figures
from cnnaudit.config import load_specs
from cnnaudit.image_sets.files import read_image
from cnnaudit.models import build_model
from cnnaudit.models.preprocessing import frame, prepare_image
from tests.processes import command, loads

LABELS = ("tabby", "crane", "kite", "bookcase")
# A classifier of torchvision, small enough to be quick.
CLASSIFIER = (
    "model.resnet18.weights=none",
    f"model.resnet18.labels=[{','.join(LABELS)}]",
    *("model.resnet18.preprocessing.resize=72", "model.resnet18.preprocessing.crop=[64,48]"),
    "device=cpu",
)


@pytest.fixture
def explain(cli: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable:
    """Call the command in this process, in a folder with a picture; return code, output, errors."""
    _save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    return partial(cli, "explain")


def _save(path: Path, size: tuple[int, int] = (120, 90)) -> Path:
    pixels = np.random.default_rng(4).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"cat.png"}


def test_pictures_of_odd_names_in_a_real_process(weights: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a b, ü=[1]'s $HOME {x}"
    odd.mkdir()
    names = ("--x.png", "a=1.png", "kot ü.png")
    for name in names:
        _save(odd / name)
    ran = command(
        "explain",
        *("perception", f"model.perception.weights={weights}", "device=cpu", "--out", "maps, ü"),
        *("--technique=saliency,grad_cam", "--", *names),
        cwd=odd,
    )
    assert ran.returncode == 0, ran.stderr
    kinds = ("saliency", "grad_cam")
    expected = {f"{Path(name).stem}.perception.{kind}.png" for name in names for kind in kinds}
    assert _written(odd / "maps, ü") == expected
    assert (
        f"{Path('maps, ü/--x.perception.grad_cam.png')}: Grad-CAM at encoder.7 of all_outputs"
        in ran.stdout
    )
    assert ran.stdout.count("\n") == len(expected)
    assert {path.name for path in odd.iterdir()} == {*names, "maps, ü"}


def test_a_file_shows_the_runners_heatmap_over_the_picture(
    explain: Callable, tmp_path: Path
) -> None:
    code, out, err = explain("resnet18", "cat.png", *CLASSIFIER, "--layer", "layer3")
    assert code == 0, err
    (spec,) = load_specs(["experiment=none", "model=[resnet18]", *CLASSIFIER]).models
    model, picture = build_model(spec, 0), read_image(tmp_path / "cat.png")
    images = prepare_image(picture, spec.preprocessing)[None]
    (heatmap,) = cnnaudit.explain(model, images, "grad_cam", layer="layer3")
    grey = (255 * heatmap / heatmap.max()).round().to(torch.uint8).numpy()
    expected = figures.overlay(np.asarray(frame(picture, spec.preprocessing)), grey)
    shown = np.asarray(read_image(tmp_path / "cat.resnet18.grad_cam.png"))
    assert shown.shape == (80, 60, 3)  # what the crop leaves, in the picture's own pixels
    assert np.abs(shown.astype(int) - expected).max() <= 3  # a map is kept in 8 bits
    probabilities = model(images).softmax(dim=1)[0].detach()
    best = int(probabilities.argmax())
    said = f"{LABELS[best]} ({best}), probability {float(probabilities[best]):.3g}"
    assert out == f"cat.resnet18.grad_cam.png: Grad-CAM at layer3 of {said}\n"


def test_several_targets_are_in_the_names(explain: Callable, tmp_path: Path) -> None:
    code, out, err = explain(
        *("resnet18", "cat.png", *CLASSIFIER, "--technique", "saliency"),
        *("--target", "predicted,1,Bookcase,all_outputs"),
    )
    assert code == 0, err
    names = ("predicted", "1", "Bookcase", "all_outputs")
    assert _written(tmp_path) == {f"cat.resnet18.saliency.{name}.png" for name in names}
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    lines = {file.removeprefix("cat.resnet18.saliency."): said for file, said in lines.items()}
    assert lines["1.png"].startswith("Saliency of crane (1), probability 0.")
    assert lines["Bookcase.png"].startswith("Saliency of bookcase (3), probability 0.")
    assert lines["all_outputs.png"] == "Saliency of all_outputs"


def test_layers_are_shown_as_grids(explain: Callable, tmp_path: Path) -> None:
    views = ("--technique", "activations,kernels")
    code, out, err = explain("resnet18", "cat.png", *CLASSIFIER, *views)
    assert code == 0, err
    assert _written(tmp_path) == {"cat.resnet18.activations.png", "resnet18.kernels.png"}
    assert "cat.resnet18.activations.png: Activations at conv1; 16 of 64 channels" in out
    assert "resnet18.kernels.png: Kernels at conv1; 64 of 64 filters" in out
    for name in _written(tmp_path):
        with Image.open(tmp_path / name) as grid:
            assert min(grid.size) > 400


def test_what_does_not_apply_is_an_error_after_the_rest_is_written(
    explain: Callable, weights: Path, tmp_path: Path
) -> None:
    code, out, err = explain(
        *("perception", "cat.png", f"model.perception.weights={weights}", "device=cpu"),
        *("--technique", "cam,saliency"),
    )
    assert code == 1
    assert err.startswith("error: cam: not applicable, ")
    assert out == "cat.perception.saliency.png: Saliency of all_outputs\n"
    assert "cat.perception.cam.png" not in _written(tmp_path)


def test_no_picture_is_written_over(explain: Callable, weights: Path, tmp_path: Path) -> None:
    taken = "cat.perception.grad_cam.png"
    _save(tmp_path / taken)
    _save(tmp_path / "cat.jpg")
    kept = (tmp_path / taken).read_bytes()
    model = ("perception", f"model.perception.weights={weights}", "device=cpu")
    code, _, err = explain(*model, "cat.png", taken)
    assert code == 1
    assert f"{taken} would overwrite the picture {taken}" in err
    code, _, err = explain(*model, "cat.png", "cat.jpg")
    assert code == 1
    assert f"{taken} would overwrite what is written for cat.png" in err
    assert (tmp_path / taken).read_bytes() == kept
    assert explain(*model, "cat.png", taken, "--out", "maps")[0] == 0
    assert _written(tmp_path / "maps") == {
        taken,
        "cat.perception.grad_cam.perception.grad_cam.png",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "explain takes a model and at least one picture"),
        (("resnet18",), "explain takes a model and at least one picture"),
        (
            ("resnet81", "cat.png"),
            "MODEL: 'resnet81' is no allowed option. Did you mean 'resnet18'",
        ),
        (("resnet18", "cta.png"), "IMAGE: there is no file 'cta.png'. Did you mean 'cat.png'?"),
        (("resnet18", "gone/cat.png"), "IMAGE: there is no file 'gone/cat.png'"),
        (("resnet18", "."), "IMAGE: '.' is a folder; name pictures"),
        (("resnet18", "cat.png", "--techniqe", "x"), "'--techniqe' is no allowed option. Did you"),
        (("resnet18", "--x.png"), "a picture of that name comes after --"),
        (("resnet18", "-x.png"), "'-x.png' is no allowed option"),
        (("resnet18", "cat.png", "--out"), "option --out requires argument"),
        (("resnet18", "cat.png", "--out=a", "--out=b"), "--out is given twice"),
        (("resnet18", "cat.png", "--technique", "grad_cm"), "Did you mean 'grad_cam'?"),
        (("resnet18", "cat.png", "technique=[cam]"), "technique: --technique says so already"),
        (("resnet18", "cat.png", "sed=3"), "sed: 'sed' is no allowed key. Did you mean 'seed'?"),
        (("resnet18", "cat.png", "--config-dir", "gone"), "Additional config directory"),
    ],
)
def test_a_mistake_is_one_message_before_torch(
    explain: Callable, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    code, out, err = explain(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not _written(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "bokcase"), "Did you mean 'bookcase'? Allowed: an index from 0 to 3 or one"),
        (("--target", "4"), "--target: '4' is no class of the model 'resnet18'"),
        (("--target", "truth"), "or all_outputs, predicted"),
        (("--layer", "layr4"), "Did you mean 'layer4'?"),
        (("--layer", "999"), "999 is out of range"),
        (("--layer", "layer4", "--technique", "saliency"), "no layer is asked for by saliency"),
        (("--out", "cat.png"), "--out: cannot write to cat.png"),
        (("text.png",), "text.png cannot be read as a picture: its format is unknown"),
    ],
)
def test_a_mistake_that_the_model_shows(
    explain: Callable, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    code, out, err = explain("resnet18", "cat.png", *CLASSIFIER, *arguments)
    assert (code, out) == (1, "")
    assert message in err
    assert _written(tmp_path) == {"text.png"}


def test_help_and_mistakes_do_not_wait_for_torch(tmp_path: Path) -> None:
    for arguments in (["--help"], ["resnet18", "gone.png"], ["resnet18", "--layr=3"]):
        code = (
            "import cnnaudit\nfrom cnnaudit.cli import _dispatch\n"
            f"try:\n    _dispatch('explain', {arguments})\nexcept cnnaudit.AuditError:\n    pass"
        )
        assert not loads({"torch"}, code)
    ran = command("explain", "resnet18", "gone.png", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (1, "error: IMAGE: there is no file 'gone.png'.\n")


def test_a_model_of_the_users_own(explain: Callable, weights: Path, tmp_path: Path) -> None:
    conf = "my [conf], 'c'"
    (tmp_path / conf / "model").mkdir(parents=True)
    shipped = Path(__file__).parent.parent / "conf/model/perception.yaml"
    text = shipped.read_text(encoding="utf-8").replace("perception:\n", "mine:\n")
    (tmp_path / conf / "model/mine.yaml").write_text(text, encoding="utf-8")
    own = ("--config-dir", conf, f"model.mine.weights={weights}", "device=cpu")
    code, out, err = explain("mine", "cat.png", *own)
    assert code == 0, err
    assert out == "cat.mine.grad_cam.png: Grad-CAM at encoder.7 of all_outputs\n"
    assert "Did you mean 'seed'?" in explain("mine", "cat.png", *own, "sed=3")[2]
