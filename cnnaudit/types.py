"""The frozen records that the stages hand on, and the shape convention, written once.

Shapes. Batches come first and axes are named on unpacking: images are (B, C, H, W) in the model's
input coordinates, heatmaps (B, H, W), masks (B, H, W) boolean, scores and outputs (B, N), a layer's
activations (B, K, h, w). Heatmaps and masks share the height and width of the input.

Intent is a ``Spec`` (what the config says: `specs`), work a ``Unit``, a result a ``MetricRow``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from cnnaudit.specs import FACETS, ImageSetSpec, ModelSpec, TargetSpec, TechniqueSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor


class AuditError(Exception):
    """Something that the user can put right: shown as one clear message, no traceback."""


class ProcessDied(AuditError):
    """A process that was needed ended; what it was at can be tried again."""


# What somebody's own code may raise. It may call sys.exit as well, which must not end an audit.
ANY_ERROR = (Exception, SystemExit)


# --- image sets -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class File:
    """A file that items name, as it was when their image set was loaded."""

    name: str  # its path: a `Path` takes several times the memory, and there may be a million
    sha256: bytes  # of its content

    @property
    def path(self) -> Path:
        return Path(self.name)

    @property
    def digest(self) -> str:
        """The SHA-256 as 64 hexadecimal digits."""
        return self.sha256.hex()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Outline:
    """A region as polygons, in pixels of its picture, whose top left corner is (0, 0).

    A pixel belongs to it when its centre lies inside one of them.
    """

    size: tuple[int, int]  # (width, height) of the picture
    polygons: tuple[tuple[tuple[float, float], ...], ...]  # corners (x, y) of each


Region = File | Outline  # a mask file, or where it lies


@dataclass(frozen=True, slots=True)
class Perturbed:
    """What is done to a picture whenever it is read."""

    uses: str
    severity: int  # 1–5
    seed: int  # of what is drawn for it
    origin: str  # id of the item that it is made from


@dataclass(frozen=True, slots=True)  # there may be a million
class Item:
    """One picture of an image set with everything that is declared about it."""

    id: str
    image: File
    regions: Mapping[str, Region]  # by name; a region not declared is not a key
    truth: str | File | None  # a label, or a file of a structured truth
    factors: Mapping[str, str]  # factor → level; a factor without a level here is not a key
    perturbed: Perturbed | None = None  # None: the picture as it is

    @property
    def origin(self) -> str:
        """The id of the item whose picture it is, perturbed or not."""
        return self.id if self.perturbed is None else self.perturbed.origin


@dataclass(frozen=True)
class ImageSet:
    spec: ImageSetSpec
    items: tuple[Item, ...]
    factors: tuple[str, ...]  # in the manifest's order, the unit included
    unreadable: tuple[str, ...] = ()  # of each picture that cannot be read, why not

    @property
    def conditions(self) -> tuple[str, ...]:
        """The factors that a mean can keep apart: all but the unit of independence itself."""
        return tuple(name for name in self.factors if name != self.spec.unit)

    def unit_of(self, item: Item) -> str:
        """Return the unit of independence (scene) that an item belongs to."""
        unit = self.spec.unit
        return item.origin if unit is None else item.factors.get(unit, item.origin)

    def levels(self, factor: str) -> tuple[str, ...]:
        """Return the levels of a factor, in the manifest's order."""
        found = (item.factors[factor] for item in self.items if factor in item.factors)
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Masks:
    """One region of a batch's images."""

    pixels: Tensor  # (B, H, W) bool; False all over where an image has no such region
    present: tuple[bool, ...]  # which images have it

    def each(self) -> list[Tensor | None]:
        """Return the mask (H, W) of each image; None: it has no such region."""
        return [mask if has else None for mask, has in zip(self.pixels, self.present, strict=True)]


