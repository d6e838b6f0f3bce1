"""The curves of a report, as SVG that takes its colours from the page's light or dark theme."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

_POINTS = 400
"""Longer curves are averaged in this many bins: a chart has no pixels for more points."""
# Placeholder colours for matplotlib, and the page's variables that replace them.
_COLORS = {"#010203": "var(--muted)", "#010204": "var(--line)", "#010205": "var(--accent)", "#010206": "var(--bad)"}
_MUTED, _LINE, _ACCENT, _BAD = _COLORS


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A quantity over the steps of a run. NaN and infinities are left out."""

    title: str
    steps: Sequence[int]
    values: Sequence[float]
    smooth: bool = False
    """Draws a moving average over the noisy values."""
    points: bool = False
    """Marks every value."""
    marked_steps: Sequence[int] = ()
    """Steps that training skipped."""
    restarts: Sequence[int] = ()
    """Steps from which the run was resumed."""


def curve_svg(curve: Curve) -> str:
    """The curve as an `<svg>` element; empty if no value is finite. Its ids do not clash with those of other curves."""
    steps, values = np.asarray(curve.steps, np.int64), np.asarray(curve.values, np.float64)
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if not values.size:
        return ""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": curve.title, "font.size": 9}):
        figure = Figure(figsize=(4.7, 2.5), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        _style(axes)
        for step in curve.restarts:
            axes.axvline(step, color=_MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        _draw(axes, curve, *_binned(steps, values))
        if curve.marked_steps:
            axes.plot(
                curve.marked_steps,
                [0.02] * len(curve.marked_steps),
                "|",
                color=_BAD,
                transform=axes.get_xaxis_transform(),
            )
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None})
    return _themed(text.getvalue(), curve.title)


def _draw(axes: Axes, curve: Curve, steps: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    if curve.smooth and len(values) >= 20:
        axes.plot(steps, values, color=_ACCENT, linewidth=0.8, alpha=0.35)
        values = smoothed(values)
    marker = "o" if curve.points or len(values) == 1 else ""
    axes.plot(steps, values, color=_ACCENT, linewidth=1.7, marker=marker, markersize=3.5, solid_joinstyle="round")
    if curve.points:
        axes.annotate(
            f"{values[-1]:.3f}",
            (float(steps[-1]), float(values[-1])),
            (-2, 5),
            textcoords="offset points",
            ha="right",
            color=_MUTED,
        )
        axes.margins(y=0.15)


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred mean over a twentieth of the curve, or over the available part of it near the ends."""
    half = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return np.asarray((sums[last] - sums[first]) / (last - first))


def _binned(steps: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if len(values) <= _POINTS:
        return steps.astype(np.float64), values
    starts = np.linspace(0, len(values), _POINTS, endpoint=False).astype(np.int64)
    counts = np.diff(np.append(starts, len(values)))
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts


def _style(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.grid(axis="y", color=_LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_MUTED, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("step", color=_MUTED)


def _themed(svg: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # these ids are the same in every figure, and nothing refers to them
    for color, variable in _COLORS.items():
        svg = svg.replace(color, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
