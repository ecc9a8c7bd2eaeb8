"""The figures of an experiment for a two-column paper; sizes are those on the printed page, in inches.

Colours are safe for colour-blind readers, and shapes differ too. If there are too many methods for one pair
of axes, each gets its own small one, with the first row in grey behind it.
"""

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from benchmark.evaluation.metrics import METRICS
from benchmark.files import atomic_path
from benchmark.recipes.options import value_text
from benchmark.reporting.collect import HEADLINE, RowResult
from benchmark.reporting.series import SeriesReader, Values, smoothed, trainings
from benchmark.reporting.sweeps import Sweep, numeric_sweeps
from benchmark.reporting.tables import WORDS

# Okabe and Ito's palette without its yellow, which is too light for lines on white paper
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GROUPS = {"AP": ("#000000", "o"), "APr": ("#D55E00", "D"), "APc": ("#009E73", "s"), "APf": ("#0072B2", "^")}
GREY = "#9a9a9a"
COLUMN, PAGE = 3.35, 6.9
"""Width of one column and of both, as at the conferences of the field."""

STYLE: Any = {
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7,
    "axes.titlepad": 3,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "legend.handlelength": 1.6,
    "svg.hashsalt": "longtail",  # the same plot has the same bytes
    "pdf.fonttype": 42,  # text stays text, as publishers require
    "figure.dpi": 100,
}
FORMATS: dict[str, dict[str, Any]] = {
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
    "png": {"dpi": 300},
}
TOGETHER = len(COLOURS)
"""Largest number of methods in one pair of axes; more would share colours."""

SWEEP = "sweep_"
"""Prefix of a sweep's id in the name of its plot."""

CURVE_POINTS = 100
"""Training curves with more points are smoothed."""


@dataclass(frozen=True)
class Drawing:
    """One line of a plot: its name, its colour, and the function that draws it into axes in a colour and a
    width."""

    name: str
    colour: str
    draw: Callable[[Axes, str, float], None]


def write_plots(rows: Sequence[RowResult], folder: Path, reader: SeriesReader) -> None:
    """Write every plot with content, as SVG, PDF and PNG, and remove the others."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        found = figures(rows, reader)
        for path in folder.glob(f"{SWEEP}*"):
            if path.stem not in found:
                path.unlink()  # of a sweep that the experiment no longer has
        for name, figure in found.items():
            if figure is not None and figure.get_layout_engine() is not None:
                figure.draw_without_rendering()
                figure.set_layout_engine("none")  # once is enough for all formats
            for ending, settings in FORMATS.items():
                path = folder / f"{name}.{ending}"
                if figure is None:
                    path.unlink(missing_ok=True)  # of an earlier report, no longer true
                    continue
                with atomic_path(path) as temporary:
                    figure.savefig(temporary, format=ending, **settings)


def figures(rows: Sequence[RowResult], reader: SeriesReader) -> dict[str, Figure | None]:
    """Every plot by name; None if it has no content."""
    return {
        "ap_by_frequency": _ap_by_frequency(rows),
        "ap_by_count": _ap_by_count(rows, reader),
        "weight_norms": _weight_norms(rows, reader),
        "training_curves": _training_curves(rows, reader),
        **{f"{SWEEP}{sweep.id}": _swept(sweep.counted) for sweep in numeric_sweeps(rows)},
    }


def names_of(rows: Sequence[RowResult]) -> list[str]:
    """The methods' names, with the row if they repeat, and the IoU type if it differs."""
    titles = [row.title for row in rows]
    mixed = len({row.iou for row in rows}) > 1
    return [
        row.title
        + (f" [{row.id}]" if titles.count(row.title) > 1 else "")
        + (f", {WORDS[row.iou]}" if mixed else "")
        for row in rows
    ]


def _ap_word(rows: Sequence[RowResult]) -> str:
    kinds = {row.iou for row in rows}
    return f"{WORDS[kinds.pop()]} AP" if len(kinds) == 1 else "AP"


def _colour(rows: Sequence[RowResult], row: RowResult) -> str:
    """A row has one colour in all plots."""
    return COLOURS[[other.id for other in rows].index(row.id) % len(COLOURS)]


