"""What a network answered for one picture, as maps or bars that the report can show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnaudit import figures
from cnnaudit.report.cells import number

MOST_BARS = 5  # classes shown of a classification
_OPEN = (-math.inf, math.inf)  # the scale of numbers of any unit


@dataclass(frozen=True)
class Image:
    """A picture inlined in the page."""

    src: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Axis:
    """One side of a map: what it is called and its two ends."""

    name: str
    first: str
    last: str


@dataclass(frozen=True)
class Bar:
    """One class of a classification, or one number of a regression."""

    label: str
    value: str
    width: str  # percent
    truth: bool


@dataclass(frozen=True)
class Prediction:
    """What the network answered: maps beside each other, or bars."""

    maps: tuple[tuple[str, Image], ...] = ()  # (predicted or truth, map)
    down: Axis | None = None  # from bottom to top
    across: Axis | None = None
    bars: tuple[Bar, ...] = ()
    truth: str = ""  # the true class, also where it is not among the bars; or numbers
    caption: str = "strongest answers"  # of the bars


def inline(pixels: figures.Pixels, alt: str, quality: int | None) -> Image:
    """Inline a picture in the page: lossless, or of a quality from 0 to 100."""
    height, width = pixels.shape[:2]
    return Image(figures.data_uri(pixels, quality), width, height, alt)


def prediction(about: Mapping[str, Any], item: str) -> Prediction:
    """Prepare the answer of a picture's record, whatever its task."""
    if about["task"] == "classification":
        return _classes(about)
    return _numbers(about) if about["task"] == "regression" else _maps(about, item)


def strongest(about: Mapping[str, Any]) -> Bar | None:
    """Return the strongest answer of a picture's record; none where it has no class."""
    if about["task"] != "classification" or not np.isfinite(about["values"]).all():
        return None
    return _classes(about).bars[0]


def _maps(about: Mapping[str, Any], item: str) -> Prediction:
    values = {"predicted": about["values"], "truth": about.get("truth")}
    arrays = {name: _plane(given) for name, given in values.items() if given is not None}
    known = np.concatenate([array.ravel() for array in arrays.values()])
    # Probabilities keep the scale 0–1 whatever they reach, so that pictures can be compared.
    low, high = _scale(known.tolist(), 1.0)
    names = [str(axis["name"]) for axis in about["axes"]]
    ends = [_axis(axis) for axis in about["axes"]]
    alt = f"map of {item}, {' by '.join(names)}, values from {low:.3g} to {high:.3g}"
    return Prediction(
        maps=tuple(
            (name, inline(figures.prediction_map(array, low, high), f"{name} {alt}", None))
            for name, array in arrays.items()
        ),
        down=ends[0] if len(ends) > 1 else None,
        across=ends[-1] if ends else None,
    )


def _numbers(about: Mapping[str, Any]) -> Prediction:
    """Prepare the answer of a regression: its first outputs, beside what is true of them."""
    values = np.ravel(np.asarray(about["values"], dtype=np.float64))
    truth = np.ravel(np.asarray([] if about.get("truth") is None else about["truth"], np.float64))
    low, high = _scale([*values, *truth], 0.0)
    names = [str(axis) for axis in about["axes"][0]["labels"]] if len(about["axes"]) == 1 else []
    bars = tuple(
        Bar(
            label=names[place] if names else f"output {place}",
            value=number(value, _OPEN),
            width=_width(value, low, high),
            truth=False,
        )
        for place, value in enumerate(values[:MOST_BARS])
    )
    shown = ", ".join(number(value, _OPEN) for value in truth[:MOST_BARS])
    more = ", …" * (len(truth) > MOST_BARS)
    return Prediction(bars=bars, truth=f"{shown}{more}", caption="its answer")


def _plane(values: Any) -> NDArray[np.float64]:
    """Lay nested values out in two dimensions; a single axis runs across."""
    array = np.asarray(values, dtype=np.float64)
    return array.reshape(1, -1) if array.ndim < 2 else array.reshape(array.shape[0], -1)


def _axis(axis: Mapping[str, Any]) -> Axis:
    labels: Sequence[Any] = axis.get("labels") or ("", "")
    return Axis(str(axis["name"]), str(labels[0]), str(labels[-1]))


def _classes(about: Mapping[str, Any]) -> Prediction:
    values = np.asarray(about["values"], dtype=np.float64)
    labels = about.get("labels") or [f"class {number}" for number in range(len(values))]
    top = np.argsort(-values, kind="stable")[:MOST_BARS]
    low, high = _scale(values, 1.0)
    truth = "" if about.get("truth") is None else str(about["truth"])
    true = _place_of(truth, [str(label) for label in labels])
    bars = tuple(
        Bar(
            label=str(labels[place]),
            value=number(values[place], (0.0, 1.0)),
            width=_width(values[place], low, high),
            truth=place == true,
        )
        for place in map(int, top)
    )
    return Prediction(bars=bars, truth=truth)


def _place_of(truth: str, labels: Sequence[str]) -> int | None:
    """Return the class that a truth names, as it was read: by its label, in any case, or index."""
    exact = [place for place, label in enumerate(labels) if label == truth]
    alike = [place for place, label in enumerate(labels) if label.lower() == truth.lower()]
    numbered = [int(truth)] if truth.isdecimal() else []
    return next(iter(exact or alike or numbered), None)


def _scale(values: Iterable[float], least: float) -> tuple[float, float]:
    """Return the ends of a scale that holds 0, `least` and every answer that is a number."""
    known = [value for value in values if math.isfinite(value)]
    return min([0.0, *known]), max([least, *known])


def _width(value: float, low: float, high: float) -> str:
    """Return how long a bar is, in percent."""
    share = (value - low) / (high - low or 1.0)
    return f"{100 * share if math.isfinite(share) else 0:.1f}"
