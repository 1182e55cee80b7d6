"""The report of a small run with hostile names, read as text."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from cnnaudit.report import write_report
from cnnaudit.report.cells import number
from cnnaudit.types import AuditError
from tests.sample_run import BEHAVIOUR, EVIL, OVERLAP, build_run


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the hostile run."""
    return write_report(build_run(tmp_path_factory.mktemp("hostile")))


@pytest.fixture(scope="module")
def page(report: Path) -> str:
    return report.read_text()


class Reader(HTMLParser):
    """Gathers the elements, attributes and text of a page as a browser would."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_the_sections_come_in_their_order(page: str) -> None:
    order = ["findings", "numbers", "heatmaps", "received", "regions", "worst", "provenance"]
    found = [attributes.get("id") for _, attributes in read(page).elements]
    assert [name for name in found if name in order] == order


def test_incomplete_is_said_before_anything_else(page: str) -> None:
    body = read(page.split("</head>")[1]).text
    assert body.index("INCOMPLETE") < body.index("CNN audit")
    assert "1 number of 81" in body
    assert re.search(r"<title>INCOMPLETE", page)


def test_a_complete_run_raises_no_alarm(tmp_path: Path) -> None:
    page = write_report(build_run(tmp_path, str, "COMPLETE")).read_text()
    assert "INCOMPLETE" not in page
    assert 'role="alert"' not in page
    assert "Nothing failed" in page


def test_names_are_text_and_never_elements(page: str) -> None:
    reader = read(page)
    assert [tag for tag, _ in reader.elements].count("script") == 1
    for tag, attributes in reader.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert attributes.get("href", "#")[:1] == "#"
        assert attributes.get("src", "data:image/webp;base64,").startswith("data:image/webp;")
    assert EVIL in reader.text
    assert "49javascript" not in reader.text


def test_the_policy_names_the_hashes_of_what_is_inlined(page: str) -> None:
    [policy] = [
        attributes["content"] or ""
        for tag, attributes in read(page).elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    for tag in ("style", "script"):
        [inlined] = re.findall(
            rf"<{tag}>(.*?)</{tag}>", page.split("</head>")[tag == "script"], re.S
        )
        digest = base64.b64encode(hashlib.sha256(inlined.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_numbers_stand_in_the_tables(tmp_path: Path) -> None:
    text = " ".join(read(write_report(build_run(tmp_path, str)).read_text()).text.split())
    assert "0.12" in text
    assert "lift +0.79" in text  # (0.8 − 0.05) / 0.95
    assert "50% dead" in text  # one of two scenes, equal colour, overhead
    assert "8 of 12 images scored" in text
    assert "dead: zero everywhere" in text
    assert "failed: out of memory" in text
    assert "a key of tomorrow" in text
    assert "fan.speed" in text


def test_a_second_grid_and_its_levels_are_shown(tmp_path: Path) -> None:
    run = build_run(tmp_path, str)
    manifest = json.loads((run / "manifest.json").read_text())
    declared = {"rows": "presence", "cols": "light", "levels": ["shadow"]}
    manifest["catalogue"]["image_sets"]["lighting"]["grids"].append(declared)
    (run / "manifest.json").write_text(json.dumps(manifest))
    page = write_report(run).read_text()
    assert "<summary>colour × light</summary>" in page
    second = page.split("<summary>presence × light</summary>")[1].split("</details>")[0]
    assert '<th scope="row">shadow</th>' in second
    assert '<th scope="row">obstacle</th>' not in second


def test_gaps_that_differ_in_metric_alone_are_told_as_one(tmp_path: Path) -> None:
    run = build_run(tmp_path, str)
    summary = json.loads((run / "summary.json").read_text())
    [gap] = summary["gaps"]
    gap["reason"] = "no_such_region"
    summary["gaps"] = [
        gap | {"technique": technique, "metric": metric}
        for technique in ("saliency", "grad_cam")
        for metric in ("iou", OVERLAP)
    ]
    (run / "summary.json").write_text(json.dumps(summary))
    text = read(write_report(run).read_text()).text
    assert text.count("no such region") == 1
    assert "saliency, grad_cam: iou, mass in mask" in text


def test_a_metric_without_any_value_is_named_and_has_no_table(tmp_path: Path) -> None:
    run = build_run(tmp_path, str)
    path = run / "results" / "summary.csv"
    means = pd.read_csv(path, dtype=str, keep_default_na=False)
    means.loc[means["metric"] == BEHAVIOUR, "mean"] = ""
    means.to_csv(path, index=False)
    page = write_report(run).read_text()
    assert "Not measured here: probability." in page
    assert "<h5>probability</h5>" not in page
    assert "<h5>mass in mask</h5>" in page


def test_a_level_guarded_against_spreadsheets_is_read_back(tmp_path: Path) -> None:
    run = build_run(tmp_path, lambda name: "=1+1" if name == "equal" else name)
    path = run / "results" / "summary.csv"
    path.write_text(path.read_text().replace("=1+1", "'=1+1"))
    page = write_report(run).read_text()
    assert page.count('<th scope="row">=1+1</th>') >= 2  # behaviour's row and the grid's
    assert "&#39;=1+1" not in page


def test_a_damaged_cell_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    next((tmp_path / "store").glob("*/*/view.webp")).write_bytes(b"other")
    with pytest.raises(AuditError, match="run the audit again"):
        write_report(run)


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [
        (0.816, (0, 1), "0.82"),
        (-0.001, (-1, 1), "0.00"),
        (-0.25, (-1, 1), "−0.25"),
        (1234.5, (0, math.inf), "1,234"),
        (12.34, (0, 100), "12.3"),
        (math.nan, (0, 1), "–"),
    ],
)
def test_numbers_are_written_alike(value: float, scale: tuple[float, float], text: str) -> None:
    assert number(value, scale) == text


def test_the_same_run_gives_the_same_bytes(report: Path) -> None:
    first = report.read_bytes()
    assert write_report(report.parent).read_bytes() == first
    assert list(report.parent.glob(".report*")) == []


def test_the_page_stays_small(report: Path) -> None:
    assert report.stat().st_size < 1_500_000  # 28 pictures, 56 heatmaps


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    (run / "summary.json").unlink()
    with pytest.raises(AuditError, match=re.escape("summary.json")):
        write_report(run)


def test_the_report_needs_no_torch() -> None:
    code = (
        "import sys, cnnaudit.report, cnnaudit.figures; "
        "sys.exit(bool({'torch', 'omegaconf', 'hydra'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
