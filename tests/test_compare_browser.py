"""The page of two runs in a real browser, with the network off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cnnaudit.comparing import compare
from cnnaudit.comparing.findings import find_changes
from cnnaudit.comparing.page import write_comparison
from cnnaudit.report.run import load
from tests import test_report_browser as of_report
from tests.sample_run import build_run, hostile
from tests.test_report_browser import _luminance, opened

browser = of_report.browser  # the fixture


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparison of two hostile runs, marked since they do not say what their inputs are."""
    folder = tmp_path_factory.mktemp("compared")
    first, second = (load(build_run(folder / name, hostile)) for name in ("first", "second"))
    found = compare(first, second, force=True)
    return write_comparison(found, find_changes(found), folder / "page.html")[0]


def test_it_opens_from_a_file_and_runs_nothing(browser: Any, page_file: Path) -> None:
    page, complaints = opened(browser, page_file)
    assert complaints == []
    assert page.evaluate("window.ran") is None
    assert page.locator("script").count() == 0
    assert page.evaluate("[...document.images].every(one => one.naturalWidth > 0)")
    assert page.locator("img.shot").count() > 20


@pytest.mark.parametrize("width", [380, 768, 1280])
def test_the_page_itself_never_scrolls_sideways(browser: Any, page_file: Path, width: int) -> None:
    page, _ = opened(browser, page_file, width)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_link_leads_to_what_it_names(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file)
    missing = (
        "[...document.querySelectorAll('a[href]')].map(one => one.getAttribute('href'))"
        ".filter(to => !to.startsWith('#') || !document.getElementById(to.slice(1)))"
    )
    assert page.evaluate(missing) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(browser: Any, page_file: Path, scheme: str) -> None:
    page, _ = opened(browser, page_file, color_scheme=scheme)
    style = "getComputedStyle(document.querySelector('{}')).{}"
    for what, ground_of in ((".lacking", "body"), (".coverage", "body"), (".banner p", ".banner")):
        ground = _luminance(page.evaluate(style.format(ground_of, "backgroundColor")))
        ink = _luminance(page.evaluate(style.format(what, "color")))
        light, dark = max(ink, ground), min(ink, ground)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, what


def test_every_mark_stands_beside_its_number(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    middle = "one => { const box = one.getBoundingClientRect(); return box.y + box.height / 2 }"
    drawn = page.evaluate(f"[...document.querySelectorAll('.mark circle')].map({middle})")
    written = page.evaluate(f"[...document.querySelectorAll('td.effect')].map({middle})")
    assert len(drawn) == len(written) > 10
    assert max(abs(a - b) for a, b in zip(drawn, written, strict=True)) < 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, page_file: Path, scheme: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not installed"
    )
    page, _ = opened(browser, page_file, 390, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    found = axe.Axe().run(page).response
    assert [
        (one["id"], [n["html"][:200] for n in one["nodes"]]) for one in found["violations"]
    ] == []
