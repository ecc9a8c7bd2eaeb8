"""A sweep over a number has a plot of AP against its values; other sweeps are only rows of the table."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from reporting.results_tree import complete_run, made_up_experiment
from reporting.test_plots import assert_legible

from benchmark.recipes import LoadedExperiment
from benchmark.recipes.paths import experiment_folder
from benchmark.reporting import write_report
from benchmark.reporting.collect import RowResult, collect_row
from benchmark.reporting.differences import Distinctions
from benchmark.reporting.html.content import page_content
from benchmark.reporting.plots import COLUMN, STYLE, figures
from benchmark.reporting.report import report_key
from benchmark.reporting.series import SeriesReader
from benchmark.reporting.tables import markdown

ROW = "method: bags, detector: torchvision/tiny_mask_rcnn, dataset: synthetic"
RATIOS = "sweep: {others_ratio: [16, 1, 4, 8]}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def experiment(folder: Path, *rows: str) -> LoadedExperiment:
    """An experiment of rows; each text completes method, detector and dataset."""
    lines = [f"  - {{id: row_{number}, {ROW}, {row}}}\n" for number, row in enumerate(rows)]
    head = "name: made_up\ntitle: Made-up numbers\nbudget: smoke\nrows:\n"
    return made_up_experiment(folder, head + "".join(lines))


def finished(loaded: LoadedExperiment) -> list[RowResult]:
    """Every run with numbers, which fall from row to row."""
    for number, row in enumerate(loaded.rows):
        for run in row.runs:
            complete_run(run, 0.6 - number / 20 + run.seed / 50, 0.3)
    return [collect_row(row, {}) for row in loaded.rows]


def plots_of(rows: list[RowResult]) -> dict[str, Figure | None]:
    with matplotlib.rc_context(STYLE):
        found = figures(rows, SeriesReader())
    return {name: figure for name, figure in found.items() if name.startswith("sweep_")}


def test_the_plot_has_the_means_of_the_table_at_ascending_values(folder: Path) -> None:
    rows = finished(experiment(folder, RATIOS))
    (figure,) = plots_of(rows).values()
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"  # 1 to 16
    assert axes.get_xlabel() == "others_ratio"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4", "8", "16"]
    by_value = {row.resolved.entry.options["others_ratio"]: row for row in rows}
    lines = dict(zip(("AP", "APr", "APc", "APf"), axes.containers, strict=True))
    for key, container in lines.items():
        x, y = container.lines[0].get_data()
        assert list(x) == [1, 4, 8, 16]
        assert y == pytest.approx([(by_value[value].mean("segm", key) or np.nan) * 100 for value in x])
        assert not container.has_yerr  # of one seed each


@pytest.mark.slow
def test_seeds_are_bars_and_a_narrow_span_is_linear(folder: Path) -> None:
    rows = finished(experiment(folder, "sweep: {others_ratio: [0.0, 2, 100]}, seeds: [0, 1, 2]"))
    (figure,) = plots_of(rows).values()
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_xscale() == "linear"  # 0 has no logarithm
    (bars,) = axes.containers[0].lines[2]
    heights = [float(np.ptp(segment[:, 1])) / 2 for segment in bars.get_segments()]
    assert heights == pytest.approx([(row.spread("segm", "AP") or np.nan) * 100 for row in rows])
    (even,) = plots_of(finished(experiment(folder, "sweep: {others_ratio: [1, 10]}"))).values()
    assert even is not None
    assert even.axes[0].get_xscale() == "linear"  # no more than a factor of 10


@pytest.mark.parametrize(
    "sweep",
    [
        "sweep: {others_ratio: [1, 4], reweighted: [true, false]}",
        "sweep: {edges: [[10, 100], [10]]}",
        "sweep: {reweighted: [true, false]}",
        "options: {others_ratio: 4}",
    ],
)
def test_other_sweeps_are_rows_without_a_plot(sweep: str, folder: Path) -> None:
    rows = finished(experiment(folder, sweep))
    assert plots_of(rows) == {}
    table = markdown("Made-up numbers", rows, [], Distinctions())
    assert all(f"| {row.id} |" in table for row in rows)


@pytest.mark.parametrize(
    "values",
    ["[1, 4, 8, 16]", "[0, 0.001, 0.002, 1]", "[0.00001, 0.0001, 0.00015, 0.0002, 100000]", "[-5, -2.25, 5]"],
)
def test_no_text_of_the_plot_is_cut_or_lies_on_another(values: str, folder: Path) -> None:
    (figure,) = plots_of(finished(experiment(folder, f"sweep: {{others_ratio: {values}}}"))).values()
    assert figure is not None
    assert figure.get_figwidth() == COLUMN
    with matplotlib.rc_context(STYLE):
        assert_legible(figure)


@pytest.mark.slow
def test_the_plot_shows_what_there_is_and_goes_with_its_sweep(folder: Path) -> None:
    """Values without numbers are left out, a single value has no plot, and the plot of a removed sweep is
    deleted."""
    loaded = experiment(folder, RATIOS, "sweep: {edges: [[10], [100]]}")
    key = report_key(loaded)
    plots = experiment_folder("made_up") / "plots"
    runs = [run for row in loaded.rows for run in row.runs]
    complete_run(runs[0], 0.5, 0.3)
    write_report(loaded)
    assert not list(plots.glob("sweep_*"))
    complete_run(runs[1], 0.4, 0.3)
    write_report(loaded)
    names = {path.name for path in plots.glob("sweep_*")}
    assert names == {"sweep_row_0.svg", "sweep_row_0.pdf", "sweep_row_0.png"}
    rows = [collect_row(row, {}) for row in loaded.rows]
    (shown,) = page_content(loaded, rows, [], SeriesReader(), {}, Distinctions())["sweeps"]
    assert shown == {
        "id": "row_0",
        "key": "others_ratio",
        "values": [1, 16],
        "rows": ["row_0,others_ratio=1", "row_0,others_ratio=16"],
        "log": True,
    }
    without = experiment(folder, "options: {others_ratio: 4}")
    assert report_key(without) != key
    write_report(without)
    assert not list(plots.glob("sweep_*"))
