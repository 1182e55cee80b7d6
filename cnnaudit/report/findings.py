"""The report's findings: the few sentences that matter first, each with where its evidence is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cnnaudit.report.cells import plural
from cnnaudit.report.run import Record, Run
from cnnaudit.report.tables import SubjectTables

_LAST = 2  # the rank of what can wait
MOST = 5  # findings that a reader takes in within seconds; more are folded
# What a reader's eye should find in a sentence: decimals and percentages, not counts, nor the
# limits of an interval or a p.
_FIGURES = re.compile(r"(?<![\[\d.−-])(?<![<=] )([−+±-]?\d+\.\d+(?!\d*\])|[−+±-]?\d+(?:\.\d+)? ?%)")

Words = tuple[tuple[str, bool], ...]  # (text, whether it is a figure)


@dataclass(frozen=True)
class Finding:
    clause: Words  # what is found
    rest: Words  # what follows the first semicolon, said more quietly
    evidence: str  # the address of its table within the page


@dataclass(frozen=True)
class Findings:
    shown: tuple[Finding, ...]
    folded: tuple[Finding, ...]
    told: str  # what is folded, in words


def findings(run: Run, tables: Iterable[SubjectTables]) -> Findings:
    """Return every finding of a run; what matters most is shown, in the order it was told."""
    told = list(run.summary["findings"])
    first = _first(run, told)
    addresses = _addresses(tables)
    made = [_finding(one, addresses) for one in told]
    folded = tuple(one for n, one in enumerate(made) if n not in first)
    return Findings(
        shown=tuple(made[n] for n in sorted(first)),
        folded=folded,
        told=plural(len(folded), "more finding"),
    )


def _first(run: Run, told: Sequence[Record]) -> set[int]:
    """Choose what is read first: the network's answers, then heatmaps by the primary technique."""
    if len(told) <= MOST + 1:  # one sentence alone is not worth a fold
        return set(range(len(told)))
    primary = _primary(run, told)
    ranks = {n: _rank(one, primary) for n, one in enumerate(told)}
    ordered = sorted(ranks, key=lambda n: ranks[n])
    matter = [n for n in ordered if ranks[n] < _LAST]
    return set((matter or ordered)[:MOST])


def _rank(one: Record, primary: str) -> int:
    if "between" in one:
        return _LAST
    if "sanity" in one or not one.get("technique"):
        return 0
    return 1 if one["technique"] == primary else _LAST


def _primary(run: Run, told: Iterable[Record]) -> str:
    """Return the technique that checks judge first, else the first that was declared."""
    found = {one.get("technique") for one in told} - {"", None}
    judged = [one["technique"] for one in run.judgements]
    order = [*judged, *run.catalogue["techniques"]]
    return next((name for name in order if name in found), "")


def _addresses(tables: Iterable[SubjectTables]) -> dict[tuple[str, str, str], str]:
    """Return where each model's tables of an image set stand, by kind."""
    found = {}
    for one in tables:
        kinds = {"behaviour": one.behaviour, "overlap": one.overlap}
        for kind in (kind for kind, made in kinds.items() if made):
            where = (one.subject.model, one.subject.image_set, kind)
            found[where] = f"{kind}-{one.subject.number}"
    return found


def _finding(told: Record, addresses: Mapping[tuple[str, str, str], str]) -> Finding:
    clause, _, rest = str(told["text"]).partition("; ")
    kind = "overlap" if told.get("technique") else "behaviour"
    where = (str(told.get("model")), str(told["image_set"]), kind)
    evidence = addresses.get(where, "matrix")
    if "contrast" in told:
        evidence = "contrasts"
    if "between" in told:
        evidence = "agreement"
    if "sanity" in told:
        evidence = "randomisation"
    return Finding(figured(clause), figured(rest), evidence)


def figured(text: str) -> Words:
    """Split a text into its figures and what is between them."""
    pieces = _FIGURES.split(text)  # every second piece is a figure
    return tuple((piece, place % 2 == 1) for place, piece in enumerate(pieces) if piece)
