"""The viewer of the report in a real browser, on a real run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cnnaudit import figures
from cnnaudit.audit import Invocation, Outcome, run_audit
from cnnaudit.config import load_specs
from tests.conftest import write_image_set
from tests.test_report_browser import browser, opened

__all__ = ["browser"]  # the fixture

THRESHOLD = 0.4
ASKED = (
    "experiment=none",
    "model.perception.weights=null",
    "technique=[saliency,grad_cam,layer_cam,center_prior,activations]",
    "technique.saliency.display=p99",
    f"+metric.iou_at={{uses: iou, threshold: {THRESHOLD}}}",
    "image_set=[robot_lighting]",
    "device=cpu",
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("viewer")
    root = write_image_set(folder / "set")
    places = [f"image_set.robot_lighting.root={root}", f"output_dir={folder / 'out'}"]
    return run_audit(load_specs([*ASKED, *places]), Invocation("", (), ""))


@pytest.fixture
def page(browser: Any, outcome: Outcome) -> Iterator[Any]:
    shown, complaints = opened(browser, outcome.report)
    yield shown
    assert complaints == []
    shown.context.close()


def _open(page: Any, place: int = 0) -> None:
    page.locator("figure.tile img[data-look*='.']").nth(place).click()
    page.wait_for_function("document.querySelector('#viewer-found').textContent !== ''")


def _set(page: Any, name: str, value: str) -> None:
    page.evaluate(
        "([name, value]) => { const field = document.getElementById('viewer-controls').elements"
        "[name]; field.value = value; field.dispatchEvent(new Event('input', {bubbles: true})); }",
        [name, value],
    )


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (1280, 620), (390, 800), (900, 400)])
def test_what_is_drawn_lies_on_the_picture(page: Any, width: int, height: int) -> None:
    """Where the window limits the picture's height there is room beside it."""
    page.set_viewport_size({"width": width, "height": height})
    _open(page)
    drawn = page.evaluate(
        """() => {
          const shown = document.querySelectorAll('.stage img, .stage canvas:not([hidden])');
          return [...shown].map(one => {
            const box = one.getBoundingClientRect();
            const [w, h] = [one.naturalWidth || one.width, one.naturalHeight || one.height];
            const fits = Math.min(box.width / w, box.height / h);
            const filled = getComputedStyle(one).objectFit === 'contain' ? [w * fits, h * fits]
                : [box.width, box.height];
            const [left, top] = [box.width - filled[0], box.height - filled[1]];
            return [box.x + left / 2, box.y + top / 2, ...filled];
          });
        }"""
    )
    assert len(drawn) >= 3  # the picture, the heatmap, the mask
    for one in drawn[1:]:
        assert one == pytest.approx(drawn[0], abs=1.5)


def test_the_live_iou_is_the_one_that_was_measured(page: Any, outcome: Outcome) -> None:
    rows = pd.read_parquet(outcome.run_dir / "results/rows.parquet")
    measured = rows[(rows.metric == "iou_at") & rows.value.notna()]
    known = page.evaluate("JSON.parse(document.getElementById('looks').textContent).pictures")
    titles = {"Saliency": "saliency", "Grad-CAM": "grad_cam", "LayerCAM": "layer_cam"}
    _open(page)
    _set(page, "threshold", str(THRESHOLD))
    compared = 0
    for number, picture in known.items():
        for place, heatmap in picture["heatmaps"].items():
            technique = titles.get(heatmap["label"])
            mine = measured[(measured.item == picture["item"]) & (measured.technique == technique)]
            tile = page.locator(f"figure.tile img[data-look='{number}.{place}']").first
            if technique is None or mine.empty or heatmap["dead"]:
                continue
            page.locator("[data-close]").click()
            tile.evaluate("one => one.click()")
            page.wait_for_timeout(60)
            told = re.search(
                r"IoU with \S+ ([0-9.]+)\.$", page.locator("#viewer-found").inner_text()
            )
            assert told is not None
            assert float(told[1]) == pytest.approx(mine.value.item(), abs=0.01)
            compared += 1
    assert compared >= 6


