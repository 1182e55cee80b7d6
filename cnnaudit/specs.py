"""What a config says, as frozen records: all that comes after `config` reads these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

# A Pillow filter each; here, because reading a config must not wait for torch.
RESAMPLING = ("box", "bilinear", "bicubic", "lanczos", "nearest")

EXECUTORS = ("local", "ray")  # where units run
REPORTS = ("single_file", "folder")  # what a report is written as
DISPLAY = ("maximum", "p99")  # p99: the 99th percentile, what is above it shown as the maximum
BETWEEN = ("target", "model", "technique", "levels")  # what an agreement compares
COMPARED = ("model", "technique", "target")  # what a contrast can compare, beside factors

# What a grid of the report can span beside factors; no factor is called so.
FACETS = ("image", "model", "target", "technique")


# What a network receives of a picture, and in how many channels.
CHANNEL_COUNTS = {"rgb": 3, "bgr": 3, "grey": 1}


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the model's input; geometry applies to its masks as well."""

    resize: tuple[int, int] | int  # (height, width), or the shorter side: then `crop` is given
    resample: str  # one of RESAMPLING
    channels: str  # one of CHANNEL_COUNTS, as the model was trained on
    mean: tuple[float, ...]  # per channel, of values scaled to 0–1
    std: tuple[float, ...]
    crop: tuple[int, int] | None = None  # (height, width) around the centre, after resizing

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the input."""
        if self.crop is not None:
            return self.crop
        assert not isinstance(self.resize, int)
        return self.resize


@dataclass(frozen=True)
class OutputAxis:
    """One axis of a structured output, e.g. 65 distances."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ModelSpec:
    name: str
    builder: str  # a name in the registry of `models`
    weights: Path | None  # None: untrained, seeded
    preprocessing: Preprocessing
    # module path whose output is the score, or path:entry of it; None: the model's own output
    score_from: str | None
    roles: Mapping[str, str]  # layer role → module path
    task: str  # which behaviour is measured: a task of `metrics.behaviour`
    outputs: tuple[OutputAxis, ...]  # the axes that the flat output unfolds into
    target: str  # default target, a name in the registry of `targets`
    arch: str = ""  # which network of a builder that has several
    pretrained: str = ""  # published weights by name; once resolved, `weights` is their file
    weights_digest: str = ""  # of `weights` once resolved: what every key and every loading knows
    labels: tuple[str, ...] = ()  # of a classification's classes; empty: indices only
    labels_from: str = ""  # published weights by name, whose labels these are once resolved
    factory: str = ""  # "module:function" of a user's own code
    arguments: Mapping[str, Any] = field(default_factory=dict)  # that it is called with
    output_entry: str = ""  # which part of a tuple or dict is the output; "": it is a tensor
    gives: str = ""  # what the outputs are: "logits", "probabilities"; "": of a regression neither


@dataclass(frozen=True)
class TargetSpec:
    """Which scalar of the output is explained."""

    name: str
    uses: str
    parameters: Mapping[str, Any]  # as declared; of a request as resolved for its model
    sign: str = "positive"  # "negative": what speaks against it


@dataclass(frozen=True)
class TechniqueSpec:
    name: str
    uses: str
    parameters: Mapping[str, Any]
    display: str = "maximum"  # one of DISPLAY: what a picture of it is scaled to


@dataclass(frozen=True)
class MetricSpec:
    name: str
    uses: str
    region: str  # the named mask that the heatmap is held against; "": it needs none
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class GridSpec:
    """A declared grid of the report: which factor or facet spans the rows, which the columns."""

    rows: str
    cols: str
    levels: tuple[str, ...]  # of the factor `rows`, in this order; empty: all

    @property
    def crosses_factors(self) -> bool:
        """Whether both sides are factors, so that means have levels of it."""
        return not {self.rows, self.cols} & set(FACETS)


