"""What a report of many tiles costs: to build, to carry, to open, to scroll.

Run as ``python -m tests.benchmarks.bench_report``. For each number of models a run is generated (no
network is asked): 12 pictures, ten techniques of which half are coarse and half fine, 25 metrics.
Every picture is a tile, plain and under each technique, and eight of them as cut-outs: 220 tiles a
model.
``--encoders`` compares ways to encode the same tiles instead.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import itertools
import json
import pstats
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from cnnaudit import figures
from cnnaudit.agreement import COLUMNS as AGREEMENT_COLUMNS
from cnnaudit.contrasts import _COLUMNS as CONTRAST_COLUMNS
from cnnaudit.randomisation import COLUMNS as RANDOM_COLUMNS
from cnnaudit.report.tiles import TILE
from cnnaudit.report.writing import write_report
from cnnaudit.store import Store, digest_bytes
from cnnaudit.summary import summarise, to_csv
from cnnaudit.types import RUN_SCHEMA
from cnnaudit.verdicts import table_of

CHROMIUM = "/usr/bin/chromium"
ITEMS = [f"picture_{n:02d}" for n in range(12)]
TECHNIQUES = [f"{kind}_{n}" for n in range(5) for kind in ("coarse", "fine")]
METRICS = [f"metric_{n:02d}" for n in range(25)]
LABELS = [f"class_{n}" for n in range(10)]
SIZE, INPUT = (320, 240), (224, 224)  # width, height
STEP = 150  # pixels scrolled per frame
LONG = 50  # milliseconds that block a reader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoders", action="store_true")
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    if asked.encoders:
        compare_encoders()
        return
    for count in asked.models:
        with tempfile.TemporaryDirectory() as folder:
            run = write_run(Path(folder), [f"model_{n}" for n in range(count)])
            rounds = [timed(run) for _ in range(asked.rounds)]
            seconds, cpu = zip(*rounds, strict=True)
            page = run / "report.html"
            tiles = page.read_text(encoding="utf-8").count('<figure class="tile">')
            megabytes = page.stat().st_size / 1e6
            print(
                f"{tiles} tiles: {median(seconds):.2f} s to build ({min(seconds):.2f} – "
                f"{max(seconds):.2f}; {median(cpu):.2f} s of CPU), {megabytes:.1f} MB",
                flush=True,
            )
            for name, text in in_the_browser(page, asked.rounds).items():
                print(f"  {name}: {text}", flush=True)
            if asked.profile:
                profile(run)


def timed(run: Path) -> tuple[float, float]:
    """Return the seconds on the clock and of the processor."""
    started, cpu = time.perf_counter(), time.process_time()
    write_report(run)
    return time.perf_counter() - started, time.process_time() - cpu


def profile(run: Path) -> None:
    """Print where building takes its time."""
    profiler = cProfile.Profile()
    profiler.runcall(write_report, run)
    stream = io.StringIO()
    pstats.Stats(profiler, stream=stream).sort_stats("tottime").print_stats(12)
    print(stream.getvalue())


# --- in the browser -------------------------------------------------------------------------------

WATCH = """
window.long = [];
new PerformanceObserver(list => window.long.push(...list.getEntries().map(one => one.duration)))
  .observe({type: "longtask", buffered: true});
"""
SCROLL = """
step => new Promise(done => {
  const times = [];
  const next = now => {
    times.push(now);
    scrollBy(0, step);
    const end = scrollY + innerHeight >= document.documentElement.scrollHeight - 1;
    if (end || times.length > 2000) done(times.slice(1).map((one, n) => one - times[n]));
    else requestAnimationFrame(next);
  };
  requestAnimationFrame(next);
})
"""
CLICK = """
() => new Promise(done => {
  const sort = [...document.querySelectorAll(".sort")].find(one => one.textContent === "value");
  const started = performance.now();
  sort.click();
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - started)));
})
"""


def in_the_browser(page: Path, rounds: int) -> dict[str, str]:
    """Return what opening and scrolling a page costs in Chromium, as texts."""
    from playwright.sync_api import sync_playwright

    found: list[dict[str, float]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for _ in range(rounds):
            found.append(costs(browser, page))
        browser.close()
    return {
        name: f"{median(values):.0f} ({min(values):.0f} – {max(values):.0f})"
        for name in found[0]
        for values in [[one[name] for one in found]]
    }


def costs(browser: Any, path: Path) -> dict[str, float]:
    """Open and scroll a page once; return what it cost."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(path.as_uri(), wait_until="load")
    page.wait_for_timeout(500)
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    blocked = _blocked(page)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    page.wait_for_timeout(2000)
    page.evaluate("window.long.length = 0")
    frames = np.array(page.evaluate(SCROLL, STEP))
    scrolled = _blocked(page)
    sort = page.evaluate(CLICK)
    context.close()
    return {
        "load, ms": loaded,
        "total blocking time, ms": blocked,
        "frames while scrolling, everything unfolded": len(frames),
        "median frame, ms": float(np.median(frames)),
        "95 % of frames within, ms": float(np.quantile(frames, 0.95)),
        f"frames over {LONG} ms": int((frames > LONG).sum()),
        "blocked while scrolling, ms": scrolled,
        "rows of the matrix sorted and shown, ms": sort,
    }