@dataclass(frozen=True)
class Batch:
    """Items read, decoded and preprocessed; the ones that could not be are named in `failures`."""

    items: tuple[Item, ...]
    images: Tensor  # (B, C, H, W)
    masks: Mapping[str, Masks]  # by region; one that no image has is no key
    swaps: Mapping[str, Masks]  # the same of each item's partner
    truths: Mapping[str, str | NDArray[np.float64]]  # item id → label or (N,); absent: no truth
    failures: Mapping[str, str]  # item id → reason
    # (region, item id) of masks that have pixels in their file, but none in the input
    vanished: frozenset[tuple[str, str]] = frozenset()

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(item.id for item in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def pin_memory(self) -> Batch:
        """Return it where a GPU can fetch it while it computes."""
        return self._moved(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """Return it on a device; pinned, it is still on its way there when this returns."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=True))

    def part(self, start: int, end: int) -> Batch:
        """Return some of its items; what failed stays behind."""
        own = slice(start, end)
        cut = self._with(self.images[own], lambda one: Masks(one.pixels[own], one.present[own]))
        return replace(cut, items=self.items[own], failures={})

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Batch:
        return self._with(move(self.images), lambda one: replace(one, pixels=move(one.pixels)))

    def _with(self, images: Tensor, change: Callable[[Masks], Masks]) -> Batch:
        masks, swaps = (
            {name: change(one) for name, one in kind.items()} for kind in (self.masks, self.swaps)
        )
        return replace(self, images=images, masks=masks, swaps=swaps)


# --- passes ---------------------------------------------------------------------------------------

LayerCall = tuple[str, int]  # (module path, how many times it had been called before)
# As declared: a role or a module path, or an index into the execution order.
LayerChoice = str | int


def layer_name(path: str, call: int, calls: int) -> str:
    """Return how a use of a module is written: its path, and ``@call`` unless it is the last."""
    return path if call == calls - 1 else f"{path}@{call}"


def path_of(layer: str) -> str:
    """Return the module path of a resolved layer."""
    return layer.partition("@")[0]


@dataclass(frozen=True)
class Needs:
    """What a technique asks of the network's passes; the planner unites these."""

    layer: bool = False  # the activations of the layer that its parameter `layer` names
    gradients: bool = False  # the gradient of the score at that layer
    input_gradient: bool = False
    guided_input_gradient: bool = False
    head: bool = False  # the input of the global average pool and the linear layer after it
    queries: bool = False  # passes of its own, on other inputs: it gets `query`
    network: bool = False  # the network itself, for a library that runs its own passes


@dataclass(frozen=True)
class PassSpec:
    """The union of what a group of requests needs."""

    layers: frozenset[str] = frozenset()  # resolved: `layer_name`
    gradients: bool = False
    input_gradient: bool = False
    guided_input_gradient: bool = False
    head: bool = False


@dataclass(frozen=True)
class Head:
    """A network's linear end: scores = W · GAP(A) + b, verified."""

    features: Tensor  # A (B, K, h, w)
    weights: Tensor  # of the explained score, (B, K): Σ_n weight_n · W_n


@dataclass(frozen=True)
class Signals:
    """What one forward and at most two backward passes of one target left behind.

    Only what the `PassSpec` asked for is there; where it cannot be, `inapplicable` says why.
    """

    images: Tensor  # (B, C, H, W)
    score: Tensor  # the explained score y, (B,)
    weights: Tensor  # of each output in it, (B, N)
    activations: Mapping[LayerCall, Tensor] = field(default_factory=dict)  # (B, K, h, w)
    gradients: Mapping[LayerCall, Tensor] = field(default_factory=dict)  # ∂y/∂activations
    # "plain" and "guided": (B, C, H, W)
    input_gradients: Mapping[str, Tensor] = field(default_factory=dict)
    head: Head | None = None
    # "plain", "guided", "head" or a layer → why it is not there
    inapplicable: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def has_score(self) -> Tensor:
        """Whether the explained score of each image is a number, (B,) bool."""
        return self.score.isfinite()

    def call_of(self, layer: str) -> LayerCall | None:
        """Return the key of a resolved layer, of its last use if it names none; None: not used."""
        path, _, call = layer.partition("@")
        if call:
            return (path, int(call)) if (path, int(call)) in self.activations else None
        return max((key for key in self.activations if key[0] == path), default=None)


# --- work and results -----------------------------------------------------------------------------

Status = Literal["ok", "ineligible", "undefined", "not_applicable", "failed"]


@dataclass(frozen=True)
class HeatmapRequest:
    """One technique on one target of one model, its layer resolved."""

    technique: TechniqueSpec
    target: TargetSpec  # resolved for the model
    layer: str  # `layer_name`; "" where the technique has no layer


@dataclass(frozen=True, slots=True)
class Cell:
    """The atom of the store: one request, or the behaviour, of a model on one chunk of images."""

    key: str
    fields: Mapping[str, Any]  # what determined the key, beside the pictures of the chunk
    model: ModelSpec
    image_set: ImageSet
    chunk: tuple[Item, ...]
    request: HeatmapRequest | None  # None: the cell holds behaviour
    keeps_maps: bool = False  # whether its heatmaps are compared with others


@dataclass(frozen=True)
class Unit:
    """The cells of one model on one chunk that the store lacks; they share one forward pass."""

    model: ModelSpec
    image_set: ImageSet
    chunk: tuple[Item, ...]
    cells: tuple[Cell, ...]
    partners: tuple[Item | None, ...]  # of each: on whose masks its heatmaps are scored, too


Device = tuple[str, str | None]  # as torch calls it, and the name of the GPU that it is


@dataclass(frozen=True)
class Scorer:
    """A batch's images, and how the network scores variants of them: each for its own target."""

    images: Tensor  # (B, C, H, W)
    score: Callable[[Tensor], Tensor]  # V variants, (V·B, C, H, W), variant by variant → (V·B,)
    _known: dict[Hashable, Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def once(self, name: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """Return what no heatmap changes: computed when first asked for, for all of a target."""
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]


@dataclass(frozen=True)
class Heatmaps:
    """One request's heatmaps of a batch, in input coordinates, raw values."""

    maps: Tensor  # (B, H, W)
    grid: tuple[int, int]  # (h, w) that the technique gave, before they were upsampled
    ineligible: Mapping[int, str] = field(default_factory=dict)  # index in the batch → why
    # what the technique says of its own accuracy: name → (B,)
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)
    scorer: Scorer | None = None  # None: they see no network


@dataclass(frozen=True)
class Channels:
    """A layer's channel images of a batch, raw values."""

    maps: Tensor  # (B, K, h, w)


@dataclass(frozen=True)
class NoHeatmaps:
    """Why a request gave no heatmap of a batch."""

    status: Status
    reason: str


@dataclass(frozen=True)
class MetricRow:
    """One number about one item, or the reason why there is none; no row is ever dropped.

    Which model, target, technique and image set it is about, its cell knows; `rows` joins them.
    """

    item: str
    region: str  # "" for behaviour
    metric: str
    value: float | None
    chance: float | None
    lift: float | None  # (value − chance) / (1 − chance)
    swap: float | None  # the same heatmap on the mask of a partner: what position alone would earn
    twin: float | None  # the same technique on the network with new weights, untrained
    ceiling: float | None  # the mask itself at the layer's resolution: what is the most to earn
    flag: str  # "dead": the heatmap is zero everywhere; else ""
    status: Status
    reason: str


# The factors of an image set under perturbations; clean is the level of a picture as it is.
PERTURBATION, SEVERITY, CLEAN = "perturbation", "severity", "none"

# The references that stand in every row, and in which column; the others are techniques.
IMAGE_SWAP, UNTRAINED_TWIN = "image_swap", "untrained_twin"
IN_ROW = {IMAGE_SWAP: "swap", UNTRAINED_TWIN: "twin"}

DIED = "the process that computed it died"  # how the reason of a failure begins, if it was that

MAPS_FILE = "maps.npy"  # of a cell whose heatmaps are compared: (n, H, W), each in units of its
MAPS_OF_FILE = "maps.json"  # largest value; and the ids of their n items

RUN_SCHEMA = 3  # of every file of a run directory; raise it when one of them changes its meaning

INPUTS = ("images", "masks", "truths")  # what a run keeps a digest of, item by item

ROWS_FILE = "rows.arrow"  # of a cell of scores: what executing writes and `rows` reads

# What a cell adds to each of its rows when they become one table; "" where it does not apply.
CELL_COLUMNS = ("model", "target", "technique", "layer", "image_set")
ROW_COLUMNS = tuple(column.name for column in fields(MetricRow))
SORTED_BY = (*CELL_COLUMNS, "region", "metric")  # the table of rows, and then by item
EARNED = ("value", "chance", "lift", "swap", "twin", "ceiling")  # the numbers of a row
SUMMARY_COLUMNS = ("mean", *EARNED[1:], "units", "scored", "total", "dead")

POOLED = "*"  # in a factor's column: over all of its levels

# What no factor of an image set can be called.
RESERVED_COLUMNS = frozenset(
    (*FACETS, *CELL_COLUMNS, *ROW_COLUMNS, *SUMMARY_COLUMNS, *get_args(Status), "unit")
)
