"""The report's randomisation: how far heatmaps stay what they were as layers become random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnnaudit.report.agreement import correlation_cell, mean_of
from cnnaudit.report.cells import NO_LEVEL, Cell, coverage, percentage
from cnnaudit.report.run import Record, Run
from cnnaudit.report.tables import Row, Table


@dataclass(frozen=True)
class Randomisation:
    """What was found of one model on one image set."""

    model: str
    image_set: str
    table: Table


def randomisations(run: Run) -> list[Randomisation]:
    """Return a table for each model and image set: techniques by how far down it is random."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for one in run.randomisations:
        groups.setdefault((one["sanity"], one["model"], one["image_set"]), []).append(one)
    return [
        Randomisation(run.model_label(model), image_set, _table(run, image_set, records))
        for (_, model, image_set), records in groups.items()
    ]


def _table(run: Run, image_set: str, records: Sequence[Record]) -> Table:
    steps = {one["step"]: _reached(one) for one in records if one["step"]}
    rows: dict[tuple[str, str], dict[float, Record]] = {}
    for one in records:
        rows.setdefault((one["technique"], one["target"]), {})[one["step"]] = one
    unit, targets = run.unit(image_set), {target for _, target in rows}
    rests_on, shared = coverage([mean_of(one) for one in records], unit)
    lacking = {f"{run.title('techniques', one['technique'])}: {one['status']}": None
               for one in records if one["status"] != "ok"}  # fmt: skip
    return Table(
        title="",
        meaning="",
        coverage="; ".join(filter(None, [rests_on, *lacking])),
        corner=("technique",),
        groups=(("random down to, and share of the parameters", len(steps)),) if steps else (),
        columns=tuple((label, False) for label in steps.values()),
        rows=tuple(
            Row(
                ((_label(run, *names, among=targets), _verdict([*found.values()][-1])),),
                tuple(
                    correlation_cell(found[step], unit, shared) if step in found else Cell(NO_LEVEL)
                    for step in steps
                ),
            )
            for names, found in rows.items()
        ),
    )


def _reached(one: Record) -> str:
    """Name the lowest layer that is random, and how much of the network is."""
    return f"{one['layers'].rpartition(' … ')[2]} ({percentage(one['share'])})"


def _label(run: Run, technique: str, target: str, *, among: set[str]) -> str:
    title = run.title("techniques", technique)
    return f"{title}, {target}" if len(among) > 1 and target else title


def _verdict(last: Record) -> str:
    """Say so of a technique whose heatmaps are what they were once everything is random."""
    over = last["share"] == 1 and last["correlation"] >= last["bound"]
    return "not about this network" if over else ""