def _ap_by_frequency(rows: Sequence[RowResult]) -> Figure | None:
    """AP, APr, APc and APf as points on a line for each row, in table order."""
    shown = [row for row in rows if row.counted]
    if not shown:
        return None
    labels = [_wrapped(name, 27) for name in names_of(shown)]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure = Figure(figsize=(COLUMN, 0.75 + 0.13 * lines + 0.04 * len(shown)), layout="constrained")
    axes = figure.subplots()
    # rows stand as far apart as the lines of their names need
    heights = np.array([label.count("\n") + 1.3 for label in labels])
    places = np.cumsum(heights) - heights / 2
    for key in HEADLINE:
        colour, marker = GROUPS[key]
        means = [row.mean(row.iou, key) for row in shown]
        x = [np.nan if value is None else value * 100 for value in means]
        spread = [(row.spread(row.iou, key) or 0.0) * 100 for row in shown]
        size = 4.5 if key == "AP" else 3.8
        axes.errorbar(
            x,
            places,
            xerr=spread if any(spread) else None,
            fmt=marker,
            color=colour,
            markersize=size,
            elinewidth=0.8,
            capsize=1.5,
            label=METRICS[key].title,
            zorder=3 if key == "AP" else 2,
        )
    axes.set_yticks(places, labels, linespacing=0.95)
    axes.set_ylim(places[-1] + heights[-1] / 2, 0)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(left=0)
    axes.margins(x=0.04)
    axes.set_xlabel(f"{_ap_word(shown)} (%)")
    figure.legend(loc="outside upper center", ncols=4, columnspacing=1.2, handletextpad=0.2)
    return figure


def _swept(sweep: Sweep) -> Figure | None:
    """AP, APr, APc and APf against the values of an option; None with fewer than two values with numbers."""
    if len(sweep.values) < 2:
        return None
    figure = Figure(figsize=(COLUMN, 2.4), layout="constrained")
    axes = figure.subplots()
    for key in HEADLINE:
        colour, marker = GROUPS[key]
        means = [row.mean(row.iou, key) for row in sweep.rows]
        spread = [(row.spread(row.iou, key) or 0.0) * 100 for row in sweep.rows]
        axes.errorbar(
            sweep.values,
            [np.nan if value is None else value * 100 for value in means],
            yerr=spread if any(spread) else None,
            fmt=f"{marker}-",
            color=colour,
            markersize=4.5 if key == "AP" else 3.8,
            linewidth=1.6 if key == "AP" else 1,
            elinewidth=0.8,
            capsize=1.5,
            label=METRICS[key].title,
            zorder=3 if key == "AP" else 2,
        )
    if sweep.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    ticks = _ticks(sweep)
    axes.set_xticks(ticks, [value_text(value) for value in ticks])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_xlabel(sweep.key)
    axes.set_ylabel(f"{_ap_word(sweep.rows)} (%)")
    figure.legend(loc="outside upper center", ncols=4, columnspacing=1.2, handletextpad=0.4)
    return figure


def _ticks(sweep: Sweep) -> list[float]:
    """The values, without those whose label would overlap that of a smaller value."""
    places = np.log10(sweep.values) if sweep.logarithmic else np.array(sweep.values)
    places = (places - places[0]) / (places[-1] - places[0]) * 2.5  # inches
    ticks: list[float] = []
    end = -np.inf
    for value, place in zip(sweep.values, places, strict=True):
        half = 0.03 * len(value_text(value))  # width of a digit of 7 points
        if place - half > end:
            ticks.append(value)
            end = place + half + 0.05
    return ticks


def _ap_by_count(rows: Sequence[RowResult], reader: SeriesReader) -> Figure | None:
    """Each category's AP against its training instances, with its local mean."""
    drawings = []
    shown = [row for row in rows if row.counted]
    for row, name in zip(shown, names_of(shown), strict=True):
        values, statistics = reader.class_ap(row, row.iou), reader.statistics(row)
        if values is not None and statistics is not None:
            drawings += _against_counts(name, _colour(rows, row), statistics.instance_counts, values * 100)
    label = f"{_ap_word(shown)} of the category (%)" if shown else ""
    return _assembled(drawings, "training instances of the category", label, _log_counts)


def _weight_norms(rows: Sequence[RowResult], reader: SeriesReader) -> Figure | None:
    """The norm of each category's weight vector, divided by the method's mean, against its training
    instances."""
    drawings = []
    shown = [row for row in rows if row.counted]
    for row, name in zip(shown, names_of(shown), strict=True):
        norms, statistics = reader.weight_norms(row), reader.statistics(row)
        if norms is not None and statistics is not None:
            relative = norms / np.nanmean(norms)
            drawings += _against_counts(name, _colour(rows, row), statistics.instance_counts, relative)
    return _assembled(drawings, "training instances of the category", "weight norm / mean", _log_counts)


