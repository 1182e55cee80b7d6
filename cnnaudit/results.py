"""What the finished cells of an audit say: summed up, judged, illustrated, and written as files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnaudit.image_sets import told_apart
from cnnaudit.metrics import binary_metrics
from cnnaudit.store import write_atomically, write_json
from cnnaudit.types import RUN_SCHEMA, Device

if TYPE_CHECKING:
    import pandas as pd

    from cnnaudit.audit import Prepared, Stopwatch
    from cnnaudit.executors import Make
    from cnnaudit.illustrations import Illustrations, ShownItems
    from cnnaudit.kernels import ShownKernels
    from cnnaudit.randomisation import Curves
    from cnnaudit.verdicts import Judgement


@dataclass(frozen=True)
class Results:
    """What the finished cells say."""

    counts: Counter[str]  # of rows by status
    summary: pd.DataFrame
    contrasts: pd.DataFrame
    agreement: pd.DataFrame
    randomisation: pd.DataFrame
    judgements: Sequence[Judgement]
    findings: Sequence[Mapping[str, str]]
    gaps: Sequence[Mapping[str, Any]]  # why items have no value
    illustrations: Illustrations
    devices: Sequence[Device]  # on which they were made, and the randomisation
    complete: bool
    verdict: str  # "" where nothing is declared to be checked


def read_results(
    ready: Prepared,
    run_dir: Path,
    catalogue: Mapping[str, Any],
    watch: Stopwatch,
    make: Make,
) -> Results:
    """Summarise, judge and illustrate what the store has; `make` makes what it lacks for that."""
    from cnnaudit import findings, verdicts
    from cnnaudit.agreement import agreement_table, find_agreement, to_compare
    from cnnaudit.checks import judge_each
    from cnnaudit.contrasts import contrasts_of
    from cnnaudit.illustrations import illustrations_of, to_show
    from cnnaudit.randomisation import find_randomisation, randomisation_table, to_randomise
    from cnnaudit.rows import Rows
    from cnnaudit.totals import Totals

    audit = ready.audit
    folder = run_dir / "results"
    folder.mkdir(exist_ok=True)  # of shards, joined once more
    with watch.stage("summarise"):
        primary = audit.metrics[0].name if audit.metrics else ""
        totals = Totals(primary, told_apart(ready.image_sets))
        rows = Rows(folder / "rows.parquet", ready.plan.cells, ready.store, totals.add)
        table, gaps = totals.means, totals.gaps
    with watch.stage("illustrate"):
        curves = to_randomise(audit, ready.requests, ready.image_sets, totals.died)
        items, kernels = to_show(audit, ready.requests, ready.image_sets, totals)
        made: list[Curves | ShownItems | ShownKernels] = [*curves, *items, *kernels]
        errands = [errand for one in made for errand in one.errands(ready.store)]
        devices = make(audit, errands, ready.store)
        illustrations = illustrations_of(items, kernels, ready.store)
        randomisation = randomisation_table(curves, ready.store)
        told = {_cause(gap) for gap in gaps}  # by the rows, which lack the same
        lost = (gap for one in made for gap in one.gaps(ready.store))
        gaps += [gap for gap in lost if _cause(gap) not in told]
    with watch.stage("judge"):
        binary = binary_metrics(audit.metrics)
        contrasts = contrasts_of(rows.by_metric(), audit.contrasts, audit.seed, binary)
        sentences = findings.find(table, contrasts, audit.contrasts, ready.image_sets, catalogue)
        judgements = judge_each(rows.of, audit.checks, audit.contrasts, audit.seed, binary)
        complete = not any(gap["status"] == "failed" for gap in gaps)
        verdict = verdicts.overall(audit.checks, judgements, complete=complete)
    with watch.stage("agree"):
        compared = to_compare(audit, ready.image_sets, ready.plan.cells)
        agreement = agreement_table(compared, ready.store)
        titles = {name: one["title"] for name, one in catalogue["techniques"].items()}
        sentences += find_agreement(agreement, titles)
        sentences += find_randomisation(randomisation, titles)
    return Results(
        counts=totals.counts,
        summary=table,
        contrasts=contrasts,
        agreement=agreement,
        randomisation=randomisation,
        judgements=judgements,
        findings=sentences,
        gaps=gaps,
        illustrations=illustrations,
        devices=devices,
        complete=complete,
        verdict=verdict,
    )


def _cause(gap: Mapping[str, Any]) -> tuple[str, ...]:
    return gap["model"], gap["image_set"], gap["status"], gap["reason"]


def count_derived(ready: Prepared) -> dict[str, tuple[int, int]]:
    """Return how much is made of finished cells, by kind, and how much of it the store lacks.

    Kinds of which an audit asks for nothing are left out.
    """
    from cnnaudit.agreement import to_compare
    from cnnaudit.randomisation import to_randomise

    compared = to_compare(ready.audit, ready.image_sets, ready.plan.cells)
    curves = to_randomise(ready.audit, ready.requests, ready.image_sets)
    keys = {
        "agreements": [one.key for one in compared],
        "randomisation curves": [key for one in curves for key in one.keys],
    }
    return {
        name: (len(found), sum(not ready.store.has(key) for key in found))
        for name, found in keys.items()
        if found
    }


def write_results(found: Results, ready: Prepared, run_dir: Path) -> None:
    """Write the tables, the verdict and what the report needs into a run directory."""
    from cnnaudit import summary, verdicts
    from cnnaudit.inputs import write_inputs
    from cnnaudit.junit import junit_xml
    from cnnaudit.regions import write_regions

    audit = ready.audit
    failures = [gap for gap in found.gaps if gap["status"] == "failed"]
    folder = run_dir / "results"
    write_inputs(folder / "inputs.parquet", ready.image_sets)
    write_atomically(folder / "summary.csv", summary.to_csv(found.summary))
    write_atomically(folder / "contrasts.csv", summary.to_csv(found.contrasts))
    write_atomically(folder / "agreement.csv", summary.to_csv(found.agreement))
    write_atomically(folder / "randomisation.csv", summary.to_csv(found.randomisation))
    write_atomically(folder / "checks.csv", summary.to_csv(verdicts.table_of(found.judgements)))
    write_atomically(run_dir / "junit.xml", junit_xml(audit.name, found.judgements, failures))
    write_json(folder / "illustrations.json", {"schema": RUN_SCHEMA, **found.illustrations})
    if audit.regions:
        write_regions(found.illustrations["pictures"], ready.store, run_dir / "regions")
    write_json(
        run_dir / "summary.json",
        {
            "schema": RUN_SCHEMA,
            "name": audit.name,
            "status": "COMPLETE" if found.complete else "INCOMPLETE",
            "verdict": found.verdict,
            "checks": verdicts.verdicts(found.judgements),
            "contradictions": verdicts.contradictions(found.judgements),
            "left_out": audit.left_out,
            "findings": found.findings,
            "counts": dict(found.counts.most_common()),
            "failures": failures,
            "gaps": [gap for gap in found.gaps if gap["status"] != "failed"],
        },
    )
