"""Figures of the proof, as SVG that is the same for the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

LIFTS = (("mass_in_mask", "lift of the mass on the tank", 1), ("mass_in_sky", "… on the sky", -1))
BEHAVIOUR = (
    ("conflicting", "accuracy where they conflict", 1),
    ("weather_difference", "largest effect of the weather", -1),
)
TECHNIQUES = {"hires_cam": "#0072b2", "saliency": "#d55e00", "occlusion": "#009e73"}
STYLE = {
    "svg.hashsalt": "proof",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw_strengths(scores: pd.DataFrame, path: Path) -> None:
    """Draw behaviour and heatmaps against the strength of the cue: each network, and the mean."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 2.6), layout="constrained")
        axes = figure.subplots(1, 4)
        for plot, (metric, title, sign) in zip(axes[:2], BEHAVIOUR, strict=True):
            _draw(plot, sign * _by_strength(scores, "", metric), "#444444", "")
            plot.set(title=title, xlabel="strength of the cue in training")
        for plot, (metric, title, sign) in zip(axes[2:], LIFTS, strict=True):
            for technique, colour in TECHNIQUES.items():
                _draw(plot, sign * _by_strength(scores, technique, metric), colour, technique)
            plot.axhline(0, color="#999999", linewidth=0.8)
            plot.set(title=title, xlabel="strength of the cue in training")
        axes[2].legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


def draw_areas(
    areas: pd.DataFrame, techniques: Sequence[str], panels: Sequence[tuple[str, str]], path: Path
) -> None:
    """Draw how well each technique by each metric tells an arm's networks from the clean ones.

    ``panels`` are arms and the kind of pictures; one of which there is no network stays empty.
    """
    chosen = areas[areas.technique.isin(techniques)]
    order = chosen.groupby("technique").area.mean().sort_values(ascending=False).index
    metrics = sorted(chosen.metric.unique())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True)
        for plot, (arm, pictures) in zip(axes, panels, strict=True):
            mine = chosen[(chosen.arm == arm) & (chosen.pictures == pictures)]
            grid = mine.pivot(index="technique", columns="metric", values="area")
            _draw_grid(plot, grid.reindex(index=order, columns=metrics))
            plot.set_title(f"{arm}, {pictures} pictures")
        figure.savefig(path, metadata={"Date": None})


def _draw_grid(plot: mpl.axes.Axes, grid: pd.DataFrame) -> None:
    plot.imshow(grid, vmin=0, vmax=1, cmap="PuOr", aspect="auto")
    for row, line in enumerate(grid.to_numpy()):
        for column, value in enumerate(line):
            colour = "black" if 0.2 < value < 0.8 else "white"
            plot.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    plot.set_xticks(range(grid.shape[1]), grid.columns, rotation=40, ha="right")
    plot.set_yticks(range(grid.shape[0]), grid.index)
    plot.spines[:].set_visible(False)


def _by_strength(scores: pd.DataFrame, technique: str, metric: str) -> pd.Series:
    chosen = scores[(scores.technique == technique) & (scores.metric == metric)]
    return chosen.set_index("strength").score


def _draw(plot: mpl.axes.Axes, values: pd.Series, colour: str, label: str) -> None:
    plot.plot(values.index, values, ".", color=colour, alpha=0.3, markersize=3)
    means = values.groupby(level=0).mean()
    plot.plot(means.index, means, "-o", color=colour, label=label, markersize=4)
