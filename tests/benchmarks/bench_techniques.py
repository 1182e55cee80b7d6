"""What shared passes cost beside the network's own passes, and beside other libraries.

Run as ``python -m tests.benchmarks.bench_techniques``. Prints a Markdown table of ratios. A round
times every candidate once, each round in another order, and a ratio is taken within a round, so
that other work on the machine meets both sides of it; the median over the rounds counts.

Networks have random weights. Their last layer is scaled up, so that the small numbers that others
add to denominators are small beside the gradients, and heatmaps can agree.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import captum.attr
import pytorch_grad_cam
import torch
import torchcam.methods
import torchvision
from torch import Tensor, nn
from torch.nn.functional import interpolate

from cnnaudit.heatmaps import compute_heatmaps
from cnnaudit.models.perception import SimpleCNN
from cnnaudit.specs import TargetSpec, TechniqueSpec
from cnnaudit.types import HeatmapRequest, NoHeatmaps

SCALE = 1e4  # of the last layer, see above
TOLERANCE, TOLERANCE_BF16 = 1e-4, 5e-2  # of the map's maximum
LEAST_ROUNDS, MOST_ROUNDS = 3, 300
# In pytorch-grad-cam as well, each from the gradient at one layer.
FAMILY = ("grad_cam", "grad_cam_plus_plus", "layer_cam", "hires_cam", "xgrad_cam")

Maps = dict[str, Tensor]
Times = dict[str, list[float]]  # candidate → seconds, one of each round


class Scores(nn.Module):
    """The perception network up to its scores, as other libraries need it; shares its modules."""

    def __init__(self, model: SimpleCNN) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder[:4]

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.decoder(self.encoder(images).flatten(1))
        return scores


@dataclass(frozen=True)
class Network:
    """What is timed: a network, where it is looked at, and what is explained."""

    build: Callable[[], nn.Module]
    parameter: str  # the last one up to `layer`: the least by which a peer has a gradient there
    size: tuple[int, int]
    layer: str
    first: str  # whose activations are shown
    last: str  # the linear layer that gives the scores
    score_from: str | None
    target: str
    head: str  # CAM, or what is taken in its place
    most: float  # the target: six maps ≤ most × the floor


_resnet = partial(
    Network,
    size=(224, 224),
    layer="layer4",
    first="conv1",
    last="fc",
    score_from=None,
    target="predicted",
    head="cam",
    most=1.1,
)
NETWORKS = {
    "simple_cnn": Network(
        SimpleCNN,
        "encoder.6.bias",
        size=(64, 80),
        layer="encoder.7",
        first="encoder.0",
        last="decoder.3",
        score_from="decoder.3",
        target="all_outputs",
        head="hires_cam",
        most=1.5,
    ),
    "resnet18": _resnet(torchvision.models.resnet18, "layer4.1.bn2.bias"),
    "resnet50": _resnet(torchvision.models.resnet50, "layer4.2.bn3.bias"),
}


class Case:
    """One network with one batch on one device, and everything that is timed of it."""

    def __init__(self, network: Network, batch: int, device: str, channels_last: bool) -> None:
        torch.manual_seed(0)
        form = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network
        self.model = network.build().eval().to(device, memory_format=form)
        self.model.get_submodule(network.last).weight.data *= SCALE
        self.images = torch.randn(batch, 3, *network.size).to(device, memory_format=form)
        self.scores = Scores(self.model) if isinstance(self.model, SimpleCNN) else self.model
        self.layer = self.model.get_submodule(network.layer)
        self.classes: list[int] = []
        if network.target == "predicted":
            with torch.no_grad():
                self.classes = self.scores(self.images).argmax(dim=1).tolist()

    @property
    def six(self) -> tuple[str, ...]:
        gradients = ("grad_cam", "grad_cam_plus_plus", "layer_cam")
        return ("saliency", "activations", self.network.head, *gradients)

    def explained(self, scores: Tensor) -> Tensor:
        """Return the explained score (B,)."""
        if not self.classes:
            return scores.sum(dim=1)
        return scores.gather(1, torch.tensor(self.classes, device=scores.device)[:, None])[:, 0]

    def upsampled(self, maps: Tensor) -> Tensor:
        """Return maps (B, 1, h, w) as (B, H, W)."""
        size = self.network.size
        return interpolate(maps, size=size, mode="bilinear", align_corners=False)[:, 0]

    def bare(self) -> None:
        with torch.no_grad():
            self.model(self.images)

    def passes(self, backwards: int) -> None:
        """Run a forward pass and backward passes down to the input."""
        images = self.images.detach().requires_grad_()
        score = self.explained(self.scores(images)).sum()
        for left in reversed(range(backwards)):
            torch.autograd.grad(score, images, retain_graph=left > 0)

    def ours(self, techniques: Sequence[str]) -> Maps:
        target = TargetSpec("explained", self.network.target, {})
        layers = dict.fromkeys(FAMILY, self.network.layer) | {"activations": self.network.first}
        requests = [
            HeatmapRequest(TechniqueSpec(name, name, {}), target, layers.get(name, ""))
            for name in techniques
        ]
        _, found = compute_heatmaps(self.model, self.network.score_from, self.images, requests)
        maps = {}
        for name, result in zip(techniques, found, strict=True):
            if isinstance(result, NoHeatmaps):
                raise RuntimeError(f"{name}: {result.reason}")
            maps[name] = result.maps
        return maps


# --- other libraries: each map in a batch, in input coordinates -----------------------------------


def captum_saliency(case: Case) -> Tensor:
    explainer = captum.attr.Saliency(lambda images: case.explained(case.scores(images)))
    return explainer.attribute(case.images.detach().requires_grad_()).amax(dim=1)


def captum_activations(case: Case) -> Tensor:
    first = case.model.get_submodule(case.network.first)
    with torch.no_grad():
        return captum.attr.LayerActivation(case.scores, first).attribute(case.images)


def captum_grad_cam(case: Case) -> Tensor:
    explainer = captum.attr.LayerGradCam(
        lambda images: case.explained(case.scores(images)), case.layer
    )
    return case.upsampled(explainer.attribute(case.images, relu_attributions=True).detach())


def torchcam_cam(case: Case) -> Tensor:
    with torchcam.methods.CAM(case.scores, case.network.layer, case.network.last) as extractor:
        with torch.inference_mode():
            case.scores(case.images)
        return case.upsampled(extractor(case.classes, normalized=False)[0][:, None])


def torchcam_gradient(name: str, case: Case) -> Tensor:
    asked = {"class_idx": case.classes} if case.classes else {"targets": Tensor.sum}
    with getattr(torchcam.methods, name)(case.scores, case.network.layer) as extractor:
        scores = case.scores(case.images)
        return case.upsampled(extractor(scores=scores, normalized=False, **asked)[0][:, None])


def pytorch_grad_cam_map(name: str, case: Case) -> Tensor:
    targets = [partial(torch.select, dim=0, index=index) for index in case.classes]
    with getattr(pytorch_grad_cam, name)(case.scores, [case.layer]) as extractor:
        return torch.from_numpy(extractor(case.images, targets or [Tensor.sum] * len(case.images)))


_CAPTUM, _TORCHCAM, _PYTORCH_GRAD_CAM = "Captum", "torch-cam", "pytorch-grad-cam"
PEERS: Mapping[tuple[str, str], Callable[[Case], Tensor]] = {
    ("saliency", _CAPTUM): captum_saliency,
    ("activations", _CAPTUM): captum_activations,
    ("cam", _TORCHCAM): torchcam_cam,
    ("grad_cam", _CAPTUM): captum_grad_cam,
    ("grad_cam", _TORCHCAM): partial(torchcam_gradient, "GradCAM"),
    ("grad_cam_plus_plus", _TORCHCAM): partial(torchcam_gradient, "GradCAMpp"),
    ("layer_cam", _TORCHCAM): partial(torchcam_gradient, "LayerCAM"),
    ("grad_cam", _PYTORCH_GRAD_CAM): partial(pytorch_grad_cam_map, "GradCAM"),
    ("grad_cam_plus_plus", _PYTORCH_GRAD_CAM): partial(pytorch_grad_cam_map, "GradCAMPlusPlus"),
    ("layer_cam", _PYTORCH_GRAD_CAM): partial(pytorch_grad_cam_map, "LayerCAM"),
    ("hires_cam", _PYTORCH_GRAD_CAM): partial(pytorch_grad_cam_map, "HiResCAM"),
    ("xgrad_cam", _PYTORCH_GRAD_CAM): partial(pytorch_grad_cam_map, "XGradCAM"),
}
AS_LOADED = "Grad-CAM of pytorch-grad-cam, every parameter asking for its gradient"


@contextmanager
def asking(case: Case, who: str) -> Iterator[None]:
    """Let no parameter ask for a gradient, or all, or "one", where a peer's backward pass ends."""
    names = {"none": set(), "one": {case.network.parameter}}
    for name, parameter in case.model.named_parameters():
        parameter.requires_grad_(who == "all" or name in names[who])
    try:
        yield
    finally:
        case.model.zero_grad()


