"""The report of a small run with hostile names, read as text."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from cnnaudit.report.cells import interval, number, percentage, probability
from cnnaudit.report.checks import checks, outcomes, places_of, verdict
from cnnaudit.report.contrasts import _labelled, _ticks
from cnnaudit.report.page import SCRIPTS, _provenance
from cnnaudit.report.prediction import prediction, strongest
from cnnaudit.report.run import load
from cnnaudit.report.tiles import Tiles
from cnnaudit.report.writing import write_report
from cnnaudit.types import AuditError
from tests.processes import loads
from tests.sample_run import BEHAVIOUR, EVIL, EXACTNESS, OVERLAP, build_run


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the hostile run."""
    return write_report(build_run(tmp_path_factory.mktemp("hostile")))


@pytest.fixture(scope="module")
def page(report: Path) -> str:
    return report.read_text()


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with ordinary names, complete."""
    return build_run(tmp_path_factory.mktemp("plain"), str, "COMPLETE")


@pytest.fixture(scope="module")
def plain(plain_run: Path) -> str:
    return write_report(plain_run).read_text()


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


def words(page: str) -> str:
    """Return the text of a page, one space between the words and between the elements."""
    return " ".join(read(page.replace("<", " <")).text.split())


def test_the_sections_come_in_their_order(page: str) -> None:
    order = [
        "findings",
        "checks",
        "contrasts",
        "matrix",
        "numbers",
        "agreement",
        "randomisation",
        "heatmaps",
        "received",
        "regions",
        "layers",
        "worst",
        "provenance",
    ]
    found = [attributes.get("id") for _, attributes in read(page).elements]
    assert [name for name in found if name in order] == order


def test_incomplete_is_said_before_anything_else(page: str) -> None:
    body = read(page.split("</head>")[1]).text
    assert body.index("INCOMPLETE") < body.index("CNN audit")
    assert "1 number of 153" in body
    assert re.search(r"<title>INCOMPLETE", page)


def test_a_complete_run_raises_no_alarm(tmp_path: Path) -> None:
    page = write_report(build_run(tmp_path, str, "COMPLETE")).read_text()
    assert "INCOMPLETE" not in page
    assert 'role="alert"' not in page
    assert "Nothing failed" in page


def told(run: Path, technique: str, metric: str = OVERLAP) -> dict[str, str]:
    about = {"model": "perception", "image_set": "lighting", "metric": metric}
    return {**about, "technique": technique, "text": f"{metric} of {technique or 'answers'}."}


def findings_of(run: Path, findings: list[dict[str, str]]) -> tuple[list[str], list[str], str]:
    """Return the sentences that are shown, those that are folded, and what the fold says."""
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "findings": findings}))
    section = write_report(run).read_text().split('<section id="findings"')[1].split("</section>")
    shown, _, folded = section[0].partition("<details")
    sentences = [[one["text"] for one in findings if one["text"] in words(part)]
                 for part in (shown, folded)]  # fmt: skip
    return sentences[0], sentences[1], "".join(re.findall(r"<summary>(.*?)</summary>", folded))


def test_the_few_findings_that_matter_come_first_and_none_is_lost(tmp_path: Path) -> None:
    run = build_run(tmp_path, str, "COMPLETE")
    techniques = [f"technique_{n}" for n in range(6)]
    findings = [told(run, "", "answer"), told(run, "", "alarm")]
    findings += [told(run, one) for one in [*techniques, "saliency"]]
    shown, folded, count = findings_of(run, findings)
    # Checks judge saliency, which is told last.
    assert shown == ["answer of answers.", "alarm of answers.", "mass_in_mask of saliency."]
    assert folded == [f"mass_in_mask of {one}." for one in techniques]
    assert count == "6 more findings"


def test_few_findings_are_not_folded(tmp_path: Path) -> None:
    run = build_run(tmp_path, str, "COMPLETE")
    findings = [told(run, f"technique_{n}") for n in range(6)]
    assert findings_of(run, findings)[1:] == ([], "")


def test_a_run_without_any_number_says_so_and_folds_its_empty_rows(tmp_path: Path) -> None:
    run = build_run(tmp_path, str, "COMPLETE", judged=False)
    summary = json.loads((run / "summary.json").read_text()) | {"findings": []}
    said = "No picture could be scored; what the heatmaps show is below. why"
    for counts, scored in ((summary["counts"], True), ({"ineligible": 80}, False)):
        (run / "summary.json").write_text(json.dumps({**summary, "counts": counts}))
        page = write_report(run).read_text()
        assert (said in words(page)) != scored
        assert ("its numbers are below" in words(page)) == scored
        assert bool(re.search(r"<details[^>]*><summary>[^<]*rows", page)) != scored


@pytest.mark.parametrize(
    ("verdict", "checks", "says"),
    [
        ("FAIL", ["PASS", "FAIL", "FAIL"], "2 of 3 checks failed; 1 passed."),
        ("NOT MEASURED", ["NOT MEASURED"], "The one check could not be measured."),
        ("INCONCLUSIVE", ["PASS", "INCONCLUSIVE"], "1 of 2 checks stayed undecided; 1 passed."),
        ("PASS", ["PASS", "PASS"], "All 2 checks passed."),
    ],
)
def test_the_verdict_stands_at_the_title(
    tmp_path: Path, verdict: str, checks: list[str], says: str
) -> None:
    run = build_run(tmp_path, str, "COMPLETE")
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"verdict": verdict, "checks": {str(n): one for n, one in enumerate(checks)}}
    (run / "summary.json").write_text(json.dumps(summary))
    page = write_report(run).read_text()
    head = " ".join(read(page.split("<header")[1].split("</header>")[0]).text.split())
    assert head.index("robot") < head.index(f"{verdict} {says}") < head.index("It gives")
    assert f"<title>{verdict}: robot" in page


def test_an_incomplete_run_still_names_what_its_checks_found(page: str) -> None:
    banner = page.split('role="alert"')[1].split("</div>")[0]
    assert "1 of 4 checks failed; 1 could not be measured; 2 stayed undecided." in banner


def test_a_run_that_declares_nothing_has_no_verdict_and_no_empty_sections(tmp_path: Path) -> None:
    page = write_report(build_run(tmp_path, str, "COMPLETE", judged=False)).read_text()
    found = {attributes.get("id") for _, attributes in read(page).elements}
    assert not {"checks", "contrasts"} & found
    assert '<span class="status">complete</span>' in page
    assert "<title>robot" in page


def test_judgements_stand_with_their_evidence_the_worst_first(plain: str) -> None:
    section = plain.split('<section id="checks">')[1].split('<section id="contrasts">')[0]
    text = re.sub(r"[ \n]+", " ", read(section.replace("</t", " </t")).text)
    assert "FAIL 0.00 [−0.04, 0.05] value ≥ 0.5 overhead equal 24 <\u202f0.001" in text
    assert "NOT MEASURED 0.40 [0.36, 0.44] value ≥ 0.5 2 – 2 units, at least 10 are needed" in text
    order = [text.index(name) for name in ("sees the obstacle", "unmeasured", "looks at it")]
    assert order == sorted(order)
    assert section.index(">FAIL<") < section.index(">PASS<")
    assert "10 more judgements: 10 PASS" in text
    assert "a passes, b fails" in text
    folded = section.split("<details")[1].split("</details>")[0]
    assert ">FAIL<" not in folded
    assert "lead over edges ≥ 0.5" in folded


def test_every_judgement_has_the_numbers_of_its_row(plain_run: Path, plain: str) -> None:
    rows = pd.read_csv(plain_run / "results" / "checks.csv")
    expected = [interval(one.value, one.low, one.high, (0, 1)) for one in rows.itertuples()]
    assert sorted(re.findall(r'<td class="measured">(.*?)</td>', plain)) == sorted(expected)


def test_every_contrast_is_written_and_drawn(plain_run: Path, plain: str) -> None:
    section = plain.split('<section id="contrasts">')[1].split('<section id="matrix">')[0]
    rows = pd.read_csv(plain_run / "results" / "contrasts.csv")
    known = rows.dropna(subset=["difference"])
    written = re.findall(r'<td class="effect">(.*?)</td>', section)
    expected = [interval(one.difference, one.low, one.high, (0, 1)) for one in known.itertuples()]
    assert sorted(one for one in written if one != "–") == sorted(expected)
    assert len(written) == len(rows)
    assert section.count("<circle") == len(known)
    assert section.count('class="mark hollow"') == (known["status"] != "ok").sum()
    assert section.count("not measured</td>") == (rows["status"] != "ok").sum()
    shown, folded = section.split("<details")
    titles = re.compile("<h4>(.*?)</h4>")
    assert titles.findall(shown) == ["probability", "mass in mask"]
    assert titles.findall(folded) == ["iou"]


def test_a_mark_lies_where_its_number_says(plain: str) -> None:
    """The axis of behaviour runs from −1 to 0.5 in the sample: −0.816 lies at 0.184 / 1.5."""
    [first, *_] = re.findall(r'<g class="mark">.*?</g>', plain)
    assert f'<circle cx="{100 * 0.184 / 1.5:.2f}%"' in first
    assert f'<line x1="{100 * 0.114 / 1.5:.2f}%"' in first
    assert '<line class="zero" x1="66.67%" x2="66.67%"' in plain


def test_drawings_are_well_formed_and_stand_beside_their_numbers(page: str) -> None:
    for drawing in re.findall(r"<svg.*?</svg>", page, re.S):
        ElementTree.fromstring(drawing)
    plots = re.findall(r'<svg class="forest".*?</svg>', page, re.S)
    assert len(plots) == page.count('<td class="effect">') > 0  # each beside what it draws
    assert all('aria-hidden="true"' in one for one in plots)


def test_names_are_text_and_never_elements(page: str) -> None:
    reader = read(page)
    scripts = [attributes.get("type") for tag, attributes in reader.elements if tag == "script"]
    assert scripts == ["application/json", *[None] * len(SCRIPTS)]
    for tag, attributes in reader.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert attributes.get("href", "#")[:1] == "#"
        assert re.match(r"data:image/(webp|jpeg);base64,|$", attributes.get("src") or "")
    assert EVIL in reader.text
    assert "49javascript" not in reader.text


def test_the_policy_names_the_hashes_of_what_is_inlined(page: str) -> None:
    [policy] = [
        attributes["content"] or ""
        for tag, attributes in read(page).elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    allowed = dict(one.split(" ", 1) for one in policy.split("; "))
    for tag, part in (("style", page.split("</head>")[0]), ("script", page.split("</head>")[1])):
        inlined = re.findall(rf"<{tag}>(.*?)</{tag}>", part, re.S)
        digests = [hashlib.sha256(one.encode()).digest() for one in inlined]
        named = [f"'sha256-{base64.b64encode(one).decode()}'" for one in digests]
        assert allowed[f"{tag}-src"].split() == named
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_numbers_stand_in_the_tables(tmp_path: Path) -> None:
    text = " ".join(read(write_report(build_run(tmp_path, str)).read_text()).text.split())
    assert "0.12" in text
    assert "lift +0.79" in text  # (0.8 − 0.05) / 0.95
    assert "50 % dead" in text  # one of two scenes, equal colour, overhead
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


def gallery(page: str, heading: str) -> list[str]:
    """Return the panels below each heading of that text."""
    found = page.split(f"<summary>{heading}</summary>")[1:]
    return [panel for part in found for panel in part.split("</details>")[0].split("<h4>")[1:]]


def columns(panel: str) -> list[str]:
    return re.findall(r'<th scope="col">(.*?)</th>', panel)


def rows(panel: str) -> list[str]:
    return re.findall(r'<tr><th scope="row">(.*?)</th>', panel)


def test_a_grid_across_models_has_a_panel_per_technique(plain: str) -> None:
    panels = gallery(plain, "colour × model")
    assert [panel.split("<")[0].strip() for panel in panels] == ["saliency", "grad_cam"]
    for panel in panels:
        assert columns(panel) == ["picture", "perception", "classifier, untrained"]
        assert rows(panel) == ["equal", "different"]
        assert panel.count("<img") == 2 * 3 + 1  # and the scale
        assert panel.count("answers cat, 0.70") == 2  # the other model has no classes


def test_a_grid_of_images_and_models_has_a_panel_per_target(plain: str) -> None:
    for technique in ("saliency", "grad_cam"):
        panels = gallery(plain, f"image × model: {technique}")
        titles = [panel.split("<")[0].strip() for panel in panels]
        assert titles == [f"{technique}, all", f"{technique}, tabby"]
        assert all(rows(panel) == ["cat", "dog"] for panel in panels)
    assert panels[-1].count("failed: out of memory") == 2


def test_a_grid_of_targets_names_them(plain: str) -> None:
    panels = gallery(plain, "image × target")
    assert len(panels) == 2 * 2  # models by techniques
    assert all(columns(panel) == ["picture", "all", "tabby"] for panel in panels)


def test_a_grid_without_pictures_has_a_gallery_for_each(plain: str) -> None:
    for item in ("cat", "dog"):
        panels = gallery(plain, f"model × target: {item}")
        assert len(panels) == 2
        for panel in panels:
            assert rows(panel) == ["perception", "classifier, untrained"]
            assert columns(panel) == ["picture", "all", "tabby"]


def test_a_grid_of_techniques_has_a_panel_per_target(plain: str) -> None:
    panels = gallery(plain, "image × technique")
    assert [panel.split("<")[0].strip() for panel in panels] == ["all", "tabby"] * 2
    assert all(columns(panel) == ["picture", "saliency", "grad_cam"] for panel in panels)


def test_pictures_can_run_across(tmp_path: Path) -> None:
    run = build_run(tmp_path, str)
    manifest = json.loads((run / "manifest.json").read_text())
    declared = {"rows": "model", "cols": "image", "levels": []}
    manifest["catalogue"]["image_sets"]["photos"]["grids"] = [declared]
    (run / "manifest.json").write_text(json.dumps(manifest))
    [panel, *_] = gallery(write_report(run).read_text(), "model × image: saliency")
    assert columns(panel) == ["cat", "dog"]
    assert rows(panel) == ["picture", "perception", "classifier, untrained"]


def test_what_does_not_fit_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnaudit.report.facets.MOST_TILES", 1)
    page = write_report(build_run(tmp_path, str)).read_text()
    assert all(rows(panel) == ["cat"] for panel in gallery(page, "image × model: saliency"))
    assert page.count("1 more exemplar picture left out to keep this page") == 3  # across, each


def test_what_the_run_left_out_stands_beside_the_gaps(plain: str) -> None:
    section = plain.split('<section id="worst">')[1]
    told = section.split("<h3>Left out</h3>")[1].split("</ul>")[0]
    assert "<li>check sees: it is about tanks, which is not chosen</li>" in told


def test_cut_outs_are_shown_per_target(plain: str) -> None:
    section = plain.split('<section id="regions">')[1].split('<section id="layers">')[0]
    photos = section.split("<h3>photos")[1]
    titles = [title.strip() for title in re.findall(r"<h4>(.*?)</h4>", photos)]
    assert titles == ["Cut-outs: all", "Cut-outs: tabby"]
    assert columns(photos)[1:3] == ["saliency", "grad_cam"]
    assert "Cut-outs: " not in section.split("<h3>photos")[0]


def test_channels_of_several_models_stand_beside_each_other(plain: str) -> None:
    section = plain.split('<section id="layers">')[1].split('<section id="worst">')[0]
    photos = section.split("<h3>activations <")[2]
    heads = ["picture", "perception · encoder.0", "classifier, untrained · encoder.0"]
    assert columns(photos)[:3] == heads
    assert rows(photos)[:2] == ["cat", "dog"]
    assert "The first 16 of 64 channels of encoder.0 of perception for cat" in photos
    assert "similarity to the input 0.80" in photos
    assert "perception encoder.0 0.80" in words(photos)  # the mean over all images
    lighting = section.split("<h3>activations <")[1]
    assert len(rows(lighting.split("The other pictures")[0])) == 3
    assert len(rows(lighting.split("The other pictures")[1])) == 9


def test_filters_stand_with_what_a_random_start_has(plain: str) -> None:
    section = plain.split('<section class="subject filters">')[1].split("</section>")[0]
    text = words(section)
    assert "32 filters of 5 × 5 over 3 inputs; the first 24 are shown" in text
    assert "smoothness 0.61 of a random start 0.00" in text
    assert "not applicable: no filters" in text


def test_filters_of_one_weight_have_no_smoothness(tmp_path: Path) -> None:
    run = build_run(tmp_path, str)
    path = run / "results" / "illustrations.json"
    illustrations = json.loads(path.read_text())
    illustrations["kernels"][0] |= {"smoothness": None, "untrained": None, "inputs": 64}
    path.write_text(json.dumps(illustrations))
    text = words(write_report(run).read_text())
    assert "smoothness – (a filter of one weight has no neighbours)" in text
    assert "of each the input that weighs most" in text


def matrix_rows(page: str) -> list[list[str]]:
    """Return the texts of the matrix, row by row."""
    table = page.split('id="matrix-table">')[1].split("</table>")[0].split("<tbody>")[1]
    lines = [one.split("</tr>")[0] for one in table.split("<tr ")[1:]]
    return [[words(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", one, re.S)] for one in lines]


def test_the_matrix_has_every_metric_technique_image_set_and_model(plain: str) -> None:
    found = [row[:5] for row in matrix_rows(plain)]
    assert len(found) == len({tuple(row) for row in found})
    by = Counter((metric, technique.split()[0]) for metric, technique, *_ in found)
    # On the photos heatmaps are of two targets.
    assert by == {
        ("probability", "behaviour"): 4,
        ("mass in mask", "saliency"): 6,
        ("mass in mask", "grad_cam"): 6,
        ("completeness error", "saliency"): 6,
        ("similarity to the input", "activations"): 4,
    }
    assert [row[2:4] for row in found[:2]] == [
        ["lighting", "perception"],
        ["lighting", "classifier, untrained"],
    ]


def test_the_matrix_has_the_numbers_of_the_summary(plain_run: Path, plain: str) -> None:
    heads = re.findall(r'<th scope="col" data-sorts.*?>(.*?)</th>', plain)
    assert heads[5:] == ["value", "chance", "lift", "dead", "units", "images", "without a number"]
    means = pd.read_csv(plain_run / "results" / "summary.csv", keep_default_na=False)
    pooled = means[(means[["colour", "light", "presence"]] == "*").all(axis=1)]
    values = [row[heads.index("value")] for row in matrix_rows(plain)]
    expected = [
        number(float(one.mean), (0, math.inf) if one.metric == EXACTNESS else (0, 1))
        for one in pooled.itertuples()
    ]
    assert sorted(values) == sorted(expected)
    [row] = [
        row
        for row in matrix_rows(plain)
        if row[:4] == ["mass in mask", "grad_cam encoder.7", "lighting", "perception"]
    ]
    # A mean over units; of 12 images the four of a mere shadow have no mask, one of 8 is dead.
    assert row[5:] == [
        *("0.45", "0.05", "+0.42", "12 %", "2 scenes", "8 of 12"),
        "4 not eligible: no region",
    ]


def test_the_matrix_says_how_many_numbers_are_not_there_and_why(
    plain_run: Path, plain: str
) -> None:
    count = pd.read_parquet(plain_run / "results" / "rows.parquet")["status"].value_counts()
    text = words(plain.split('<dl class="tally">')[1].split("</dl>")[0])
    assert text == (
        f"with a number {count['ok']} not eligible {count['ineligible']} no region "
        "undefined 0 not applicable 0 failed 0"
    )
    assert "26 rows: 22 on every image, 4 on some of them." in plain


def test_reasons_are_counted_by_what_they_are_about(tmp_path: Path) -> None:
    run = build_run(tmp_path, str, "COMPLETE")
    path = run / "results" / "rows.parquet"
    rows = pd.read_parquet(path)
    of = (rows["technique"] == "saliency") & (rows["metric"] == OVERLAP)
    of &= (rows["image_set"] == "photos") & (rows["target"] == "tabby")
    rows.loc[of, ["status", "reason"]] = ["failed", "out_of_memory"]
    rows.to_parquet(path)
    summary = pd.read_csv(run / "results" / "summary.csv", keep_default_na=False)
    same = (summary["technique"] == "saliency") & (summary["metric"] == OVERLAP)
    same &= (summary["image_set"] == "photos") & (summary["target"] == "tabby")
    summary.loc[same, ["mean", "scored", "units", "failed"]] = ["", 0, 0, 2]
    summary.to_csv(run / "results" / "summary.csv", index=False)
    found = [row for row in matrix_rows(write_report(run).read_text()) if "failed" in row[-1]]
    assert [row[4:6] for row in found] == [["tabby", "–"]] * 2
    assert {row[-1] for row in found} == {"2 failed: out of memory"}


def test_a_scale_without_an_end_has_no_bar(plain: str) -> None:
    lines = plain.split('id="matrix-table">')[1].split("</table>")[0].split("<tr ")[1:]
    errors = [one for one in lines if "completeness error" in one]
    assert errors
    assert not any('class="bar"' in one for one in errors)
    assert all('class="bar"' in one for one in lines if ">mass in mask<" in one)


def test_a_long_matrix_is_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnaudit.report.matrix.OPEN_ROWS", 1)
    section = write_report(build_run(tmp_path, str)).read_text().split('<section id="matrix">')[1]
    assert re.search(r"<summary>26 rows: .*?</summary>\s*<div class=\"scroll pane\"", section)


def test_agreement_is_pairs_in_columns_or_a_matrix(plain: str) -> None:
    section = plain.split('<section id="agreement">')[1].split('<section id="randomisation">')[0]
    targets, levels = (section.split("<h3>")[n] for n in (1, 2))
    text = words(targets)
    assert "technique model all and tabby saliency perception 0.91 [0.88, 0.95]" in text
    assert "Between targets on photos" in text
    text = words(levels)
    assert "Within the pairs of colour on lighting saliency, perception, all light" in text
    assert "left – undefined 2 scenes behind every number" in text
    assert "undefined: no pair has two heatmaps that vary." in text


def test_many_names_make_a_matrix_of_half(tmp_path: Path) -> None:
    run = build_run(tmp_path, str)
    path = run / "results" / "agreement.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    first = table[table["between"] == "target"].head(1)
    names = "abcde"
    pairs = [first.assign(first=a, second=b) for n, a in enumerate(names) for b in names[n + 1 :]]
    pd.concat(pairs).to_csv(path, index=False)
    section = write_report(run).read_text().split('<section id="agreement">')[1]
    table = section.split("<tbody>")[1].split("</tbody>")[0]
    assert table.count("<tr>") == 4
    assert table.count("0.91") == 4 + 3 + 2 + 1
    assert re.findall(r'<th scope="row">(.*?)</th>', table) == ["a", "b", "c", "d"]


def test_without_agreement_there_is_no_section(tmp_path: Path) -> None:
    run = build_run(tmp_path, str)
    path = run / "results" / "agreement.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    page = write_report(run).read_text()
    assert 'id="agreement"' not in page
    assert 'href="#agreement"' not in page


def test_a_contrast_of_own_answers_says_that_they_may_differ(tmp_path: Path) -> None:
    run = build_run(tmp_path, str)
    note = "the two sides may explain different classes."
    assert note not in words(write_report(run).read_text())
    path = run / "results" / "contrasts.csv"
    text = path.read_text()
    assert ",all," in text
    path.write_text(text.replace(",all,", ",predicted,"))
    table = pd.read_csv(path)
    measured = table[table.target == "predicted"].metric.unique()  # behaviour has no target
    assert words(write_report(run).read_text()).count(note) == len(measured) > 0


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (-1.0003, 1.0, [-1.0, -0.5, 0.0, 0.5, 1.0]),  # of probabilities: an axis to −2 is none
        (-1.02, 1.0, [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0]),
        (-0.03, 0.7, [-0.2, 0.0, 0.2, 0.4, 0.6, 0.8]),
    ],
)
def test_an_axis_ends_where_its_intervals_do(low: float, high: float, ticks: list[float]) -> None:
    one = {"difference": (low + high) / 2, "low": low, "high": high}
    assert _ticks([one]) == pytest.approx(ticks)


def test_every_second_label_of_an_axis_is_minor_but_never_zero() -> None:
    ticks = _labelled([-0.6, -0.4, -0.2, 0.0, 0.2])
    assert [(one.label, one.minor) for one in ticks] == [
        ("−0.6", True), ("−0.4", False), ("−0.2", True), ("0", False), ("0.2", True)
    ]  # fmt: skip


def test_a_gap_names_techniques_of_the_same_metrics_together(tmp_path: Path) -> None:
    run = build_run(tmp_path, str)
    summary = json.loads((run / "summary.json").read_text())
    [gap] = summary["gaps"]
    gap["reason"] = "no_such_region"
    both = ["iou", OVERLAP]
    gap["missing"] = {"": [BEHAVIOUR], "saliency": both, "grad_cam": both}
    (run / "summary.json").write_text(json.dumps(summary))
    text = read(write_report(run).read_text()).text
    assert text.count("no such region") == 1
    assert "probability; saliency, grad_cam: iou, mass in mask" in text


def test_many_failures_are_told_once_for_all_models_and_the_rest_is_folded(tmp_path: Path) -> None:
    run = build_run(tmp_path, str)
    path = run / "results" / "summary.csv"
    means = pd.read_csv(path, dtype=str, keep_default_na=False)
    another = means.assign(model=means["model"].replace("perception", "another"))
    pd.concat([means, another]).to_csv(path, index=False)
    own = means[(means["model"] == "perception") & (means["image_set"] == "lighting")]
    every = own.groupby("technique")["metric"].unique().map(list).to_dict()
    summary = json.loads((run / "summary.json").read_text())
    summary["failures"] = [
        {
            "model": model, "image_set": "lighting", "status": "failed", "items": 1,
            "reason": f"{number}.png is torn", "examples": [f"{number}"],
            "missing": every if number else {"": [BEHAVIOUR]},
        }
        for model in ("another", "perception")
        for number in range(14)
    ]  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    page = write_report(run).read_text()
    shown, _, rest = page.partition("2 more reasons</summary>")
    assert shown.count(".png is torn") == 12
    assert rest.count(".png is torn") == 2
    assert page.count("<td>another, perception on lighting</td>") == 14
    assert page.count(">everything</td>") == 13


def test_a_metric_without_any_value_stands_in_the_matrix_alone(tmp_path: Path) -> None:
    run = build_run(tmp_path, str)
    path = run / "results" / "summary.csv"
    means = pd.read_csv(path, dtype=str, keep_default_na=False)
    means.loc[means["metric"] == BEHAVIOUR, "mean"] = ""
    means.to_csv(path, index=False)
    page = write_report(run).read_text()
    assert matrix_rows(page)[0][:5] == ["probability", "behaviour", "lighting", "perception", "–"]
    assert "<h5>probability</h5>" not in page
    assert "<h5>mass in mask</h5>" in page


def test_a_level_guarded_against_spreadsheets_is_read_back(tmp_path: Path) -> None:
    run = build_run(tmp_path, lambda name: "=1+1" if name == "equal" else name)
    path = run / "results" / "summary.csv"
    path.write_text(path.read_text().replace("=1+1", "'=1+1"))
    page = write_report(run).read_text()
    assert page.count('<th scope="row">=1+1</th>') >= 2  # behaviour's row and the grid's
    assert "&#39;=1+1" not in page


@pytest.mark.parametrize("name", ["config.yaml", "report", "results/summary.csv"])
def test_a_run_that_holds_a_link_is_not_read_and_nothing_is_written(
    name: str, tmp_path: Path
) -> None:
    """Somebody may have sent it: the page would hold the file, or be written over it."""
    run = build_run(tmp_path)
    (run / "report.html").unlink(missing_ok=True)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(tmp_path)
    with pytest.raises(AuditError, match=f"{name} is a link, which may lead anywhere"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_config_of_aliases_is_not_unfolded(tmp_path: Path) -> None:
    """A comparison would go through all of what a few lines stand for."""
    run = replace(load(build_run(tmp_path)), config="a: &a {x: 1}\nb: [*a, *a]\n")
    with pytest.raises(AuditError, match=r"config.yaml has an alias \(\*name\), which no run"):
        run.declared  # noqa: B018


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
        (999.6, (0, math.inf), "1,000"),
        (-999.6, (-math.inf, math.inf), "−1,000"),
        (-0.0, (-math.inf, math.inf), "0"),
        (12.34, (0, 100), "12.3"),
        (math.nan, (0, 1), "–"),
    ],
)
def test_numbers_are_written_alike(value: float, scale: tuple[float, float], text: str) -> None:
    assert number(value, scale) == text


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((-0.25, -0.33, -0.18), "−0.25 [−0.33, −0.18]"),
        ((0.49870, 0.49864, 0.49876), "0.4987 [0.4986, 0.4988]"),
        ((-0.001, -0.04, 0.04), "0.00 [−0.04, 0.04]"),
        ((0.5, math.nan, math.nan), "0.50"),
        ((math.nan, math.nan, math.nan), "–"),
    ],
)
def test_intervals_are_written_as_fine_as_they_are(
    ends: tuple[float, float, float], text: str
) -> None:
    assert interval(*ends, (0, 1)) == text


def test_some_are_not_said_to_be_none_nor_most_to_be_all() -> None:
    shares = (0.0, 1 / 200, 0.006, 0.994, 383 / 384, 1.0)
    said = ["0 %", "< 1 %", "1 %", "99 %", "> 99 %", "100 %"]
    assert [percentage(share).replace("\u00a0", " ") for share in shares] == said


def test_provenance_has_numbers_as_the_manifest_has_them() -> None:
    about = {"mean": [0.4914, 0.4465, 0.5], "bound": 0.0001, "share": 0.1 + 0.2, "seed": 0}
    (_, lines), *_ = _provenance({"preprocessing": about})
    told = [("mean", "0.4914, 0.4465, 0.5"), ("bound", "0.0001"), ("share", "0.3"), ("seed", "0")]
    assert lines == told


def test_a_small_p_is_never_zero() -> None:
    assert [probability(p) for p in (1.5e-5, 0.0421, math.nan)] == ["<\u202f0.001", "0.042", "–"]


def test_the_same_run_gives_the_same_bytes(report: Path) -> None:
    first = report.read_bytes()
    assert write_report(report.parent).read_bytes() == first
    assert list(report.parent.glob(".report*")) == []


def test_the_page_stays_small(report: Path) -> None:
    assert report.stat().st_size < 2_500_000  # 28 pictures, 64 heatmaps, some in two grids


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    (run / "summary.json").unlink()
    with pytest.raises(AuditError, match=re.escape("summary.json")):
        write_report(run)


def test_the_report_needs_no_torch() -> None:
    code = "import cnnaudit.report, cnnaudit.figures"
    assert not loads({"torch", "omegaconf", "hydra"}, code)


def test_a_folder_has_a_page_per_model_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "report": "folder"}))
    index = write_report(run)
    assert index == run / "report" / "index.html"
    names = [f"model-{number}.html" for number, _ in enumerate(manifest["catalogue"]["models"], 1)]
    pages = {path.name: read(path.read_text()) for path in index.parent.iterdir()}
    assert pages.keys() == {"index.html", *names}
    for reader in pages.values():
        ids = {attributes.get("id") for _, attributes in reader.elements}
        hrefs = [a["href"] or "" for tag, a in reader.elements if tag == "a"]
        assert all(href.removeprefix("#") in ids for href in hrefs if href.startswith("#"))
        assert {href for href in hrefs if not href.startswith("#")} <= pages.keys()
    own = [[a.get("data-look") for _, a in pages[name].elements] for name in names]
    assert all(any(look and "." in look for look in looks) for looks in own)
    assert set(names) <= {a.get("href") for _, a in pages["index.html"].elements}
    sections = {name: {a.get("id") for _, a in one.elements} for name, one in pages.items()}
    assert "checks" in sections["index.html"]
    assert "checks" not in sections[names[0]]


def test_a_page_too_large_to_be_mailed_shows_fewer_exemplars_and_says_so(
    plain_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown() -> tuple[int, int, str]:
        path = write_report(plain_run)
        reader = read(path.read_text())
        tiles = [a for tag, a in reader.elements if tag == "figure" and a.get("class") == "tile"]
        return path.stat().st_size, len(tiles), reader.text

    whole, every, text = shown()
    budget = int(whole * 0.8)
    monkeypatch.setattr("cnnaudit.report.writing.MOST_BYTES", budget)
    size, fewer, fewer_text = shown()
    assert size <= budget
    assert fewer < every
    told = re.compile(r"(\d+) more exemplar pictures? left out to keep this page small")
    assert sum(map(int, told.findall(fewer_text))) > sum(map(int, told.findall(text)))
    monkeypatch.setattr("cnnaudit.report.writing.MOST_BYTES", 1000)
    _, fewest, _ = shown()
    assert 0 < fewest < fewer  # one exemplar stays


def test_a_regressions_answer_is_told_in_numbers() -> None:
    axes = [{"name": "side", "labels": ["left", "right"]}]
    about = {"task": "regression", "axes": axes, "values": [2.0, -2.0], "truth": [3.0, -1.25]}
    shown = prediction(about, "a")
    assert [(bar.label, bar.value, bar.width) for bar in shown.bars] == [
        ("left", "2", "80.0"),
        ("right", "−2", "0.0"),
    ]
    assert shown.truth == "3, −1.25"
    alone = prediction({**about, "axes": [], "values": [4.5], "truth": "4"}, "a")
    assert [(bar.label, bar.value) for bar in alone.bars] == [("output 0", "4.5")]
    assert alone.truth == "4"
    large = prediction({**about, "values": [1191.4, -1e3], "truth": None}, "a")
    assert [bar.value for bar in large.bars] == ["1,191", "−1,000"]


@pytest.mark.parametrize(
    ("task", "values", "bars"),
    [
        ("regression", [math.nan, 4.0], [("–", "0.0"), ("4", "100.0")]),
        ("regression", [-math.inf, -2.0], [("–", "0.0"), ("−2", "0.0")]),
        ("classification", [math.nan, math.nan], [("–", "0.0"), ("–", "0.0")]),
    ],
)
def test_an_answer_that_is_no_number_has_no_bar(
    task: str, values: list[float], bars: list[tuple[str, str]]
) -> None:
    about = {"task": task, "axes": [], "values": values, "truth": None}
    assert [(bar.value, bar.width) for bar in prediction(about, "a").bars] == bars
    assert strongest(about) is None


@pytest.mark.parametrize(
    ("truth", "true"),
    [("1", "1"), ("CAT", "cat"), ("2", "cat"), ("bird", None)],  # as class_index reads a truth
)
def test_one_answer_at_most_is_marked_as_the_truth(truth: str, true: str | None) -> None:
    about = {"task": "classification", "labels": ["1", "0", "cat"], "values": [0.5, 0.3, 0.2]}
    bars = prediction({**about, "truth": truth}, "a").bars
    assert [bar.label for bar in bars if bar.truth] == [true] * (true is not None)


@pytest.mark.parametrize("values", [[math.nan, 0.5], [math.nan, math.nan]])
def test_a_map_of_answers_that_are_no_numbers_is_drawn_in_silence(values: list[float]) -> None:
    about = {
        "task": "structured_regression",
        "axes": [{"name": "sensor", "labels": ["left", "right"]}],
        "values": values,
    }
    (shown,) = prediction(about, "a").maps
    assert shown[1].alt.endswith("values from 0 to 1")


def test_the_models_that_fail_are_named_first_and_so_is_what_they_fail(tmp_path: Path) -> None:
    run = load(build_run(tmp_path, str, "COMPLETE"))
    models = run.manifest["catalogue"]["models"]
    judged = tuple(
        {**run.judgements[0], "check": check, "model": model, "verdict": verdict}
        for model, verdicts in zip(models, ("PASS", "FAIL"), strict=False)
        for check, verdict in (("sees_the_obstacle", verdicts), ("looks_at_it", "PASS"))
    )
    failed, passed = outcomes(replace(run, judgements=judged))
    assert (failed.badge.text, failed.checks) == ("FAIL", (("check-1", "sees the obstacle"),))
    assert (passed.badge.text, passed.checks) == ("PASS", ())
    assert failed.model != passed.model


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (["FAIL", "FAIL"], "All 2 checks failed for at least one model."),
        (["FAIL", "PASS"], "1 of 2 checks failed for at least one model; 1 passed."),
        (["PASS", "PASS"], "All 2 checks passed."),
    ],
)
def test_a_check_that_one_of_several_models_fails_is_not_said_to_fail_for_all(
    tmp_path: Path, found: list[str], says: str
) -> None:
    run = load(build_run(tmp_path, str, "COMPLETE"))
    summary = {**run.summary, "verdict": found[0], "checks": dict(enumerate(found))}
    judged = tuple({**run.judgements[0], "model": model} for model in ("one", "another"))
    badge = verdict(replace(run, summary=summary, judgements=judged))
    assert badge is not None
    assert badge.says.startswith(says)


def test_what_all_judgements_share_is_named_by_its_factor(tmp_path: Path) -> None:
    run = load(build_run(tmp_path, str, "COMPLETE"))
    one = {**run.judgements[0], "within": "left", "level": "equal"}
    heads, shared, _ = places_of(run, [one, {**one, "model": "another"}])
    assert (heads, shared) == (("model",), "light left · colour equal")
    apart = {**one, "level": "equal − different"}
    heads, shared, _ = places_of(run, [apart, {**apart, "within": "overhead"}])
    assert (heads, shared) == (("light",), "perception · colour equal − different")


def test_one_model_alone_needs_no_name_and_no_line_where_it_passes(tmp_path: Path) -> None:
    run = load(build_run(tmp_path, str, "COMPLETE"))
    catalogue = run.manifest["catalogue"]
    models = {name: catalogue["models"][name] for name in ["perception"]}
    alone = replace(run, manifest={**run.manifest, "catalogue": {**catalogue, "models": models}})
    (found,) = outcomes(alone)
    assert (found.model, [title for _, title in found.checks]) == ("", ["sees the obstacle"])
    passing = tuple({**one, "verdict": "PASS"} for one in run.judgements)
    assert outcomes(replace(alone, judgements=passing)) == []
    many = tuple({**run.judgements[0], "check": str(n), "verdict": "FAIL"} for n in range(9))
    (found,) = outcomes(replace(alone, judgements=many))
    assert (len(found.checks), found.more) == (6, 3)


@pytest.mark.parametrize(("bound", "worst"), [("≥ −0.1", "−0.90"), ("≤ 0.1", "0.90")])
def test_what_fails_is_never_folded_and_the_furthest_past_its_bound_is_first(
    tmp_path: Path, bound: str, worst: str
) -> None:
    run = load(build_run(tmp_path, str, "COMPLETE"))
    failed = {**run.judgements[0], "bound": bound, "verdict": "FAIL", "p": 1e-5}
    values = [sign * n / 10 for n in range(1, 10) for sign in (-1, 1)]
    broken = [{**failed, "value": value} for value in values]
    refused = {**failed, "bound": "", "verdict": "NOT MEASURED", "p": math.nan, "value": math.nan}
    passed = {**failed, "verdict": "PASS", "p": 1.0}
    check = next(
        one
        for one in checks(replace(run, judgements=(refused, passed, *broken)))
        if one.title == "sees the obstacle"
    )
    assert [line.badge.text for line in check.lines] == ["FAIL"] * len(broken)
    assert check.lines[0].measured.startswith(worst)
    assert [line.badge.text for line in check.folded] == ["NOT MEASURED", "PASS"]


def test_the_worst_case_of_a_target_is_its_own(tmp_path: Path) -> None:
    """Items are marked per technique, and another target of it may have another worst one."""
    folder = build_run(tmp_path, str, "COMPLETE")
    rows = pd.read_parquet(folder / "results" / "rows.parquet")
    higher = (rows["item"] == "s1_equal_left_obstacle") & (rows["technique"] == "saliency")
    rows.loc[higher, "lift"] = 0.9
    rows.to_parquet(folder / "results" / "rows.parquet")
    run = load(folder)
    tiles = Tiles(run, run.subjects()[0])
    (saliency, *_) = (one for one in tiles.variants if one.technique == "saliency")
    assert [one["item"] for one in tiles.worst(saliency)] == ["s2_equal_left_obstacle"]


def test_references_are_told_apart_and_have_no_worst_cases(tmp_path: Path) -> None:
    folder = build_run(tmp_path, str, "COMPLETE")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["catalogue"]["techniques"]["saliency"]["reference"] = True
    (folder / "manifest.json").write_text(json.dumps(manifest))
    page = write_report(folder).read_text()
    contrasts, rest = page.split('<section id="contrasts">')[1].split('<section id="matrix">')
    marked = re.findall(r'title="([^"]*)" class="reference"', contrasts)
    assert set(marked) == {"saliency: reference, sees no network"}
    assert "in italics: references" in contrasts
    assert "reference: sees no network" in rest.split('<section id="heatmaps">')[1]
    worst = rest.split('<section id="worst">')[1]
    assert "Worst cases" in worst
    assert "saliency over" not in worst