def _blocked(page: Any) -> float:
    durations = page.evaluate("window.long")
    return float(sum(one - LONG for one in durations if one > LONG))


# --- the run --------------------------------------------------------------------------------------


def write_run(folder: Path, models: list[str]) -> Path:
    """Write a run directory with its store, as the stages before the report leave it."""
    run = folder / "run"
    (run / "results").mkdir(parents=True)
    store = Store(folder / "store")
    rows = pd.DataFrame(_rows(models))
    rows.to_parquet(run / "results" / "rows.parquet", index=False)
    (run / "results" / "summary.csv").write_bytes(to_csv(summarise(rows)))
    (run / "results" / "checks.csv").write_bytes(to_csv(table_of([])))
    for name, columns in (
        ("contrasts", CONTRAST_COLUMNS),
        ("agreement", AGREEMENT_COLUMNS),
        ("randomisation", RANDOM_COLUMNS),
    ):
        empty = to_csv(pd.DataFrame(columns=columns))
        (run / "results" / f"{name}.csv").write_bytes(empty)
    pictures = list(_pictures(store, models))
    _write(run / "results" / "illustrations.json", {"pictures": pictures, "kernels": []})
    _write(run / "manifest.json", _manifest(models))
    _write(run / "summary.json", _summary(len(rows)))
    (run / "config.yaml").write_text("name: many\n")
    return run


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps({"schema": RUN_SCHEMA, "name": "many", **value}))


def _rows(models: list[str]) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(1)
    for model, technique, item, metric in itertools.product(models, TECHNIQUES, ITEMS, METRICS):
        value = float(rng.random())
        yield {
            "model": model, "target": "predicted", "technique": technique, "layer": "",
            "image_set": "photos", "item": item, "region": "mask", "metric": metric,
            "value": value, "chance": 0.1, "lift": (value - 0.1) / 0.9, "swap": value / 2,
            "twin": value / 3, "ceiling": 0.95, "flag": "", "status": "ok", "reason": "",
            "unit": item,
        }  # fmt: skip


def _pictures(store: Store, models: list[str]) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(2)
    views = {item: _photo(rng) for item in ITEMS}
    mask = np.zeros(INPUT[::-1], np.uint8)
    mask[70:150, 60:170] = 255
    for model, item in itertools.product(models, ITEMS):
        key = digest_bytes(f"{model} {item}".encode())
        about = {
            "task": "classification",
            "labels": LABELS,
            "values": [0.1] * 10,
            "truth": "class_1",
        }
        region = {"name": "mask", "file": "mask.png", "received": "mask.png"}
        record = {"regions": [region], "prediction": about}
        small = cv2.resize(views[item], INPUT, interpolation=cv2.INTER_AREA)
        files = {"view.webp": _encoded(views[item], "WEBP"), "input.png": _encoded(small, "PNG")}
        files |= {"mask.png": _encoded(mask, "PNG"), "picture.json": json.dumps(record).encode()}
        store.write(key, files, {})
        heatmaps = [_heatmap(store, rng, f"{key} {technique}", technique)
                    for technique in TECHNIQUES]  # fmt: skip
        yield {"model": model, "image_set": "photos", "item": item, "unit": item, "factors": {},
               "why": ["exemplar"], "key": key, "heatmaps": heatmaps}  # fmt: skip


def _heatmap(store: Store, rng: np.random.Generator, name: str, technique: str) -> dict[str, Any]:
    key = digest_bytes(name.encode())
    heat = heatmap(rng, coarse=technique.startswith("coarse"))
    about = json.dumps({"maximum": 1.0, "brightest": 1.0, "dead": False}).encode()
    files = {"heatmap.png": _encoded(figures.coded(heat), "PNG"), "heatmap.json": about}
    store.write(key, files, {})
    return {"technique": technique, "target": "predicted", "layer": "", "key": key,
            "status": "ok", "reason": ""}  # fmt: skip


