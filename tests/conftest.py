"""A small image set and a network with random weights, from which most tests start."""

from __future__ import annotations

import atexit
import csv
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import cnnaudit.cli
from cnnaudit.models.perception import DISTANCES, SENSORS, SimpleCNN

os.environ.setdefault("NO_COLOR", "1")  # what subprocesses print is compared as text
# Where the suite runs in the background, the shell has it ignore interrupts, and its children too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
atexit.register(gc.unfreeze)  # or what some libraries count at the end would seem to leak
torch.set_num_threads(1)  # the tensors of the tests are small, threads only get in each other's way

SCENES = ("scene_00", "scene_01", "scene_02")
LIGHTS = ("overhead", "left")
SIZE = (160, 128)  # width, height


@pytest.fixture(autouse=True)
def _frozen() -> None:
    """Spare what is loaded from every search for garbage, as the command line does for itself."""
    if not gc.get_freeze_count():  # at first, and after a command has ended
        gc.freeze()


@pytest.fixture
def image_set(tmp_path: Path) -> Path:
    """Three scenes × two lights × (equal, different, only a shadow, nothing), with truth."""
    return write_image_set(tmp_path / "set")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    path = tmp_path / "weights.safetensors"
    save_file(SimpleCNN().state_dict(), path)
    return path


@pytest.fixture
def overrides(image_set: Path, weights: Path, tmp_path: Path) -> list[str]:
    """An audit of that network on that set, with everything it writes below `tmp_path`."""
    return [
        "model=[perception]",
        "image_set=[robot_lighting]",
        f"image_set.robot_lighting.root={image_set}",
        f"model.perception.weights={weights}",
        f"output_dir={tmp_path / 'out'}",
        "device=cpu",
    ]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable:
    """Call the command line in this process; return exit code, output and errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cnnaudit", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cnnaudit.cli.main()
        said = capsys.readouterr()
        return stopped.value.code, said.out, said.err  # type: ignore[return-value]

    return call


def write_image_set(root: Path, scenes: Sequence[str] = SCENES) -> Path:
    rng = np.random.default_rng(3)
    for folder in ("images", "masks", "truth"):
        (root / folder).mkdir(parents=True)
    _write_truth(root / "truth/none.csv", np.zeros((DISTANCES, len(SENSORS)), int))
    lines = []
    for scene in scenes:
        left, top = int(rng.integers(20, 90)), int(rng.integers(30, 70))
        mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
        mask[top : top + 32, left : left + 40] = 255
        Image.fromarray(mask).save(root / f"masks/{scene}.png")
        cells = np.zeros((DISTANCES, len(SENSORS)), int)
        cells[20:40, 2] = 1
        _write_truth(root / f"truth/{scene}.csv", cells)
        for light in LIGHTS:
            for presence, colour in (
                ("obstacle", "equal"),
                ("obstacle", "different"),
                ("shadow", ""),
                ("none", ""),
            ):
                name = f"{scene}-{light}-{colour or presence}"
                pixels = rng.integers(90, 110, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
                if colour == "different":
                    pixels[mask > 0] = (200, 40, 40)
                Image.fromarray(pixels).save(root / f"images/{name}.png")
                here = presence == "obstacle"
                lines.append(
                    {
                        "id": name,
                        "image": f"images/{name}.png",
                        "mask": f"masks/{scene}.png" if here else "",
                        "truth": f"truth/{scene if here else 'none'}.csv",
                        "scene": scene,
                        "colour": colour,
                        "light": light,
                        "presence": presence,
                    }
                )
    write_manifest(root, lines)
    return root


def write_manifest(root: Path, lines: list[dict[str, str]]) -> None:
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def state_of(model: torch.nn.Module) -> dict[str, object]:
    """Return all that a pass must leave as it was: of a network, and of torch itself."""
    modules = [*model.modules()]
    return {
        "training": [m.training for m in modules],
        "attributes": [sorted(vars(m)) for m in modules],
        "hooks": [{n: len(x) for n, x in vars(m).items() if "_hooks" in n} for m in modules],
        "wanted": [(p.requires_grad, p.grad) for p in model.parameters()],
        "values": [value.tolist() for value in model.state_dict().values()],
        "grad mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "function modes": torch._C._len_torch_function_stack(),
        "random": torch.get_rng_state().tolist(),
    }


def _write_truth(path: Path, cells: np.ndarray) -> None:
    np.savetxt(path, cells, fmt="%d", delimiter=",", header=",".join(SENSORS), comments="")
