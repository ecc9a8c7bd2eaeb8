"""Figures are legible at their printed size, with few or many methods."""

from itertools import combinations
from pathlib import Path

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from reporting.results_tree import complete_run, made_up_experiment

from benchmark.recipes import load_experiment
from benchmark.recipes.project import project_root
from benchmark.reporting.collect import collect_row
from benchmark.reporting.plots import COLUMN, PAGE, STYLE, figures
from benchmark.reporting.series import SeriesReader, smoothed


def texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """The texts of a figure with their positions in pixels."""
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    hidden = {text for axes in figure.axes if not axes.axison for text in axes.findobj(Text)}
    found = [text for text in figure.findobj(Text) if text.get_visible() and text not in hidden]
    shown = []
    for axes in figure.axes:  # ticks beyond the limits exist but are not drawn
        for axis, low, high in ((axes.xaxis, *axes.get_xlim()), (axes.yaxis, *axes.get_ylim())):
            for tick in axis.get_major_ticks():
                if not min(low, high) <= tick.get_loc() <= max(low, high):
                    found = [text for text in found if text not in (tick.label1, tick.label2)]
    for text in found:
        box = text.get_window_extent(renderer)
        if text.get_text().strip() and box.width > 0:
            shown.append((text.get_text(), box))
    return shown


def assert_legible(figure: Figure) -> None:
    """Check that no text of a figure is cut or overlaps another."""
    written = texts(figure)
    assert len(written) > 8
    for text, box in written:
        inside = box.x0 >= -1 and box.y0 >= -1
        inside &= box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1
        assert inside, text
    for (left, one), (right, other) in combinations(written, 2):
        common = Bbox.intersection(one, other)
        assert common is None or min(common.width, common.height) < 1, (left, right)


@pytest.mark.parametrize(
    "name", ["made_up", *(pytest.param(name, marks=pytest.mark.slow) for name in ("smoke", "ablations"))]
)
def test_no_text_is_cut_or_lies_on_another_and_no_two_trainings_have_one_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = project_root() / "workflows" / "experiments" / f"{name}.yaml"
    experiment = load_experiment(str(path)) if path.exists() else made_up_experiment(tmp_path)
    for number, row in enumerate(experiment.rows):
        for run in row.runs:
            complete_run(run, 0.3 + number % 10 / 40, 0.3)
    with matplotlib.rc_context(STYLE):
        for figure in figures([collect_row(row, {}) for row in experiment.rows], SeriesReader()).values():
            assert figure is not None
            width, height = figure.get_size_inches()
            assert width in (COLUMN, PAGE)
            assert height <= 9.3  # the text height of a page
            assert_legible(figure)
            trainings = [" ".join(text.split()) for text, _ in texts(figure) if ": " in text]
            assert len(trainings) == len(set(trainings))


def test_a_smoothed_curve_follows_the_categories() -> None:
    """A line in the logarithm is reproduced except at its ends; without values there is no curve."""
    import numpy as np

    counts = np.geomspace(1, 10_000, 200).round().astype(int)
    x, y = smoothed(counts, 0.1 * np.log10(counts))
    inner = (x > 10) & (x < 1000)
    assert np.allclose(y[inner], 0.1 * np.log10(x[inner]), atol=0.01)
    assert smoothed(counts, np.full(200, np.nan))[0].size == 0
    alone = np.where(np.arange(200) == 7, 0.3, np.nan)
    assert smoothed(counts, alone)[1].tolist() == pytest.approx([0.3])