def _least(technique: str) -> str:
    return "none" if technique in ("saliency", "activations", "cam") else "one"


def agreeing(case: Case, tolerance: float) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the peers that give our maps, and why others do not count."""
    ours = case.ours(tuple(dict.fromkeys((*case.six, *FAMILY))))
    agree, reasons = [], []
    for (technique, library), explain in PEERS.items():
        if technique not in ours:
            continue
        try:
            with asking(case, _least(technique)):
                theirs = explain(case).to(ours[technique])
        except Exception as error:  # noqa: BLE001 - whatever a peer raises, it does not count
            reasons.append(f"{technique} of {library} ({type(error).__name__}: {error})")
            continue
        expected = ours[technique]
        if library == _PYTORCH_GRAD_CAM:
            theirs, expected = _min_max(theirs), _min_max(expected)
        error = float((theirs - expected).abs().max() / expected.abs().max())
        if error <= tolerance:
            agree.append((technique, library))
        else:
            reasons.append(f"{technique} of {library} (differs by {error:.1g} of the maximum)")
    return agree, reasons


def _min_max(maps: Tensor) -> Tensor:
    low = maps.amin(dim=(1, 2), keepdim=True)
    return (maps - low) / (maps.amax(dim=(1, 2), keepdim=True) - low)


# --- timing ---------------------------------------------------------------------------------------


def measure(
    case: Case, peers: Sequence[tuple[str, str]], seconds: float, rounds: int | None
) -> Times:
    """Time every candidate once a round, each round in another order."""
    candidates: dict[str, tuple[str, Callable[[], object]]] = {
        "bare": ("none", case.bare),
        "floor": ("none", partial(case.passes, 1)),
        "two backwards": ("none", partial(case.passes, 2)),
        "six": ("all", partial(case.ours, case.six)),
        "seven": ("all", partial(case.ours, (*case.six, "guided_saliency"))),
        "family": ("all", partial(case.ours, FAMILY)),
    }
    for technique, library in peers:
        explain = partial(PEERS[technique, library], case)
        candidates[f"{technique} by {library}"] = (_least(technique), explain)
        if (technique, library) == ("grad_cam", _PYTORCH_GRAD_CAM):
            candidates[AS_LOADED] = ("all", explain)
    times: Times = {name: [] for name in candidates}
    names, start, done = list(candidates), time.perf_counter(), 0
    while not _enough(done, rounds, time.perf_counter() - start, seconds):
        shift = done % len(names)
        for name in names[shift:] + names[:shift]:
            who, work = candidates[name]
            with asking(case, who):
                times[name].append(_clock(work, case.images.device))
        done += 1
    return times


def _enough(done: int, rounds: int | None, spent: float, seconds: float) -> bool:
    if rounds is not None:
        return done >= rounds
    return done >= MOST_ROUNDS or (done >= LEAST_ROUNDS and spent > seconds)


def _clock(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


# --- the table ------------------------------------------------------------------------------------


def row(case: Case, peers: Sequence[tuple[str, str]], times: Times) -> str:
    """Return a line of the table, in the order of its columns."""
    best: dict[str, str] = {}  # technique → the quickest peer that gives it
    for technique, library in peers:
        name = f"{technique} by {library}"
        if technique in case.six:
            best[technique] = min(
                best.get(technique, name), name, key=lambda each: _median(times[each])
            )
    family = [f"{technique} by {_PYTORCH_GRAD_CAM}" for technique in FAMILY]
    complete = len(best) == len(case.six)
    count = "" if complete else f" (only {len(best)} of {len(case.six)} maps)"
    cells = [
        f"{_median(times['bare']) * 1e3:.3g}",
        _ratio(times["floor"], times["bare"]),
        _ratio(times["six"], times["floor"], most=case.network.most),
        _ratio(times["seven"], times["two backwards"], most=1.15),
        _ratio(_sum(times, best.values()), times["six"], least=3 if complete else None) + count,
        _ratio(_sum(times, family), times["family"], least=5) if {*family} <= {*times} else "–",
        _ratio(times[AS_LOADED], times["family"]) if AS_LOADED in times else "–",
        str(len(times["bare"])),
    ]
    return " | ".join(cells)


def _sum(times: Times, names: Iterable[str]) -> list[float]:
    return [sum(each) for each in zip(*(times[name] for name in names), strict=True)]


def _median(values: list[float]) -> float:
    return statistics.median(values)


def _ratio(
    above: list[float], below: list[float], *, most: float | None = None, least: float | None = None
) -> str:
    """Return the median of the rounds' ratios and its quartiles, and whether it misses a target."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    low, middle, high = (
        statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    )
    missed = (most is not None and middle > most) or (least is not None and middle < least)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]" + (" MISSED" if missed else "")


