"""A small run with hostile names, as the stages before the report leave it."""

from __future__ import annotations

import atexit
import io
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cnnaudit.contrasts import _COLUMNS as CONTRAST_COLUMNS
from cnnaudit.figures import coded
from cnnaudit.randomisation import COLUMNS as RANDOM_COLUMNS
from cnnaudit.store import Store, digest_bytes
from cnnaudit.summary import to_csv
from cnnaudit.types import INPUTS, RUN_SCHEMA
from cnnaudit.verdicts import FAIL, INCONCLUSIVE, NOT_MEASURED, PASS, Judgement, table_of

EVIL = "<script>window.ran=1</script><img src=x onerror=window.ran=1>\"'{{7*7}}javascript:alert(1)"
FACTORS = ["colour", "light", "presence"]
LEVELS = {
    "colour": ["equal", "different"],
    "light": ["overhead", "left"],
    "presence": ["obstacle", "shadow"],
}
TECHNIQUES = {"saliency": "", "grad_cam": "encoder.7"}
CHANNELS, KERNELS, LAYER = "activations", "kernels", "encoder.0"
OVERLAP, BEHAVIOUR = "mass_in_mask", "probability"
SIMILARITY, EXACTNESS = "input_similarity", "completeness_error"
CLASSES = ("all", "tabby")  # the targets on the photos; elsewhere there is the first alone
MODELS = {"perception": "structured_regression", "classifier": "classification"}
Say = Callable[[str], str]

_BUILT = TemporaryDirectory(prefix="cnnaudit-sample-")
atexit.register(_BUILT.cleanup)


def hostile(name: str) -> str:
    """Make a name that would do harm if it were not shown as text."""
    return f"{EVIL} {name}"


def build_run(
    folder: Path, say: Say = hostile, status: str = "INCOMPLETE", *, judged: bool = True
) -> Path:
    """Write a run directory and its store; `say` gives every name its form.

    A run that is not judged declares no contrast and no check.
    """
    shutil.copytree(_built(say, status, judged), folder, dirs_exist_ok=True)
    return folder / "run"


@cache  # most tests begin with the same one
def _built(say: Say, status: str, judged: bool) -> Path:
    folder = Path(mkdtemp(dir=_BUILT.name))
    run = folder / "run"
    (run / "results").mkdir(parents=True)
    items = {say("lighting"): _lighting(say), say("photos"): _photos(say)}
    rows = _rows(items, say)
    rows.to_parquet(run / "results" / "rows.parquet")
    _means(rows, say).to_csv(run / "results" / "summary.csv", index=False)
    judgements = _judgements(say) if judged else []
    contrasts = pd.DataFrame(_contrasts(say) if judged else [], columns=CONTRAST_COLUMNS)
    (run / "results" / "checks.csv").write_bytes(to_csv(table_of(judgements)))
    (run / "results" / "contrasts.csv").write_bytes(to_csv(contrasts))
    agreement = pd.DataFrame(_agreements(say))
    (run / "results" / "agreement.csv").write_bytes(to_csv(agreement))
    randomisation = pd.DataFrame(_randomisations(say) if judged else [], columns=RANDOM_COLUMNS)
    (run / "results" / "randomisation.csv").write_bytes(to_csv(randomisation))
    inputs = [(name, one["item"], *INPUTS) for name, own in items.items() for one in own]
    table = pd.DataFrame(inputs, columns=["image_set", "item", *INPUTS])
    table.to_parquet(run / "results" / "inputs.parquet")
    store = Store(folder / "store")
    illustrations = {"pictures": _pictures(store, items, say), "kernels": _kernels(store, say)}
    _write(run / "results" / "illustrations.json", {"schema": RUN_SCHEMA, **illustrations})
    _write(run / "manifest.json", _manifest(items, say))
    counts = {str(status): int(n) for status, n in rows["status"].value_counts().items()}
    summary = _summary(say, status, judged=judged)
    _write(run / "summary.json", summary | {"counts": {**counts, "failed": 1}})
    (run / "config.yaml").write_text(f"name: {json.dumps(say('robot'))}\n")
    return folder


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _lighting(say: Say) -> list[dict[str, Any]]:
    items = []
    for scene, light in itertools.product(("s1", "s2"), LEVELS["light"]):
        for colour, presence in (("equal", "obstacle"), ("different", "obstacle"), ("", "shadow")):
            levels = {"colour": colour, "light": light, "presence": presence}
            factors = {say(name): level and say(level) for name, level in levels.items()}
            name = "_".join([scene, *levels.values()])
            items.append({"item": say(name), "unit": say(scene), "factors": factors})
    return items


