"""What a plan will cost: its passes counted, its time and disk space from a short calibration."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cnnaudit.executors import executing
from cnnaudit.progress import clock
from cnnaudit.specs import AuditSpec
from cnnaudit.store import Store
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import Unit

if TYPE_CHECKING:
    import torch

    from cnnaudit.execute import Finished

_PICTURES = 32  # that a calibration computes, at most
_ENOUGH = 2.0  # seconds after which one picture has said enough


@dataclass(frozen=True)
class Passes:
    """Shared passes of a plan, in images; queries are passes that techniques make of their own."""

    forward: int
    backward: int
    queried_by: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    seconds: float
    size: int  # bytes that the cells add to the store


def say_work(units: Iterable[Unit]) -> Iterator[str]:
    """Say what units compute, those that differ in nothing but their images together."""
    images = Counter[tuple[str, str, str]]()
    for unit in units:
        names = (c.request.technique.name if c.request else "behaviour" for c in unit.cells)
        told = ", ".join(dict.fromkeys(names))  # once for all of a technique's targets
        images[unit.model.name, unit.image_set.spec.name, told] += len(unit.chunk)
    for (model, image_set, told), number in images.items():
        yield f"{model} on {image_set}, {number} images: {told}"


def say_cost(audit: AuditSpec, units: Sequence[Unit], device: torch.device) -> Iterator[str]:
    """Say how many images units send through networks, and about how long that takes."""
    passes = count_passes(units, twin=audit.untrained_twin)
    own = f", and the own passes of {', '.join(passes.queried_by)}" if passes.queried_by else ""
    yield f"passes: {passes.forward} images forward, {passes.backward} backward{own}"
    cost = cost_of(audit, units, device)
    yield (
        f"about {clock(cost.seconds)} on {device} and {cost.size / 1e6:.1f} MB in the store, "
        "from a short calibration; what compares, illustrates and sums up comes on top"
    )


def count_passes(units: Iterable[Unit], *, twin: bool) -> Passes:
    """Count the images that go forward and backward through the networks of a plan's units.

    With an untrained `twin` beside each network they go through both.
    """
    forward, backward, queried_by = 0, 0, dict[str, None]()
    for unit in units:
        requests = [cell.request for cell in unit.cells if cell.request is not None]
        used = [(request, TECHNIQUES[request.technique.uses]) for request in requests]
        plain = {r.target.name for r, t in used if t.needs.gradients or t.needs.input_gradient}
        guided = {r.target.name for r, t in used if t.needs.guided_input_gradient}
        own = [r.technique.name for r, t in used if t.needs.queries or t.needs.network]
        queried_by |= dict.fromkeys(own)
        networks = 1 + (twin and any(technique.explains_network for _, technique in used))
        forward += networks * len(unit.chunk)
        backward += networks * len(unit.chunk) * (len(plain) + len(guided))
    return Passes(forward, backward, tuple(queried_by))


def cost_of(audit: AuditSpec, units: Sequence[Unit], device: torch.device) -> Cost:
    """Compute a few pictures of each kind of unit, and reckon what all of them take.

    Networks are built without their weights, which change neither; nothing is fetched or kept.
    """
    seconds, size = 0.0, 0.0
    audit = replace(audit, executor=replace(audit.executor, workers=0))
    for spec, of_model in groupby(units, key=lambda unit: unit.model):
        alike: dict[tuple[str, ...], list[Unit]] = {}
        for unit in of_model:
            alike.setdefault(_kind(unit), []).append(unit)
        with executing(replace(spec, weights=None, pretrained=""), audit, device) as execute:
            for group in alike.values():
                per_picture = _calibrate(group[0], execute, audit.batch_size)
                pictures = sum(len(unit.chunk) for unit in group)
                seconds += per_picture[0] * pictures
                size += per_picture[1] * pictures
    return Cost(seconds, round(size))


def _kind(unit: Unit) -> tuple[str, ...]:
    """Return what units must have in common to cost the same for each picture."""
    asked = (cell.request for cell in unit.cells)
    names = (f"{r.technique.name} {r.target.name}" if r else "" for r in asked)
    return (unit.image_set.spec.name, *sorted(names))


def _calibrate(
    unit: Unit, execute: Callable[..., Iterator[Finished]], batch_size: int
) -> tuple[float, float]:
    """Return the seconds and bytes that one picture of a unit takes; a first one warms up."""
    seconds = size = 0.0
    for count in (1, min(len(unit.chunk), batch_size, _PICTURES)):
        part = replace(unit, chunk=unit.chunk[:count], partners=unit.partners[:count])
        with TemporaryDirectory() as folder:
            started = time.monotonic()
            for _ in execute([part], store=Store(Path(folder)), batch_size=batch_size):
                seconds = (time.monotonic() - started) / count
            files = (path for path in Path(folder).rglob("*") if path.is_file())
            size = sum(path.stat().st_size for path in files) / count
        if seconds > _ENOUGH:
            break
    return seconds, size
