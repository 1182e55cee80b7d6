"""What techniques get that run passes of their own: `query`, or the network as a function of x."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from cnnaudit import hooks
from cnnaudit.numerics import is_out_of_memory
from cnnaudit.passes import run_passes, scores_of, weighted_sum
from cnnaudit.types import Head, PassSpec, Signals

K = TypeVar("K")

log = logging.getLogger(__name__)


def make_query(
    model: nn.Module, score_from: str | None, weights: Tensor
) -> Callable[[Tensor, PassSpec], Signals]:
    """Return a function that runs passes on variants (V·B, C, H, W) of a batch of B images.

    Every image keeps the target that it had: `weights` (B, N). Halves the variants as often as the
    memory asks for, and asks for no more of them from then on.
    """
    most = sys.maxsize  # variants that the memory takes at once, as far as is known

    def query(images: Tensor, spec: PassSpec) -> Signals:
        b = len(weights)
        variants, more = divmod(len(images), b)
        if more or not variants:
            raise ValueError(f"query got {len(images)} images, V·B are expected where B is {b}")
        return run(images, weights.repeat(variants, 1), spec)

    def run(images: Tensor, own: Tensor, spec: PassSpec) -> Signals:
        nonlocal most
        if len(images) > most:
            middle = len(images) // 2
            first = run(images[:middle], own[:middle], spec)
            return _joined(first, run(images[middle:], own[middle:], spec))
        try:
            _, found = run_passes(model, images, score_from, {"": lambda _: own}, {"": spec})
            return found[""]
        except (RuntimeError, MemoryError) as error:
            if len(images) == 1 or not is_out_of_memory(error):
                raise
            log.warning("out of memory with %d variants; halving them", len(images))
        torch.cuda.empty_cache()
        most = len(images) - 1
        return run(images, own, spec)

    return query


@contextmanager
def scored_network(
    model: nn.Module, score_from: str | None, weights: Tensor
) -> Iterator[ScoredNetwork]:
    """Hold a network, frozen, as a module that gives the explained score of its input.

    What is done to its modules is undone.
    """
    with hooks.frozen(model), hooks.restored(model):
        yield ScoredNetwork(model, score_from, weights)


class ScoredNetwork(nn.Module):
    """``(images (B, C, H, W), weights (B, N)) -> y (B,)``; `weights` holds the batch's own."""

    def __init__(self, model: nn.Module, score_from: str | None, weights: Tensor) -> None:
        super().__init__()
        self.model, self.score_from, self.weights = model, score_from, weights

    def forward(self, images: Tensor, weights: Tensor) -> Tensor:
        return weighted_sum(scores_of(self.model, images, self.score_from), weights)


def _joined(first: Signals, second: Signals) -> Signals:
    """Return the signals of two parts of a batch as those of the whole."""
    head = None
    if first.head is not None and second.head is not None:
        head = Head(
            torch.cat([first.head.features, second.head.features]),
            torch.cat([first.head.weights, second.head.weights]),
        )
    return Signals(
        images=torch.cat([first.images, second.images]),
        score=torch.cat([first.score, second.score]),
        weights=torch.cat([first.weights, second.weights]),
        activations=_side_by_side(first.activations, second.activations),
        gradients=_side_by_side(first.gradients, second.gradients),
        input_gradients=_side_by_side(first.input_gradients, second.input_gradients),
        head=head,
        inapplicable=first.inapplicable,
    )


def _side_by_side(first: Mapping[K, Tensor], second: Mapping[K, Tensor]) -> dict[K, Tensor]:
    return {key: torch.cat([one, second[key]]) for key, one in first.items()}
