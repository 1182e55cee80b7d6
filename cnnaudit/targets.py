"""Targets: which scalar of a network's scores is explained.

A target turns scores (B, N) into weights (B, N); the explained score is y = Σ_n weight · score.
What a config declares (a class by its label, a slice of a structured output) is resolved for each
model before work begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from cnnaudit.models.labels import class_index
from cnnaudit.sections import parameters_of, unknown
from cnnaudit.specs import ModelSpec, OutputAxis, TargetSpec
from cnnaudit.types import AuditError

if TYPE_CHECKING:
    from torch import Tensor

SIGNS = {"positive": 1, "negative": -1}
Resolved = dict[str, Any]  # parameters of `weigh`


@dataclass(frozen=True)
class Target:
    """A registered target: its weights, and how its declared parameters become those of a model."""

    weigh: Callable[..., Tensor]  # (scores (B, N), truths (B, N), *, resolved) → (B, N)
    # (model, outputs N, where, *, declared) → name of each target that is declared → resolved
    resolve: Callable[..., Mapping[str, Resolved]] | None = None
    needs_truth: bool = False
    of_class: bool = False  # whether it explains a class, of which there is one score

    @property
    def is_plain(self) -> bool:
        """Whether it needs neither parameters nor a truth."""
        return not (self.needs_truth or parameters_of(self.declared))

    @property
    def declared(self) -> Callable[..., Any]:
        """The function whose keyword-only parameters a config may set."""
        return self.resolve or self.weigh


def weigh(target: TargetSpec, scores: Tensor, truths: Tensor | None) -> Tensor:
    """Return the weights (B, N) that a resolved target gives scores (B, N).

    `truths` (B, N), zero for an image without truth, are there for a target that needs them.
    """
    weights = TARGETS[target.uses].weigh(scores, truths, **target.parameters)
    return SIGNS[target.sign] * weights


def resolve_target(target: TargetSpec, spec: ModelSpec, outputs: int) -> Iterator[TargetSpec]:
    """Yield what a declared target stands for in a model with N outputs: one target, or several.

    Raises AuditError for a class, a cell or a number of weights that the model does not have.
    """
    resolve = TARGETS[target.uses].resolve
    if resolve is None:
        yield target
        return
    found = resolve(spec, outputs, f"target.{target.name}", **target.parameters)
    for name, parameters in found.items():
        own = target.name if len(found) == 1 else f"{target.name} {name}"
        yield TargetSpec(own, target.uses, parameters, target.sign)


def check_one_place(target: TargetSpec, places: int, where: str) -> None:
    """Refuse to explain a class where scores (B, N, …) have several places, as a segmentation's."""
    if TARGETS[target.uses].of_class and places > 1:
        raise AuditError(
            f"{where}: the target {target.uses!r} is about one score of a class, and each class "
            f"has {places}, one at each place; possible are all_outputs, a weight for each output, "
            "another score_from or output_entry, or a network around it that reduces its output"
        )


# --- weights --------------------------------------------------------------------------------------


def all_outputs(scores: Tensor, _truths: Tensor | None = None) -> Tensor:
    """Explain the sum of all outputs, as for a regression."""
    return scores.new_ones(scores.shape)


def predicted(scores: Tensor, _truths: Tensor | None = None) -> Tensor:
    """Explain each image's own highest score.

    Of a network with one yes/no score it is that score, also where it is negative and the answer is
    no: `sign: negative` explains a no.
    """
    return scores.new_zeros(scores.shape).scatter(1, scores.argmax(dim=1, keepdim=True), 1)


def truth(_scores: Tensor, truths: Tensor) -> Tensor:
    """Explain the score of each image's true class, or the sum over its true cells."""
    return truths


def cells(scores: Tensor, _truths: Tensor | None = None, *, indices: list[int]) -> Tensor:
    """Explain the sum of some outputs, the same for every image; AuditError if one is not there."""
    n = scores.shape[1]
    for index in indices:
        if not 0 <= index < n:
            raise AuditError(f"target: output {index} is out of range, the model has {n} outputs")
    weights = scores.new_zeros(scores.shape)
    weights[:, indices] = 1
    return weights


def weighted(scores: Tensor, _truths: Tensor | None = None, *, values: list[float]) -> Tensor:
    """Explain a weighted sum of all outputs, the same for every image."""
    if len(values) != scores.shape[1]:
        raise AuditError(f"target: {len(values)} weights, the model has {scores.shape[1]} outputs")
    return scores.new_tensor(values).expand(scores.shape)


# --- resolving what is declared -------------------------------------------------------------------


def resolve_classes(
    spec: ModelSpec, outputs: int, where: str, *, of: int | str | list[int | str]
) -> dict[str, Resolved]:
    """Return each class that is named by its index or its label, as a target of its own."""
    wanted = of if isinstance(of, list) else [of]
    if not wanted:
        raise AuditError(f"{where}.of: [] names no class")
    return {
        str(one): {"indices": [class_index(spec, str(one), outputs, f"{where}.of")]}
        for one in wanted
    }


def resolve_slice(
    spec: ModelSpec, outputs: int, where: str, *, of: dict[str, Any]
) -> dict[str, Resolved]:
    """Return the outputs within a slice of the model's output axes; an axis not named counts whole.

    A selection is a label, a list of labels, or ``start:stop`` by position, as Python counts.
    """
    axes = spec.outputs or (OutputAxis("output", tuple(map(str, range(outputs)))),)
    for name in of:
        if name not in {axis.name for axis in axes}:
            known = [axis.name for axis in axes]
            raise AuditError(f"{where}.of.{name}: {unknown(name, known, 'axis')}")
    indices = [0]
    for axis in axes:
        places = _places(axis, of.get(axis.name, ":"), f"{where}.of.{axis.name}")
        indices = [index * len(axis.labels) + place for index in indices for place in places]
    assert prod(len(axis.labels) for axis in axes) == outputs  # held when the model is inspected
    return {"": {"indices": indices}}


def resolve_weights(
    spec: ModelSpec, outputs: int, where: str, *, of: list[float]
) -> dict[str, Resolved]:
    """Return one weight per output, in their order."""
    if len(of) != outputs:
        raise AuditError(
            f"{where}.of: {len(of)} weights, the model {spec.name!r} has {outputs} outputs"
        )
    return {"": {"values": [float(value) for value in of]}}


def _places(axis: OutputAxis, selection: Any, where: str) -> Sequence[int]:
    everywhere = range(len(axis.labels))
    if isinstance(selection, str) and ":" in selection and selection not in axis.labels:
        try:
            chosen = everywhere[slice(*(int(end) if end else None for end in selection.split(":")))]
        except (ValueError, TypeError) as error:
            raise AuditError(f"{where}: {selection!r} is no slice, start:stop") from error
        if not chosen:
            raise AuditError(f"{where}: {selection!r} is empty, there are {len(everywhere)} places")
        return chosen
    places = []
    for label in selection if isinstance(selection, list) else [selection]:
        if str(label) not in axis.labels:
            raise AuditError(f"{where}: {unknown(str(label), axis.labels, 'label')}")
        places.append(axis.labels.index(str(label)))
    return places


TARGETS: Mapping[str, Target] = {
    "all_outputs": Target(all_outputs),
    "predicted": Target(predicted, of_class=True),
    "truth": Target(truth, needs_truth=True, of_class=True),
    "class": Target(cells, resolve_classes, of_class=True),
    "outputs": Target(cells, resolve_slice),
    "weights": Target(weighted, resolve_weights),
}
