"""The registry that configs name techniques by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cnnaudit.types import Needs

if TYPE_CHECKING:
    from torch import Tensor


class NotApplicable(Exception):
    """A technique without a meaning on this network; the message says why."""


@dataclass(frozen=True)
class Technique:
    """A registered technique: its function and what the planner and the report need to know."""

    name: str
    compute: Callable[..., Tensor]
    needs: Needs
    title: str
    citation: str
    version: int  # raise it when the same parameters give other heatmaps: old cells are not reused

    @property
    def sees_no_network(self) -> bool:
        """Whether it is a reference, which depends on the input alone."""
        return self.needs == Needs()


TECHNIQUES: dict[str, Technique] = {}


def technique(
    *, needs: Needs, title: str, citation: str, version: int = 1
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a function under its own name as a technique."""

    def register(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = compute.__name__
        if name in TECHNIQUES:
            raise ValueError(f"a technique named {name!r} is registered already")
        TECHNIQUES[name] = Technique(name, compute, needs, title, citation, version)
        return compute

    return register