def _photos(say: Say) -> list[dict[str, Any]]:
    return [{"item": say(name), "unit": say(name), "factors": {}} for name in ("cat", "dog")]


def _value(technique: str, item: str) -> float:
    if item.endswith("s1_equal_overhead_obstacle"):
        return 0.0
    return 0.12 if "_equal" in item else 0.8 - 0.3 * (technique == "saliency")


def _rows(items: dict[str, list[dict[str, Any]]], say: Say) -> pd.DataFrame:
    rows = []
    for model, (image_set, found) in itertools.product(MODELS, items.items()):
        asked = _asked(_targets(image_set, say))
        for item, (technique, layer, target, metric) in itertools.product(found, asked):
            value = _value(technique, item["item"])
            overlap = metric == OVERLAP
            bare = overlap and any(level.endswith("shadow") for level in item["factors"].values())
            rows.append(
                {
                    "model": say(model),
                    "target": target,
                    "technique": technique and say(technique),
                    "layer": layer,
                    "image_set": image_set,
                    "item": item["item"],
                    "region": "mask" if overlap else "",
                    "metric": say(metric),
                    "value": None if bare else value,
                    "chance": 0.05 if overlap and not bare else None,
                    "lift": (value - 0.05) / 0.95 if overlap and not bare else None,
                    "flag": "dead" if overlap and value == 0 else "",
                    "status": "ineligible" if bare else "ok",
                    "reason": "no region" if bare else "",
                    "unit": item["unit"],
                }
                | {say(name): item["factors"].get(say(name), "") for name in FACTORS}
            )
    return pd.DataFrame(rows)


