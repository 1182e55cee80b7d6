"""The verdicts as JUnit XML, which continuous integration systems show: one case per check."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from cnnaudit.printable import printable
from cnnaudit.verdicts import FAIL, PASS, Judgement, verdicts


def junit_xml(
    name: str, judgements: Iterable[Judgement], failures: Sequence[Mapping[str, Any]]
) -> bytes:
    """Return a suite: a check that fails is a failure, one that is undecided is skipped, and what
    could not be computed is an error.
    """
    suite = ElementTree.Element("testsuite", name=name)
    judgements = tuple(judgements)
    for check, verdict in verdicts(judgements).items():
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=check)
        if verdict != PASS:
            kind = "failure" if verdict == FAIL else "skipped"
            told = "\n".join(
                _say(one) for one in judgements if one.check == check and one.verdict != PASS
            )
            ElementTree.SubElement(case, kind, message=verdict).text = told
    for where, reasons in _by_cell(failures).items():
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=where)
        told = "\n".join(reasons)
        ElementTree.SubElement(case, "error", message=next(iter(reasons))).text = told
    counts = {kind: len(suite.findall(f"*/{kind}")) for kind in ("failure", "skipped", "error")}
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(counts["failure"]))
    suite.set("skipped", str(counts["skipped"]))
    suite.set("errors", str(counts["error"]))
    for one in suite.iter():  # XML cannot hold what is not printable, wherever it stands
        one.text = one.text and printable(one.text)
        one.attrib |= {key: printable(text) for key, text in one.attrib.items()}
    ElementTree.indent(suite)
    content: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return content


def _by_cell(failures: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return what failed, each with its reasons: one error, however many metrics went with it."""
    found: dict[str, dict[str, None]] = {}
    for gap in failures:
        for technique in gap["missing"]:
            where = " on ".join(filter(None, (gap["model"], gap["image_set"])))
            where += f", {technique or 'behaviour'}"
            found.setdefault(where, {})[str(gap["reason"])] = None
    return {where: list(reasons) for where, reasons in found.items()}


def _measured(one: Judgement) -> str:
    """Say a value with its interval, which a single unit does not have."""
    if not math.isfinite(one.value):
        return "no value"
    known = math.isfinite(one.low) and math.isfinite(one.high)
    return f"{one.value:.3f}" + f" [{one.low:.3f}, {one.high:.3f}]" * known


def _say(one: Judgement) -> str:
    told_apart = (one.model, one.technique, one.target, one.within, one.level)
    place = ", ".join(filter(None, told_apart))
    units = f"{one.units} unit{'s' * (one.units != 1)}"
    told = f"{one.statistic} {one.bound} at {place}: {_measured(one)}, {units}"
    return f"{told}, {one.reason}" if one.reason else told