@dataclass(frozen=True)
class ImageSetSpec:
    name: str
    uses: str  # a reader in the registry of `image_sets`
    root: Path
    unit: str | None  # the factor that is the unit of independence; None: each image
    exemplars: int  # units (scenes) that the report shows in full
    grids: tuple[GridSpec, ...]
    words: Mapping[str, Mapping[str, str]]  # factor → level → how the report says it
    parameters: Mapping[str, Any]
    # the same where a level is a place ("in the sun"); without, as `words` has it
    places: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class PerturbationSpec:
    """What is done to the pictures of every image set, beside leaving them as they are."""

    name: str  # a level of the factor PERTURBATION
    uses: str  # a name in the registry of `image_sets.perturbations`
    severities: tuple[int, ...]


@dataclass(frozen=True)
class ContrastSpec:
    """A paired comparison: one factor's two levels, everything else equal."""

    name: str
    image_set: str
    factor: str  # of the image set, or one of COMPARED
    levels: tuple[str, str]  # the difference is the first minus the second, the reference
    blocks: tuple[str, ...]  # the factors that stay equal within a pair, the unit among them
    within: tuple[str, ...]  # judged at each level of these, never pooled over them
    net_of: tuple[str, ...] = ()  # references whose own difference is also taken away


@dataclass(frozen=True)
class Requirement:
    """A bound on a statistic, or the references that it has to beat."""

    statistic: Literal["level", "lift", "difference", "beats"]
    minimum: float | None = None
    maximum: float | None = None
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckSpec:
    """What must hold: bounds on one metric of a contrast, for every technique named."""

    name: str
    contrast: str
    metric: str
    techniques: tuple[str, ...]  # empty: the metric is one of behaviour
    requirements: tuple[Requirement, ...]
    coverage: float  # least share of eligible items that have a value
    each: tuple[str, ...] = ()  # factors at each level of which it is judged, beside the contrast's
    at: tuple[str, ...] = ()  # the levels of the contrast at which it is judged; empty: both


@dataclass(frozen=True)
class AgreementSpec:
    """Which heatmaps are correlated with which, whatever lies under them."""

    name: str
    between: str  # one of BETWEEN
    contrast: str  # whose pairs are compared between levels; else ""
    techniques: tuple[str, ...]


@dataclass(frozen=True)
class SanitySpec:
    """Which heatmaps are to change as the network's layers are re-initialised."""

    name: str
    techniques: tuple[str, ...]
    items: int  # images, one of each unit of independence
    steps: int  # groups of layers, at most
    seed: int  # of the new weights
    bound: float  # of the mean rank correlation once all is random


@dataclass(frozen=True)
class ExecutorSpec:
    """Where units run, and which share of them."""

    uses: str  # one of EXECUTORS
    workers: int  # processes that decode images ahead; 0: none
    shards: int = 1  # equal shares that the work is divided into
    shard: int | None = None  # the share to compute; None: all of it
    address: str | None = None  # of a cluster to join; None: one is started on this machine
    actors: int | None = None  # processes that compute; None: as many as there is room for
    cores: int = 1  # of each of them
    retries: int = 0  # how often a unit is tried again whose process died


@dataclass(frozen=True)
class AuditSpec:
    """The whole audit as declared; everything after `config` reads this and no config."""

    name: str
    models: tuple[ModelSpec, ...]
    image_sets: tuple[ImageSetSpec, ...]
    perturbations: tuple[PerturbationSpec, ...]  # each image set is then also audited under them
    targets: tuple[TargetSpec, ...]  # empty: each model's own default
    techniques: tuple[TechniqueSpec, ...]
    metrics: tuple[MetricSpec, ...]
    contrasts: tuple[ContrastSpec, ...]
    checks: tuple[CheckSpec, ...]
    agreements: tuple[AgreementSpec, ...]
    sanities: tuple[SanitySpec, ...]
    left_out: tuple[str, ...]  # what is declared and cannot be, such as about what is not chosen
    gate: bool  # whether the verdict counts in the exit code
    seed: int
    device: str  # "auto", "cpu", "cuda", "cuda:1", …
    batch_size: int
    determinism: str  # "strict", "warn" or "off"
    untrained_twin: bool  # whether every heatmap is set beside its untrained twin's
    regions: bool  # whether the interesting region of every kept heatmap is written as a picture
    preview: Path | None  # where a plan draws what the perturbations look like
    output_dir: Path
    store_dir: Path
    executor: ExecutorSpec
    plugins: tuple[str, ...]  # modules of a user's own, which were allowed to be imported
    report: str  # one of REPORTS