def test_sliders_modes_colours_and_masks_change_what_is_seen(page: Any) -> None:
    def canvases() -> list[str]:
        return page.evaluate(
            "[...document.querySelectorAll('#viewer-stage canvas')].map(one => one.hidden ? '' : "
            "getComputedStyle(one).opacity + one.toDataURL())"
        )

    _open(page)
    heat, shade, outline = canvases()
    assert heat.startswith("0.55")
    assert shade == ""
    assert outline
    _set(page, "opacity", "0.2")
    assert canvases()[0] == heat.replace("0.55", "0.2", 1)
    brightest = (
        "() => { const bar = document.querySelector('#viewer .ramp');"
        "return [...bar.getContext('2d').getImageData(255, 0, 1, 1).data] }"
    )
    white_hot = figures.colourise(np.full((1, 1), 255, dtype=np.uint8))[0, 0]
    over_grey = [round(0.2 * part + 0.8 * 127) for part in white_hot.tolist()]
    assert page.evaluate(brightest) == [*over_grey, 255]  # as it looks over the picture
    _set(page, "colours", "viridis")
    assert canvases()[0] != heat.replace("0.55", "0.2", 1)
    page.locator("[value=region]").check()
    before = canvases()[1]
    _set(page, "threshold", "0.8")
    assert canvases()[1] not in ("", before)
    page.locator("[value=cut]").check()
    assert canvases()[0] == ""
    _set(page, "region", "none")
    page.wait_for_timeout(60)
    assert canvases()[2] == ""
    assert "IoU" not in page.locator("#viewer-found").inner_text()


def test_the_keyboard_opens_walks_and_closes(page: Any) -> None:
    tile = page.locator("figure.tile img[data-look*='.']").first
    tile.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#viewer-found').textContent !== ''")
    title, what = page.locator("#viewer-title"), page.locator("#viewer-what")
    first = title.inner_text(), what.inner_text()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("old => document.querySelector('#viewer-title').textContent !== old",
                           arg=first[0])  # fmt: skip
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("old => document.querySelector('#viewer-what').textContent !== old",
                           arg=first[1])  # fmt: skip
    assert title.inner_text() == first[0]
    page.keyboard.press("c")
    assert page.locator("[name=colours]").input_value() == "viridis"
    page.keyboard.press("m")
    assert page.locator("[name=region]").input_value() == "none"
    page.locator("[name=opacity]").focus()
    page.keyboard.press("ArrowRight")  # a slider's own
    assert page.locator("[name=opacity]").input_value() == "0.56"
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert tile.evaluate("one => one === document.activeElement")


def test_the_answer_and_every_other_technique_stand_beside_it(page: Any) -> None:
    _open(page)
    assert page.locator("#viewer-answer .map img").count() == 2
    others = page.locator("#viewer-others button")
    assert others.all_inner_texts() == ["Saliency", "Grad-CAM", "LayerCAM", "Centre prior"]
    others.nth(2).click()
    page.wait_for_function("document.querySelector('#viewer-title').textContent === 'LayerCAM'")
    assert others.nth(2).get_attribute("aria-current") == "true"
    assert "mass in mask" in page.locator("#viewer-scores").inner_text()
    page.locator("#viewer a[href='#layers']").click()
    assert not page.locator("#viewer").is_visible()


def test_the_dialog_opens_under_the_name_of_what_it_shows(page: Any) -> None:
    page.evaluate(
        """() => {
          const open = HTMLDialogElement.prototype.showModal;
          HTMLDialogElement.prototype.showModal = function () {
            window.named = document.getElementById('viewer-title').textContent;
            open.call(this);
          };
        }"""
    )
    tiles = page.locator("figure.tile img[data-look*='.']")
    for place in (0, tiles.count() - 1):
        tiles.nth(place).click()
        page.wait_for_timeout(100)
        assert page.evaluate("window.named") == page.locator("#viewer-title").inner_text() != ""
        page.keyboard.press("Escape")
    live = page.locator("#viewer [aria-live=polite]").evaluate_all("all => all.map(one => one.id)")
    assert live == ["viewer-title", "viewer-what", "viewer-found"]


def test_what_is_chosen_below_the_picture_is_seen(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 500})
    _open(page)
    page.locator("#viewer-others button").last.click()
    stage = page.locator("#viewer-stage").bounding_box()
    assert stage["y"] >= 0
    assert stage["y"] + stage["height"] <= 500


def test_without_javascript_nothing_pretends_to_open(browser: Any, outcome: Outcome) -> None:
    shown, _ = opened(browser, outcome.report, java_script_enabled=False)
    assert not shown.locator("#viewer").is_visible()
    assert shown.locator("img[role=button]").count() == 0
    shown.context.close()


def test_names_are_text_in_the_viewer(browser: Any, tmp_path: Path) -> None:
    from cnnaudit.report.writing import write_report
    from tests.sample_run import build_run

    shown, complaints = opened(browser, write_report(build_run(tmp_path)))
    _open(shown)
    for key in ("ArrowRight", "ArrowDown", "m", "c", "r"):
        shown.keyboard.press(key)
    shown.wait_for_timeout(100)
    assert shown.evaluate("window.ran") is None
    assert shown.locator("#viewer script, #viewer [onerror]").count() == 0
    assert complaints == []
    shown.context.close()
