"""The registry that configs name techniques by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cnnaudit.sections import parameters_of
from cnnaudit.types import Needs, PassSpec, Signals

if TYPE_CHECKING:
    from torch import Tensor

Gives = Literal["heatmap", "channels", "kernels"]
# Runs passes on other images, V variants of each of the batch's B, (V·B, C, H, W), variant by
# variant; every image keeps the target that it had.
Query = Callable[["Tensor", PassSpec], Signals]


class NotApplicable(Exception):
    """A technique without a meaning on this network; the message says why."""


@dataclass(frozen=True)
class Diagnostic:
    """A number that a technique states about its own accuracy, of each image."""

    title: str
    meaning: str
    bounds: tuple[float, float]


@dataclass(frozen=True)
class Technique:
    """A registered technique: its function and what the planner and the report need to know."""

    compute: Callable[..., Any]
    needs: Needs
    title: str
    citation: str
    version: int  # raise it when the same parameters give other heatmaps: old cells are not reused
    gives: Gives
    diagnostics: Mapping[str, Diagnostic]
    # what the types of its parameters cannot say: (parameters, where), raising AuditError
    check: Callable[[Mapping[str, Any], str], None] | None
    library: str  # that computes it, whose version counts as well; "": none but torch

    @property
    def sees_no_network(self) -> bool:
        """Whether it is a reference, which depends on the input alone."""
        return self.needs == Needs()

    @property
    def explains_network(self) -> bool:
        """Whether it gives heatmaps that a network behind them determines."""
        return self.gives == "heatmap" and not self.sees_no_network

    @property
    def sees_no_image(self) -> bool:
        """Whether it shows the network alone, once for all images."""
        return self.gives == "kernels"


TECHNIQUES: dict[str, Technique] = {}


def technique(
    *,
    needs: Needs,
    title: str,
    citation: str,
    version: int = 1,
    gives: Gives = "heatmap",
    diagnostics: Mapping[str, Diagnostic] | None = None,
    check: Callable[[Mapping[str, Any], str], None] | None = None,
    library: str = "",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function under its own name as a technique.

    It takes the signals, then `query` or the network where it needs them, then its parameters by
    keyword, and returns (B, h, w); with `diagnostics` also a mapping of each to (B,).
    """

    def register(compute: Callable[..., Any]) -> Callable[..., Any]:
        name = compute.__name__
        known = TECHNIQUES.get(name)
        if known and known.compute.__module__ != compute.__module__:  # a notebook's cell runs again
            raise ValueError(f"a technique named {name!r} is registered already")
        if needs.layer and "layer" not in parameters_of(compute):
            raise TypeError(f"{name} needs a layer: it must take one by keyword, *, layer: str")
        TECHNIQUES[name] = Technique(
            compute, needs, title, citation, version, gives, diagnostics or {}, check, library
        )
        return compute

    return register