def _against_counts(name: str, colour: str, counts: NDArray[np.int64], values: Values) -> list[Drawing]:
    """Points and local mean; None if no category has both a count and a value."""
    curve = smoothed(counts, values)
    defined = np.isfinite(values) & (counts > 0)

    def draw(axes: Axes, colour: str, width: float) -> None:
        axes.scatter(
            counts[defined],
            values[defined],
            2 if defined.sum() > 200 else 5,
            color=colour,
            alpha=0.35,
            linewidths=0,
            rasterized=defined.sum() > 200,  # thousands of points would make the vector files slow
        )
        axes.plot(*curve, color=colour, linewidth=width)

    return [Drawing(name, colour, draw)] if defined.any() else []


def _training_curves(rows: Sequence[RowResult], reader: SeriesReader) -> Figure | None:
    """Loss against iteration: a name for each training of the rows and their bases, a line for each seed."""
    curves: dict[str, list[Values]] = {}
    colours: dict[str, str] = {}
    for training in trainings(rows):
        points = reader.progress(training.step.progress)
        if points is not None:
            name = f"{training.title}: {training.step.name}"
            curves.setdefault(name, []).append(points)
            colours.setdefault(name, _colour(rows, training.owners[0]) if training.owners else GREY)
    drawings = [Drawing(name, colours[name], _loss_curves(seeds)) for name, seeds in curves.items()]
    return _assembled(drawings, "iteration", "training loss", _log_loss, reference=False)


def _loss_curves(seeds: Sequence[Values]) -> Callable[[Axes, str, float], None]:
    def draw(axes: Axes, colour: str, width: float) -> None:
        for iterations, losses in (points.T for points in seeds):
            reach = len(losses) // CURVE_POINTS
            if reach:  # short trainings are drawn as they are
                axes.plot(iterations, losses, color=colour, linewidth=0.3, alpha=0.4, rasterized=True)
            smooth = [losses[max(0, i - reach) : i + reach + 1].mean() for i in range(len(losses))]
            axes.plot(iterations, smooth, color=colour, linewidth=width / len(seeds) ** 0.5)

    return draw


def _assembled(
    drawings: list[Drawing],
    x_label: str,
    y_label: str,
    scale: Callable[[Axes], None],
    *,
    reference: bool = True,
) -> Figure | None:
    """One pair of axes with a legend, or small ones for each; ``reference``: the first drawing behind."""
    if not drawings:
        return None
    if len(drawings) <= TOGETHER:
        figure = Figure(figsize=(COLUMN, 2.5 + 0.13 * -(-len(drawings) // 2)), layout="constrained")
        axes = figure.subplots()
        for drawing in drawings:
            drawing.draw(axes, drawing.colour, 1.3)
            axes.plot([], [], color=drawing.colour, linewidth=1.3, label=_wrapped(drawing.name, 24))
        scale(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        figure.legend(loc="outside upper center", ncols=2, columnspacing=1.2)
        return figure
    columns = 5 if len(drawings) <= 20 else 6
    lines = -(-len(drawings) // columns)
    names = [_wrapped(drawing.name, 23 if columns == 5 else 19) for drawing in drawings]
    title = 0.06 + 0.105 * max(name.count("\n") + 1 for name in names)
    height = title + 0.85
    figure = Figure(figsize=(PAGE, lines * height + 0.45))
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    # fixed places instead of an automatic layout, which would take minutes for so many axes
    whole = figure.get_figheight()
    figure.subplots_adjust(
        left=0.45 / PAGE,
        right=1 - 0.05 / PAGE,
        bottom=0.45 / whole,
        top=1 - title / whole,
        wspace=0.1,
        hspace=(title + 0.05) / 0.8,
    )
    for axes, drawing, name in zip(grid.flat, drawings, names, strict=False):
        if reference and drawing is not drawings[0]:
            drawings[0].draw(axes, GREY, 0.9)
        drawing.draw(axes, drawing.colour, 1.3)
        axes.set_title(name, linespacing=0.95)
    scale(grid[0, 0])
    for number, axes in enumerate(grid.flat[len(drawings) :], len(drawings)):
        axes.set_axis_off()
        grid.flat[number - columns].tick_params(labelbottom=True)
    x_label += f" (grey: {drawings[0].name})" if reference else ""
    figure.text(0.5, 0.04 / whole, x_label, ha="center", va="bottom", fontsize=7.5)
    figure.text(0.02 / PAGE, 0.5, y_label, ha="left", va="center", rotation="vertical", fontsize=7.5)
    return figure


def _wrapped(text: str, width: int) -> str:
    wrapper = textwrap.TextWrapper(width, break_on_hyphens=False)
    wrapper.wordsep_simple_re = re.compile(r"(\s+)|(?<=_)")  # a name breaks behind an underscore
    return wrapper.fill(text)


def _log_counts(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _log_loss(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.set_xlim(left=0)


def _short(value: float) -> str:
    """A count as short text: 500, 1k, 20k."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