def heatmap(rng: np.random.Generator, *, coarse: bool) -> figures.Pixels:
    """Make a map as of a CAM, 7×7 stretched, or as of gradients, much of it near 0."""
    if coarse:
        small = (rng.random((7, 7)) ** 3).astype(np.float32)
        map_ = cv2.resize(small, INPUT, interpolation=cv2.INTER_LINEAR)
    else:
        map_ = rng.exponential(size=INPUT[::-1]) ** 1.5
        map_ = np.minimum(map_ / np.quantile(map_, 0.99), 1)
    return (map_ / map_.max() * 255).astype(np.uint8)


def _photo(rng: np.random.Generator) -> figures.Pixels:
    """Make a picture with detail at every scale, as photographs have it, and hard edges."""
    width, height = SIZE
    image = np.zeros((height, width, 3), np.float32)
    for cells in (3, 6, 12, 24, 48, 96):
        noise = rng.standard_normal((cells * 3 // 4, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, SIZE, interpolation=cv2.INTER_CUBIC) / cells
    for _ in range(6):
        corners = rng.integers(0, width, (4, 2)).astype(np.int32)
        cv2.fillConvexPoly(image, cv2.convexHull(corners), rng.standard_normal(3).tolist())
    low, high = image.min(), image.max()
    return ((image - low) / (high - low) * 255).astype(np.uint8)


def _encoded(pixels: figures.Pixels, form: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, form, quality=90)
    return stream.getvalue()


def _manifest(models: list[str]) -> dict[str, Any]:
    metric = {"kind": "overlap", "range": [0, 1], "meaning": "a number", "higher_is_better": True}
    photos = {"items": len(ITEMS), "units": len(ITEMS), "unit": None, "factors": [], "levels": {},
              "grids": [], "words": {}}  # fmt: skip
    return {
        "created": "2026-11-24T00:00:00Z", "command": "python run.py", "store": "../store",
        "cells": {"planned": 1, "found": 0, "computed": 1},
        "catalogue": {
            "metrics": {name: {**metric, "title": name} for name in METRICS},
            "techniques": {name: {"title": name, "citation": ""} for name in TECHNIQUES},
            "models": {name: {"parameters": 1, "weights": "some"} for name in models},
            "image_sets": {"photos": photos},
        },
    }  # fmt: skip


def _summary(rows: int) -> dict[str, Any]:
    return {"status": "COMPLETE", "verdict": "", "checks": {}, "contradictions": [],
            "left_out": [], "findings": [], "counts": {"ok": rows}, "failures": [],
            "gaps": []}  # fmt: skip


# --- encoders -------------------------------------------------------------------------------------

Encoder = Callable[[Image.Image, io.BytesIO], None]


def _webp(quality: int, method: int) -> Encoder:
    return lambda image, stream: image.save(stream, "WEBP", quality=quality, method=method)


def _jpeg(quality: int) -> Encoder:
    return lambda image, stream: image.save(stream, "JPEG", quality=quality, optimize=True)


ENCODERS = {
    **{f"WebP 70, method {n}": _webp(70, n) for n in (0, 1, 2, 3, 4, 6)},
    "WebP 75, method 0": _webp(75, 0),
    "JPEG 75": _jpeg(75),
    "JPEG 85": _jpeg(85),
}


def compare_encoders(count: int = 20) -> None:
    """Print time, size and fidelity of each encoder over coarse and fine overlays."""
    rng = np.random.default_rng(3)
    kinds = {
        kind: [figures.overlay(figures.fit(_photo(rng), TILE), heatmap(rng, coarse=coarse))
               for _ in range(count)]
        for kind, coarse in (("coarse", True), ("fine", False))
    }  # fmt: skip
    for name, encode in ENCODERS.items():
        told = []
        for kind, tiles in kinds.items():
            seconds, size, errors = [], 0, []
            for tile in tiles:
                image, stream = Image.fromarray(tile), io.BytesIO()
                started = time.process_time()
                encode(image, stream)
                seconds.append(time.process_time() - started)
                size += len(stream.getvalue())
                again = figures.decode(stream.getvalue()).astype(float)
                errors.append(10 * np.log10(255**2 / np.mean((again - tile) ** 2)))
            told.append(
                f"{kind} {median(seconds) * 1000:.1f} ms, {size / count / 1000:.1f} kB, "
                f"{np.mean(errors):.1f} dB"
            )
        print(f"{name}: {'; '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
