"""The pages: what the templates get, and what keeps it self-contained and safe."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from types import MappingProxyType
from typing import Any

import jinja2
from markupsafe import Markup

from cnnaudit import figures
from cnnaudit.report.agreement import agreements
from cnnaudit.report.cells import plural
from cnnaudit.report.checks import checks, outcomes, verdict
from cnnaudit.report.contrasts import contrasts
from cnnaudit.report.facets import across_models
from cnnaudit.report.findings import findings
from cnnaudit.report.gaps import gaps_of
from cnnaudit.report.layers import layer_views
from cnnaudit.report.matrix import matrix
from cnnaudit.report.pictures import SubjectPictures, cards_alone, subject_pictures
from cnnaudit.report.prediction import inline
from cnnaudit.report.randomisation import randomisations
from cnnaudit.report.run import Run
from cnnaudit.report.tables import subject_tables
from cnnaudit.report.tiles import Tiles
from cnnaudit.report.viewer import viewer_data
from cnnaudit.shipped import locate

SCRIPTS = ("report.js", "matrix.js", "viewer.js")  # of a page, in the order in which they run


@cache  # a run in a folder has a page for each model, and to compile them takes a while
def templates() -> jinja2.Environment:
    """Return the templates, all data in them escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(locate("reports/templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def audit_page(run: Run, pages: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """Return what the page of a run shows; `pages` are those that models have of their own."""
    subjects = run.subjects()
    tiles = {subject: Tiles(run, subject) for subject in subjects}
    across = across_models(run, tiles)
    made = [*tiles.values()]
    pictures = [cards_alone(one) for one in made] if pages else [*map(subject_pictures, made)]
    tables = [one for one in (subject_tables(run, subject) for subject in subjects) if one]
    return {
        **_of_any_page(run),
        **_pictures(run, pictures, made),
        "pages": pages,
        "cells": run.manifest["cells"],
        "failed": plural(int(run.summary["counts"].get("failed", 0)), "number"),
        "scored": bool(run.summary["counts"].get("ok")),
        "asked": f"{sum(run.summary['counts'].values()):,}",
        "outcomes": outcomes(run),
        "checks": checks(run),
        "contradictions": [str(one) for one in run.summary["contradictions"]],
        "contrasts": contrasts(run),
        "binary": run.binary_titles(run.contrasts),
        "binary_checked": run.binary_titles(run.judgements),
        "findings": findings(run, tables),
        "facts": _facts(run),
        "matrix": matrix(run),
        "tables": tables,
        "agreements": agreements(run),
        "randomisations": randomisations(run),
        "across": across,
        "layers": layer_views(run, tiles),
        "failures": gaps_of(run, "failures"),
        "gaps": gaps_of(run, "gaps"),
        "left_out": [str(one) for one in run.summary.get("left_out", ())],
        "techniques": _techniques(run),
        "provenance": _provenance(run.manifest),
        "command": str(run.manifest["command"]),
        "config": run.config,
    }


def model_page(run: Run, model: str) -> dict[str, Any]:
    """Return what a page about one model's pictures shows."""
    tiles = [Tiles(run, subject) for subject in run.subjects() if subject.model == model]
    pictures = [*map(subject_pictures, tiles)]
    return {
        **_of_any_page(run),
        **_pictures(run, pictures, tiles),
        "model": run.model_label(model),
        "across": (),
        "layers": None,
        "pages": {},
    }


def _of_any_page(run: Run) -> dict[str, Any]:
    style, scripts = asset("report.css"), [asset(name) for name in SCRIPTS]
    return {
        "policy": policy(style, scripts),
        "style": style,
        "scripts": scripts,
        "name": run.manifest["name"],
        "complete": run.is_complete,
        "status": run.summary["status"],
        "verdict": verdict(run),
    }


def _pictures(
    run: Run, pictures: Sequence[SubjectPictures], tiles: Sequence[Tiles]
) -> dict[str, Any]:
    return {
        "pictures": pictures,
        "looks": viewer_data(run, tiles),
        "closer": any(one.is_limited for one in tiles),
        "scale": inline(figures.colour_bar(figures.ALPHA), "", None),
        "answer_scale": inline(figures.colour_bar(), "", None),
        "threshold": f"{figures.THRESHOLD:g}",
    }


def asset(name: str) -> Markup:
    """Return one of our own assets, to be inlined as it stands."""
    return Markup(locate(f"reports/assets/{name}").read_text(encoding="utf-8"))  # noqa: S704


def policy(style: str, scripts: Iterable[str] = ()) -> str:
    """Return a content security policy that lets this page's own style and scripts run alone."""
    allowed = " ".join(map(_source_of, scripts))
    return (
        f"default-src 'none'; img-src data:; style-src {_source_of(style)}; "
        f"{allowed and f'script-src {allowed}; '}base-uri 'none'; form-action 'none'"
    )


def _source_of(text: str) -> str:
    """Return how a policy names a style or script of this text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _facts(run: Run) -> list[tuple[str, str]]:
    """Return what was audited in a few words, for the line under the title."""
    models = [_model_fact(name, about) for name, about in run.catalogue["models"].items()]
    images = [_images_fact(name, about) for name, about in run.catalogue["image_sets"].items()]
    facts = [
        ("model" if len(models) == 1 else "models", "; ".join(models)),
        ("images", "; ".join(images)),
        ("date", date_text(str(run.manifest["created"]))),
        ("made by", f"cnnaudit {run.manifest.get('packages', {}).get('cnnaudit', '')}".strip()),
    ]
    return [(label, text) for label, text in facts if text]


def _model_fact(name: str, about: Mapping[str, Any]) -> str:
    count = about.get("parameters")
    return f"{name} ({count:,} parameters)" if isinstance(count, int) else name


def _images_fact(name: str, about: Mapping[str, Any]) -> str:
    counts = plural(about["items"], "image")
    if about.get("unit"):
        counts += f" of {plural(about['units'], about['unit'])}"
    return f"{name} ({counts})"


def date_text(created: str) -> str:
    """Write a time stamp as a reader does; one that is none as it is."""
    try:
        when = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{when.day} {when:%B %Y, %H:%M} {when.tzname() or ''}".strip()


def _techniques(run: Run) -> list[tuple[str, str, str]]:
    """Return each technique's title, source and the layer it looked at."""
    found = []
    for name, about in run.catalogue["techniques"].items():
        layers = [f"{layer} of {model}" for model, layer in (about.get("layer") or {}).items()
                  if layer]  # fmt: skip
        found.append(
            (run.title("techniques", name), about.get("citation") or "", ", ".join(layers))
        )
    return found


def _provenance(manifest: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Lay the whole manifest out as groups of (key, value), whatever keys it has."""
    groups: list[tuple[str, list[tuple[str, str]]]] = [("run", [])]
    for key, value in manifest.items():
        lines = [(path.removeprefix(f"{key}."), text) for path, text in _flat(key, value)]
        if isinstance(value, Mapping):
            groups.append((key, lines))
        else:
            groups[0][1].extend(lines)
    return [(name, lines) for name, lines in groups if lines]


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}", inner)
    elif isinstance(value, list | tuple):
        yield path, ", ".join(_scalar(one) for one in value) or "none"
    else:
        yield path, _scalar(value)


def _scalar(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    # In nine digits: what a mean or a std is, and not what it is about.
    return f"{value:.9g}" if isinstance(value, float) else str(value)