HEADER = """\
| network | batch | forward, ms | floor ÷ forward | six ÷ floor | seven ÷ two backwards \
| best of others ÷ six | pytorch-grad-cam ÷ family | its Grad-CAM alone, as loaded ÷ family \
| rounds |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, help="of every case; default: as --seconds allow")
    parser.add_argument("--seconds", type=float, default=20, help="at least, of every case")
    parser.add_argument("--device", help="default: cpu, and cuda where there is one")
    parser.add_argument("--bf16", action="store_true", help="under bf16 autocast")
    parser.add_argument("--channels-last", action="store_true")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # what peers say of their own use of torch
    devices = [asked.device] if asked.device else ["cpu", *["cuda"] * torch.cuda.is_available()]
    for device in devices:
        kind = torch.device(device).type
        cpu = f"{torch.get_num_threads()} threads"
        where = torch.cuda.get_device_name(device) if kind == "cuda" else cpu
        form = ", bf16" * asked.bf16 + ", channels last" * asked.channels_last
        print(f"{device} ({where}){form}; torch {torch.__version__}; median [quartiles]\n")
        print(HEADER, flush=True)
        notes: dict[str, None] = {}
        for model in asked.models:
            for batch in asked.batches:
                with torch.autocast(kind, torch.bfloat16, asked.bf16):
                    case = Case(NETWORKS[model], batch, device, asked.channels_last)
                    peers, reasons = agreeing(case, TOLERANCE_BF16 if asked.bf16 else TOLERANCE)
                    times = measure(case, peers, asked.seconds, asked.rounds)
                print(f"| {model} | {batch} | {row(case, peers, times)} |", flush=True)
                notes |= dict.fromkeys(f"{model}, {batch}: {reason}" for reason in reasons)
        print("\nNot counted, since the maps are others or there are none:")
        print("\n".join(f"- {note}" for note in notes) or "- none", end="\n\n")


if __name__ == "__main__":
    main()
