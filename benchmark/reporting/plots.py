"""The plots of an experiment, for a printed page: colour-blind safe, shapes and hatches beside colours."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from benchmark.errors import BenchmarkError
from benchmark.evaluation.metrics import METRICS
from benchmark.files import atomic_path, file_error
from benchmark.recipes.models import Run
from benchmark.recipes.paths import checkpoint_path, run_folder, statistics_path
from benchmark.reporting.collect import HEADLINE, RowResult, RunResult, lineage, own_stages
from benchmark.reporting.tables import WORDS
from benchmark.statistics import ClassStatistics

# Okabe and Ito's palette without its yellow, which is too light for lines on white paper
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX*"  # one more than colours, so that a colour comes back with another marker
HATCHES = ("", "///", "...", "xxx")
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "longtail",  # the same plot has the same bytes
    "figure.dpi": 100,
}
CURVE_POINTS = 100  # training curves of more points are smoothed
WIDTH = 6.5  # inches: the text width of a page


def write_plots(rows: Sequence[RowResult], folder: Path) -> list[str]:
    """Write every plot that has something to show, as SVG and PNG, and remove the others.

    Returns notes on files that could not be read.
    """
    notes: list[str] = []
    with matplotlib.rc_context(STYLE):
        plots = {
            "ap_by_frequency": _ap_by_frequency(rows),
            "ap_by_count": _ap_by_count(rows, notes),
            "training_curves": _training_curves(rows, notes),
        }
        for name, figure in plots.items():
            for ending in ("svg", "png"):
                path = folder / f"{name}.{ending}"
                if figure is None:
                    path.unlink(missing_ok=True)  # of an earlier report, no longer true
                    continue
                metadata: dict[str, Any] = {"Date": None} if ending == "svg" else {}
                with atomic_path(path) as temporary:
                    figure.savefig(temporary, format=ending, dpi=200, metadata=metadata)
    return list(dict.fromkeys(notes))


def _names(rows: Sequence[RowResult]) -> list[str]:
    """Legend entries: the method, with the row where methods repeat, and the IoU type where it differs."""
    titles = [row.title for row in rows]
    mixed = len({row.iou for row in rows}) > 1
    return [
        row.title
        + (f" [{row.row.row.id}]" if titles.count(row.title) > 1 else "")
        + (f", {WORDS[row.iou]}" if mixed else "")
        for row in rows
    ]


def _axis_word(rows: Sequence[RowResult]) -> str:
    kinds = {row.iou for row in rows}
    return f"{WORDS[kinds.pop()]} AP" if len(kinds) == 1 else "AP"


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Above the axes, in as many columns as fit: inside it would hide data."""
    columns = max(1, min(len(labels), int(WIDTH * 15 / (max(map(len, labels)) + 6))))
    figure.set_figheight(figure.get_figheight() + 0.17 * (-(-len(labels) // columns) - 1))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def _ap_by_frequency(rows: Sequence[RowResult]) -> Figure | None:
    """Bars of AP, APr, APc and APf."""
    shown = [row for row in rows if any(run.done for run in row.runs)]
    if not shown:
        return None
    looks = {row.row.row.id: number for number, row in enumerate(rows)}  # a row looks the same in every plot
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.84 / len(shown)
    for number, (row, name) in enumerate(zip(shown, _names(shown), strict=True)):
        places = np.arange(len(HEADLINE)) + (number - (len(shown) - 1) / 2) * width
        means = [row.mean(row.iou, key) for key in HEADLINE]
        heights = [np.nan if value is None else value * 100 for value in means]
        spreads = [(row.spread(row.iou, key) or 0.0) * 100 for key in HEADLINE]
        look = looks[row.row.row.id]
        hatch, colour = HATCHES[look // len(COLOURS) % len(HATCHES)], COLOURS[look % len(COLOURS)]
        error = spreads if any(spreads) else None
        axes.bar(places, heights, width * 0.94, yerr=error, capsize=2, color=colour, hatch=hatch, label=name)
        if len(shown) <= 4:
            for x, value, height, spread in zip(places, means, heights, spreads, strict=True):
                label = METRICS["AP"].format(value)
                axes.annotate(
                    label, (x, height + spread), (0, 1.5), textcoords="offset points", ha="center", fontsize=7
                )
    groups = {
        "AP": "all",
        "APr": "rare\n(1-10 images)",
        "APc": "common\n(11-100)",
        "APf": "frequent\n(over 100)",
    }
    axes.set_xticks(range(len(HEADLINE)), [f"{METRICS[key].title}\n{groups[key]}" for key in HEADLINE])
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"{_axis_word(shown)} (%)")
    _legend(figure, *axes.get_legend_handles_labels())
    return figure


def _ap_by_count(rows: Sequence[RowResult], notes: list[str]) -> Figure | None:
    """Each category's AP against its training images, with means of neighbouring categories."""
    curves = []
    for row in rows:
        found = [
            item for item in (_class_ap(row, run, notes) for run in row.runs if run.done) if item is not None
        ]
        if found:
            counts = found[0][0]
            values = np.mean([item[1] for item in found if len(item[1]) == len(counts)], axis=0)
            defined = np.isfinite(values) & (counts > 0)
            if defined.any():
                curves.append((row, counts[defined], values[defined]))
    if not curves:
        return None
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    looks = {row.row.row.id: number for number, row in enumerate(rows)}
    for (row, counts, values), name in zip(curves, _names([c[0] for c in curves]), strict=True):
        look = looks[row.row.row.id]
        colour, marker = COLOURS[look % len(COLOURS)], MARKERS[look % len(MARKERS)]
        many = len(counts) > 200
        axes.scatter(
            counts, values * 100, 4 if many else 10, color=colour, marker=marker, alpha=0.3, linewidths=0
        )
        # equally many categories in each mean: the tail has few examples, so fixed steps would be noise there
        size = max(3, round(np.sqrt(len(counts))))
        order = np.argsort(counts, kind="stable")
        parts = np.array_split(order, max(1, len(order) // size))
        x = [float(np.exp(np.log(counts[part]).mean())) for part in parts]
        y = [float(values[part].mean() * 100) for part in parts]
        axes.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.6, label=name)
    low, high = axes.get_xlim()
    for border in (10.5, 100.5):
        if low < border < high:
            axes.axvline(border, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)))
    for left, right, group in ((0.5, 10.5, "rare"), (10.5, 100.5, "common"), (100.5, 1e9, "frequent")):
        left, right = max(left, low), min(right, high)
        if right / left > 1.5:
            axes.annotate(
                group,
                (np.sqrt(left * right), 1),
                xycoords=axes.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=8,
            )
    axes.set_xlim(low, high)
    axes.set_ylim(-2, None)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
    axes.set_xlabel("training images of the category")
    axes.set_ylabel(f"{_axis_word([c[0] for c in curves])} of the category (%)")
    _legend(figure, *axes.get_legend_handles_labels())
    return figure


def _class_ap(row: RowResult, run: RunResult, notes: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Training images and AP (fraction, NaN undefined) of every category, in ascending id."""
    import pandas as pd

    path = run_folder(run.run) / "per_class.csv"
    try:
        statistics = ClassStatistics.read(statistics_path(run.run.dataset))
        table = pd.read_csv(path).set_index("id")
        values = table[f"{row.iou}_AP"].reindex(statistics.category_ids).to_numpy(float)
    except OSError as error:
        notes.append(str(file_error("read", path, error)).splitlines()[0])
    except BenchmarkError as error:
        notes.append(str(error).splitlines()[0])
    except (ValueError, KeyError) as error:
        notes.append(f"{path} is not a table of categories: {error}")
    else:
        return statistics.image_counts, values
    return None


def _training_curves(rows: Sequence[RowResult], notes: list[str]) -> Figure | None:
    """Loss against iteration: one panel for each stage's name, one line for each training."""
    panels: dict[str, dict[Path, tuple[Run, np.ndarray]]] = {}
    for row in rows:
        for result in row.runs:
            for run in lineage(result.run):
                for stage in own_stages(run):
                    path = checkpoint_path(run, stage.name).with_name("progress.jsonl")
                    points = _progress(path, notes)
                    if points is not None:
                        panels.setdefault(stage.name, {}).setdefault(path, (run, points))
    if not panels:
        return None
    # a row looks as in the other plots; what other rows only start from comes after them
    looks: dict[str, int] = {}
    drawn = [run for lines in panels.values() for run, _ in lines.values()]
    for run in [row.runs[0].run for row in rows] + drawn:
        looks.setdefault(_kind(run), len(looks))
    runs = {_name(run, rows): run for run in drawn}
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axes, (stage_name, lines) in zip(grid, panels.items(), strict=True):
        for run, points in lines.values():
            colour = COLOURS[looks[_kind(run)] % len(COLOURS)]
            same = [name for name, other in runs.items() if _kind(other) == _kind(run)]
            # seeds differ by their dashes, and so do rows of the same colour
            turn = same.index(_name(run, rows)) + looks[_kind(run)] // len(COLOURS)
            dash = ("-", "--", ":", "-.")[turn % 4]
            iterations, losses = points.T
            reach = len(losses) // CURVE_POINTS  # short trainings are drawn as they are
            if reach:
                axes.plot(iterations, losses, color=colour, linewidth=0.5, alpha=0.35)
            smooth = [mean(losses[max(0, i - reach) : i + reach + 1]) for i in range(len(losses))]
            (line,) = axes.plot(iterations, smooth, color=colour, linewidth=1.4, linestyle=dash)
            handles.setdefault(_name(run, rows), line)
        axes.set_title(stage_name, fontsize=9)
        axes.set_xlabel("iteration")
        axes.set_xlim(left=0)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.locator_params(axis="x", nbins=5)
    grid[0].set_ylabel("training loss")
    _legend(figure, list(handles.values()), list(handles))
    return figure


def _kind(run: Run) -> str:
    return str(run_folder(run).parent)


def _name(run: Run, rows: Sequence[RowResult]) -> str:
    name = run.title
    if len({row.runs[0].run.detector_name for row in rows}) > 1:
        name += f", {run.detector_name.partition('/')[2]}"
    return name + (f", seed {run.seed}" if any(len(row.runs) > 1 for row in rows) else "")


def _progress(path: Path, notes: list[str]) -> np.ndarray | None:
    """Iteration and loss, (N, 2) float64, N >= 2; a last line that is being written is left out."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    points = []
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
            points.append((float(entry["iteration"]), float(entry["loss"])))
        except (ValueError, KeyError, TypeError):
            if number < len(lines) - 1:
                notes.append(f"{path}, line {number + 1} is not a line of progress")
    found = np.array(points, np.float64).reshape(-1, 2)
    found = found[np.isfinite(found).all(axis=1)]
    return found if len(found) > 1 else None