def _asked(targets: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Return what is measured of each item: technique, layer, target and metric."""
    heatmaps = [(*one, target) for one in TECHNIQUES.items() for target in targets]
    return [
        ("", "", "", BEHAVIOUR),
        *((*one, OVERLAP) for one in heatmaps),
        *((*one, EXACTNESS) for one in heatmaps if one[0] == "saliency"),
        (CHANNELS, LAYER, "", SIMILARITY),
    ]


def _targets(image_set: str, say: Say) -> list[str]:
    return list(map(say, CLASSES)) if image_set == say("photos") else ["all"]


def _means(rows: pd.DataFrame, say: Say) -> pd.DataFrame:
    names = [say(name) for name in FACTORS]
    keys = ["model", "target", "technique", "layer", "image_set", "region", "metric"]
    lines = []
    for size in range(len(names) + 1):
        for kept in itertools.combinations(names, size):
            for levels, group in rows.groupby([*keys, *kept]):
                scored = group[group["status"] == "ok"]
                units = scored.groupby("unit")[["value", "chance", "lift"]].mean().mean()
                lines.append(
                    dict.fromkeys(names, "*")
                    | dict(zip([*keys, *kept], levels, strict=True))
                    | {"mean": units["value"], "chance": units["chance"], "lift": units["lift"]}
                    | {"swap": None, "twin": None, "ceiling": None}
                    | {"units": scored["unit"].nunique(), "scored": len(scored)}
                    | {"total": len(group), "undefined": 0, "not_applicable": 0, "failed": 0}
                    | {"ineligible": len(group) - len(scored)}
                    | {"dead": (scored["flag"] == "dead").mean() if levels[2] else None}
                )
    return pd.DataFrame(lines)


def _judgements(say: Say) -> list[Judgement]:
    """Make judgements of every verdict: two checks that fail, one undecided, one not measured."""
    seen = [
        _judgement(say, "sees_the_obstacle", "level", "", light, colour, value, verdict)
        for light, colour, value, verdict in (
            ("left", "equal", 0.9, PASS),
            ("left", "different", 0.91, PASS),
            ("overhead", "different", 0.82, PASS),
            ("overhead", "equal", 0.0049, FAIL),
        )
    ]
    looked = [
        _judgement(say, "looks_at_it", statistic, technique, light, "equal − different", n, verdict)
        for n, (statistic, technique, light) in enumerate(
            itertools.product(("difference", "beats edges"), TECHNIQUES, LEVELS["light"])
        )
        for verdict in (PASS, FAIL if n == 3 else PASS)
    ]
    other = [
        _judgement(say, "unsure", "lift", "saliency", "left", "equal", 0.11, INCONCLUSIVE),
        _judgement(say, "unmeasured", "level", "", "*", "shadow", 0.4, NOT_MEASURED),
    ]
    return [*seen, *looked, *other]


def _judgement(
    say: Say, check: str, statistic: str, technique: str, within: str, level: str, value: float,
    verdict: str,
) -> Judgement:  # fmt: skip
    tested = verdict != NOT_MEASURED
    first, *second = level.split(" − ")
    return Judgement(
        check=say(check),
        statistic=f"beats {say('edges')}" if statistic == "beats edges" else statistic,
        model=say("perception"),
        target="all" if technique else "",
        technique=technique and say(technique),
        metric=say(OVERLAP if technique else BEHAVIOUR),
        within=within if within == "*" else say(within),
        level=" − ".join([say(first), *map(say, second)]),
        bound="≥ 0.5",
        value=value / 10 if value >= 1 else value,
        low=(value / 10 if value >= 1 else value) - 0.0413,
        high=(value / 10 if value >= 1 else value) + 0.0413,
        units=24 if tested else 2,
        p={FAIL: 1e-5, PASS: 1.0}.get(verdict, 0.031) if tested else float("nan"),
        p_holm={FAIL: 4e-5, PASS: 1.0}.get(verdict, 0.124) if tested else float("nan"),
        verdict=verdict,
        reason="" if tested else say("2 units, at least 10 are needed"),
    )


def _contrasts(say: Say) -> list[dict[str, Any]]:
    """Make a contrast of behaviour, and of overlap under each technique, under each light."""
    effects = {"": (-0.816, -0.004), "saliency": (-0.123, 0.02), "grad_cam": (-0.25, None)}
    return [
        {
            "contrast": say("colour"), "image_set": say("lighting"), "factor": say("colour"),
            "first_level": say("equal"), "second_level": say("different"), "within": say(light),
            "model": say(model), "target": "all" if technique else "",
            "technique": technique and say(technique), "layer": TECHNIQUES.get(technique, ""),
            "region": "mask" if technique else "", "metric": say(metric),
            "first": 0.1, "second": None if effect is None else 0.1 - effect,
            "difference": effect, "low": None if effect is None else effect - 0.07,
            "high": None if effect is None else effect + 0.0613,
            "units": 24 if light == "overhead" else 2, "p": 0.01, "p_holm": 0.0004,
            "dead_first": 0.5 if technique else None, "dead_second": 0.0 if technique else None,
            "scored": 47, "eligible": 48,
            "status": "ok" if light == "overhead" else "not measured: fewer than 7 units",
        }
        for metric, technique in (
            *((name, one) for name in (OVERLAP, "iou") for one in TECHNIQUES), (BEHAVIOUR, ""),
        )
        for model in MODELS
        for light, effect in zip(LEVELS["light"], effects[technique], strict=True)
    ]  # fmt: skip


def _pictures(
    store: Store, items: dict[str, list[dict[str, Any]]], say: Say
) -> list[dict[str, Any]]:
    pictures = []
    for (model, task), (image_set, found) in itertools.product(MODELS.items(), items.items()):
        for item in found:
            key = digest_bytes(f"{model}{item['item']}".encode())
            store.write(key, _picture_files(task, item["item"], say), {})
            channels = {"technique": say(CHANNELS), "target": "", "layer": LAYER}
            channels |= {"key": _channels(store, key), "status": "ok", "reason": ""}
            heatmaps = [
                {
                    "technique": say(technique),
                    "target": target,
                    "layer": layer,
                    "key": _heatmap(
                        store, key + technique + target, _value(technique, item["item"]) == 0
                    ),
                    "status": "ok",
                    "reason": "",
                }
                for technique, layer in TECHNIQUES.items()
                for target in _targets(image_set, say)
            ]
            if "dog" in item["item"]:
                heatmaps[-1] |= {"key": None, "status": "failed", "reason": say("out of memory")}
            why = [f"worst: {say('saliency')}"] if "_equal_left" in item["item"] else []
            pictures.append(
                {"model": say(model), "image_set": image_set, "why": ["exemplar", *why]}
                | {"key": key, "heatmaps": [*heatmaps, channels], **item}
            )
    return pictures


def _picture_files(task: str, item: str, say: Say) -> dict[str, bytes]:
    noise = np.random.default_rng(len(item)).integers(90, 140, (128, 160, 3), dtype=np.uint8)
    noise[50:90, 60:110] = (190, 90, 40) if "different" in item else (110, 110, 110)
    mask = np.zeros((128, 160), np.uint8)
    mask[50:90, 60:110] = 255
    if task == "classification":
        labels = [say(name) for name in ("tank", "cat", "dog")]
        prediction: dict[str, Any] = {"labels": labels, "values": [0.1, 0.7, 0.2]}
        prediction["truth"] = labels[1]
    else:
        axes = [{"name": say("distance"), "labels": [str(one) for one in range(65)]}]
        axes += [{"name": say("sensor"), "labels": ["left", "a", "b", "c", say("right")]}]
        values = np.linspace(0, 1, 325).reshape(65, 5)
        truth = (values > 0.5).astype(float).tolist()
        prediction = {"axes": axes, "values": values.tolist(), "truth": truth}
    region = {"name": "mask", "file": "mask.mask.png", "received": "received.png"}
    record = {
        "regions": [] if "shadow" in item else [region],
        "prediction": prediction | {"task": task},
    }
    files = {"view.webp": _encoded(noise, "WEBP"), "input.png": _encoded(noise[::2, ::2], "PNG")}
    if record["regions"]:
        files["mask.mask.png"] = _encoded(mask, "PNG")
        files["received.png"] = _encoded(mask[::2, ::2], "PNG")
    return files | {"picture.json": json.dumps(record).encode()}


def _heatmap(store: Store, name: str, dead: bool) -> str:
    key = digest_bytes(name.encode())
    ys, xs = np.mgrid[0:64, 0:80]
    heat = np.zeros((64, 80)) if dead else np.exp(-((ys - 34) ** 2 + (xs - 42) ** 2) / 150)
    stated = {"maximum": float(heat.max()), "brightest": 1.0, "dead": dead}
    about = json.dumps(stated).encode()
    content = _encoded(coded(heat), "PNG")
    store.write(key, {"heatmap.png": content, "heatmap.json": about}, {})
    return key


def _channels(store: Store, name: str) -> str:
    key = digest_bytes(f"{name} channels".encode())
    strip = np.random.default_rng(0).integers(0, 256, (16 * 14, 20), dtype=np.uint8)
    about = {"status": "ok", "reason": "", "channels": 64, "shown": 16, "height": 14}
    files = {"channels.png": _encoded(strip, "PNG"), "heatmap.json": json.dumps(about).encode()}
    store.write(key, files, {})
    return key


def _kernels(store: Store, say: Say) -> list[dict[str, Any]]:
    """Make one model's filters; the other's layer has none."""
    strip = np.random.default_rng(1).integers(0, 256, (24 * 5, 5, 3), dtype=np.uint8)
    key = digest_bytes(b"kernels")
    store.write(key, {"kernels.png": _encoded(strip, "PNG")}, {})
    about = {"technique": say(KERNELS), "layer": LAYER, "key": key}
    ok = {"status": "ok", "reason": "", "filters": 32, "inputs": 3, "size": [5, 5], "shown": 24}
    first, second = map(say, MODELS)
    return [
        {"model": first, **about, **ok, "smoothness": 0.613, "untrained": -0.002},
        {"model": second, **about, "status": "not_applicable", "reason": say("no filters")},
    ]


def _agreements(say: Say) -> list[dict[str, Any]]:
    """Compare two targets, and the levels of a contrast."""
    photos, lighting = {"image_set": say("photos")}, {"image_set": say("lighting")}
    targets = [
        {
            **photos,
            "between": "target",
            "within": "*",
            "model": say(model),
            "target": "",
            "technique": say(technique),
            "first": say("all"),
            "second": say("tabby"),
        }
        for model, technique in itertools.product(MODELS, TECHNIQUES)
    ]
    levels = [
        {
            **lighting,
            "between": say("colour"),
            "within": say(light),
            "model": say("perception"),
            "target": "all",
            "technique": say("saliency"),
            "first": say("equal"),
            "second": say("different"),
        }
        for light in LEVELS["light"]
    ]
    numbers = {"correlation": 0.914, "low": 0.88, "high": 0.95, "units": 2, "scored": 2, "total": 2}
    found = [{**one, **numbers, "status": "ok"} for one in (*targets, *levels)]
    lacking = dict.fromkeys(("correlation", "low", "high")) | {"units": 0, "scored": 0}
    found[-1] |= {**lacking, "status": "undefined: no pair has two heatmaps that vary"}
    return found


def _randomisations(say: Say) -> list[dict[str, Any]]:
    """Re-initialise one model in two steps; the heatmaps of one technique stay as they were."""
    return [
        {
            "sanity": "randomisation", "image_set": say("photos"), "model": say("perception"),
            "target": "all", "technique": say(technique), "step": step, "layers": layers,
            "share": step / 2, "correlation": 0.9 if technique == "saliency" else 0.1,
            "low": 0.05, "high": 0.95, "units": 2, "scored": 2, "total": 2, "bound": 0.5,
            "status": "ok",
        }
        for technique in TECHNIQUES
        for step, layers in ((1, "decoder.3"), (2, "decoder.3 … encoder.0"))
    ]  # fmt: skip


def _encoded(pixels: np.ndarray, form: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, form, lossless=True)
    return stream.getvalue()


def _manifest(items: dict[str, list[dict[str, Any]]], say: Say) -> dict[str, Any]:
    overlap = {"title": say("mass in mask"), "kind": "overlap", "range": [0, 1]}
    behaviour = {"title": say("probability"), "kind": "behaviour", "range": [0, 1]}
    channels = {"title": say("similarity to the input"), "kind": "channels", "range": [0, 1]}
    exactness = {"title": say("completeness error"), "kind": "diagnostic", "range": [0, None]}
    lighting, photos = items
    declared = {say(name): [say(level) for level in levels] for name, levels in LEVELS.items()}
    grid = {"rows": say("colour"), "cols": say("light"), "levels": None}
    words = {say("colour"): {say("equal"): say("an obstacle of the ground's colour")}}
    plain: dict[str, Any] = {"factors": [], "levels": {}, "words": {}, "unit": None}
    sides = [("image", "model"), ("image", "target"), ("model", "target"), ("image", "technique")]
    plain["grids"] = [{"rows": rows, "cols": cols, "levels": []} for rows, cols in sides]
    across = {"rows": say("colour"), "cols": "model", "levels": []}
    return {
        "schema": RUN_SCHEMA, "name": say("robot"), "created": "2026-11-23T15:40:00Z",
        "command": say("python run.py"), "overrides": [say("seed=1")], "store": "../store",
        "git": {"commit": None, "dirty": None}, "packages": {"cnnaudit": "0.1.0"},
        "hardware": {"device": "cpu", "gpu": None, say("fan"): {"speed": say("fast")}},
        "digests": {"weights": {say("perception"): "ab" * 32}}, "seed": 1, "tf32": False,
        "timings": {"execute": 1.5}, "unforeseen": say("a key of tomorrow"),
        "cells": {"planned": 9, "found": 2, "computed": 7},
        "catalogue": {
            "metrics": {
                say(OVERLAP): {**overlap, "meaning": say("share of the heat on the object")},
                say(BEHAVIOUR): {**behaviour, "meaning": say("what it says of the truth")},
                say(SIMILARITY): {**channels, "meaning": say("how much it is the picture")},
                say(EXACTNESS): {**exactness, "meaning": say("how far from exact")},
            },
            "techniques": {
                say(name): {"title": say(name), "citation": say("A 2017"),
                            "layer": {say(model): layer for model in MODELS}}
                for name, layer in TECHNIQUES.items()
            }
            | {
                say(CHANNELS): {"title": say(CHANNELS), "citation": "", "gives": "channels"},
                say(KERNELS): {"title": say(KERNELS), "citation": "", "gives": "kernels"},
            },
            "models": {
                say("perception"): {"parameters": 249539, "weights": "perception.safetensors"},
                say("classifier"): {"parameters": 249539, "weights": "none"},
            },
            "image_sets": {
                lighting: {"items": 12, "unit": say("scene"), "units": 2, "words": words,
                           "factors": list(declared), "levels": declared, "grids": [grid, across]},
                photos: {"items": 2, "units": 2, **plain},
            },
        },
    }  # fmt: skip


def _summary(say: Say, status: str, *, judged: bool) -> dict[str, Any]:
    where = {"model": say("perception"), "image_set": say("lighting")}
    behaviour = {**where, "metric": say(BEHAVIOUR), "technique": ""}
    overlap = {**where, "metric": say(OVERLAP), "technique": say("grad_cam")}
    checks = {"sees_the_obstacle": FAIL, "looks_at_it": INCONCLUSIVE, "unsure": INCONCLUSIVE}
    checks |= {"unmeasured": NOT_MEASURED}
    verdict = "INCOMPLETE" if status == "INCOMPLETE" else FAIL
    failure = {
        **where, "reason": say("NaN"), "items": 1, "examples": [say("dog")],
        "missing": {say("grad_cam"): [say(OVERLAP)]},
    }  # fmt: skip
    return {
        "schema": RUN_SCHEMA, "name": say("robot"), "status": status,
        "verdict": verdict if judged else "",
        "checks": {say(name): one for name, one in checks.items()} if judged else {},
        "contradictions": [say("a passes, b fails")] if judged else [],
        "findings": [
            {**one, "grid": "0", "text": say(text)}
            for one, text in (
                (behaviour, "It gives the obstacle a probability of 0.12, not 0.82."),
                (overlap, "It puts 0.32 less of its mass on it."),
            )
        ],
        "left_out": [say("check sees: it is about tanks, which is not chosen")],
        "failures": [{**failure, "status": "failed"}] if status == "INCOMPLETE" else [],
        "gaps": [{**failure, "status": "ineligible", "reason": say("no region")}],
    }  # fmt: skip
