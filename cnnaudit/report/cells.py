"""One number of a report's table: how it is written, and what it rests on."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cnnaudit.types import POOLED

STATUSES = {
    "ineligible": "not eligible",
    "undefined": "undefined",
    "not_applicable": "not applicable",
    "failed": "failed",
}
NO_LEVEL = "–"
REFERENCE = "reference: sees no network"


class Mean(NamedTuple):
    """One number of the summary with how many items and units it rests on."""

    mean: float
    chance: float
    lift: float
    dead: float
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Cell:
    """A number as a table shows it: text first, then a bar from the scale's low end to it."""

    text: str
    bar: str = ""  # width in percent; none where there is no number
    tick: str = ""  # place of the chance level in percent
    lift: str = ""
    notes: tuple[str, ...] = ()


def number(value: float, scale: tuple[float, float]) -> str:
    """Write a number: two decimals on a unit scale, else three significant digits."""
    if not math.isfinite(value):
        return NO_LEVEL
    if max(map(abs, scale)) <= 1:
        return decimals(value, 2)
    # 999.6 is rounded to four digits, of which .3g would leave 1e+03.
    text = f"{value:z,.0f}" if abs(value) >= 999.5 else f"{value:z.3g}"
    return text.replace("-", "−")


def interval(
    value: float,
    low: float,
    high: float,
    scale: tuple[float, float],
    width: float | None = None,  # of the widest interval beside it; its own by default
) -> str:
    """Write a number with its interval, in as many decimals as show how wide intervals are."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return number(value, scale)
    if max(map(abs, scale)) > 1:
        texts = [number(one, scale) for one in (value, low, high)]
    else:
        width = high - low if width is None else width
        places = next((n for n in (2, 3, 4) if width >= 2.5 * 10**-n), 4) if width else 2
        texts = [decimals(one, places) for one in (value, low, high)]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def decimals(value: float, places: int) -> str:
    """Write a number with so many decimals and a proper minus, none before a zero."""
    return f"{value:z.{places}f}".replace("-", "−")


def probability(p: float) -> str:
    """Write the p of a test."""
    if not math.isfinite(p):
        return NO_LEVEL
    return "<\u202f0.001" if p < 0.001 else f"{p:.3f}"


def spaced(name: str) -> str:
    """Write a name that is a mere identifier in words."""
    return name.replace("_", " ") if re.fullmatch(r"[a-z0-9_]+", name) else name


def levels_label(levels: Iterable[str]) -> str:
    """Say a combination of factor levels, leaving out what has none."""
    return " · ".join(level for level in levels if level and level != POOLED)


def coverage(means: Sequence[Mean], unit: str) -> tuple[str, set[str]]:
    """Say once what all numbers of a table rest on; return which kinds of note that replaces."""
    scored = [mean.counts for mean in means if math.isfinite(mean.mean)]
    parts, shared = [], set()
    if len({counts["units"] for counts in scored}) == 1:
        parts.append(f"{plural(scored[0]['units'], unit)} behind every number")
        shared.add("units")
    if scored and all(counts["scored"] == counts["total"] for counts in scored):
        parts.append("every image scored")
        shared.add("scored")
    elif len({(counts["scored"], counts["total"]) for counts in scored}) == 1:
        parts.append(f"{scored[0]['scored']} of {scored[0]['total']} images scored")
        shared.add("scored")
    return ", ".join(parts), shared


def cell(mean: Mean | None, scale: tuple[float, float], unit: str, shared: set[str]) -> Cell:
    if mean is None:
        return Cell(NO_LEVEL)
    lacking = tuple(
        f"{mean.counts[key]} {say}" for key, say in STATUSES.items() if mean.counts[key]
    )
    if not math.isfinite(mean.mean):
        return Cell(NO_LEVEL, notes=lacking)
    notes = []
    if math.isfinite(mean.chance) and not math.isfinite(mean.lift):
        notes.append(f"chance {number(mean.chance, scale)}")
    if mean.dead > 0:
        notes.append(f"{percentage(mean.dead)} dead")
    if "units" not in shared:
        notes.append(plural(mean.counts["units"], unit))
    if "scored" not in shared and mean.counts["scored"] != mean.counts["total"]:
        notes.append(f"{mean.counts['scored']}/{mean.counts['total']} images")
    return Cell(
        text=number(mean.mean, scale),
        bar=percent(mean.mean, scale),
        tick=percent(mean.chance, scale) if math.isfinite(mean.chance) else "",
        lift=signed(mean.lift),
        notes=tuple(notes),
    )


def plural(count: int, unit: str) -> str:
    """Say how many of a unit there are."""
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def signed(value: float) -> str:
    """Write a lift with its sign; "" where there is none."""
    if not math.isfinite(value):
        return ""
    text = f"{value:+.2f}"
    return "±0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def percentage(share: float) -> str:
    """Write a share in whole percent: some are not said to be none, nor most to be all."""
    if 0 < share <= 0.005:
        return "<\u00a01\u00a0%"
    return ">\u00a099\u00a0%" if 0.995 <= share < 1 else f"{100 * share:.0f}\u00a0%"


def percent(value: float, scale: tuple[float, float]) -> str:
    """Return the place of a number between the ends of a scale, in percent."""
    low, high = scale
    share = (value - low) / (high - low) if high > low else 0.0
    return f"{100 * min(1.0, max(0.0, share)):.1f}"


def in_order(order: Sequence[str], found: Iterable[str]) -> tuple[str, ...]:
    """Return what was found, each once: in its declared order, the rest as it came."""
    names = list(dict.fromkeys(found))
    return tuple(sorted(names, key=lambda one: place_in(order, one)))


def place_in(order: Sequence[str], name: str) -> int:
    """Return where a name stands in an order; one that is not in it comes last."""
    return order.index(name) if name in order else len(order)


def count_of(value: float) -> int:
    """Return a count that a table holds as a number; 0 where it has none."""
    return 0 if math.isnan(value) else int(value)


def is_known(mean: Mean | None) -> bool:
    return mean is not None and math.isfinite(mean.mean)
