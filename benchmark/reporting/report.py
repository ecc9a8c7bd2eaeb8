"""An experiment's tables and plots."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.files import write_text
from benchmark.numerics import code_digest
from benchmark.recipes import LoadedExperiment
from benchmark.recipes.models import Run
from benchmark.recipes.paths import experiment_folder
from benchmark.recipes.project import project_root
from benchmark.reporting.answers import REPORTED
from benchmark.reporting.collect import RowResult, collect_row, read_reported
from benchmark.reporting.differences import FEWEST_SEEDS, Distinctions
from benchmark.reporting.noise import differences_csv
from benchmark.reporting.tables import comma_separated, latex, markdown
from benchmark.steps import link, older, steps_of, warn_of_old_layout
from benchmark.steps.collection import ORIGIN
from benchmark.steps.hashes import file_hash
from benchmark.steps.step import digest

MADE = "made"
"""Folder in an experiment's folder for the file that is named by the report key."""


class ReportError(BenchmarkError):
    """A report cannot be made."""


def report_key(experiment: LoadedExperiment) -> str:
    """16 hexadecimal digits of everything that the tables of an experiment depend on: its rows and their
    titles, results (their code versions, and whether they are finished), published numbers, and the code
    here."""
    runs = [
        (row.entry.model_dump(mode="json"), row.skipped, run) for row in experiment.rows for run in row.runs
    ]
    deviations = [[item.model_dump() for item in row.deviations] for row in experiment.rows]
    content = {
        "title": experiment.title,
        "metrics": experiment.metrics,
        "groups": [row.touches for row in experiment.rows],
        "comparable": [row.comparable for row in experiment.rows],
        "deviations": deviations,
        "runs": [
            [row, skipped, run.title, run.dataset.title, _results(run, skipped)] for row, skipped, run in runs
        ],
        "reported": file_hash(project_root() / REPORTED),
        "code": code_digest(Path(__file__).parent),
    }
    return digest(content)


def _results(run: Run, skipped: str | None) -> str | None:
    """The name of the evaluation whose numbers a complete table has for a run."""
    evaluate = steps_of(run)[-1]
    if skipped is None or evaluate.finished:
        return evaluate.key
    return next((folder.name for folder in older(evaluate)), None)


def write_report(experiment: LoadedExperiment, output: Path | None = None, intervals: bool = False) -> str:
    """Write ``table.md``, ``table.csv``, ``table.tex``, ``differences.csv``, ``plots/`` and ``report.html``;
    return the Markdown.

    ``output`` is a folder, by default ``results/experiments/<name>``, in which ``made/<report key>``
    identifies the content of the tables. Runs that failed, were skipped or are missing are rows with their
    state; plots show the results so far. If rows have three seeds, differences between them are tested with
    their saved detections. ``intervals`` adds intervals of the numbers of one seed to Markdown and page. Both
    take minutes at the size of LVIS. Raises ``ReportError`` for published numbers that cannot be read and
    ``FileError`` if the output cannot be written.
    """
    from benchmark.reporting.html import write_page  # importing the plotting library takes a second
    from benchmark.reporting.plots import write_plots
    from benchmark.reporting.series import SeriesReader

    folder = Path(output) if output is not None else experiment_folder(experiment.name)
    key = report_key(experiment)
    warn_of_old_layout()
    for run in (run for row in experiment.rows for run in row.runs):
        link(run)
    for stamp in (folder / MADE).glob("*"):
        stamp.unlink()
    try:
        reported = read_reported(project_root() / REPORTED)
    except BenchmarkError as error:
        raise ReportError(str(error)) from error
    rows = [collect_row(row, reported) for row in experiment.rows]
    notes = [
        f"{row.id}: no published row '{row.resolved.entry.reported}' in results/reported/reported.csv"
        for row in rows
        if row.resolved.entry.reported and row.reported is None
    ]
    reader = SeriesReader()
    write_plots(rows, folder / "plots", reader)
    notes += reader.notes
    distinctions = _distinctions(rows, notes)
    text = markdown(experiment.title, rows, notes, distinctions, experiment.metrics)
    certain = {}
    if intervals:
        from benchmark.reporting.intervals import interval_table, row_intervals  # loads the evaluator

        certain = row_intervals(rows)
        text = "\n".join(filter(None, (text, interval_table(certain))))
    write_text(folder / "table.csv", comma_separated(rows))
    write_text(folder / "table.tex", latex(experiment.title, rows, distinctions, experiment.metrics))
    write_text(folder / "differences.csv", differences_csv(distinctions))
    write_page(experiment, rows, notes, reader, certain, distinctions, folder / "report.html")
    write_text(folder / "table.md", text)
    write_text(folder / ORIGIN, f"{experiment.path.resolve()}\n")
    if all(run.done or row.resolved.skipped for row in rows for run in row.runs):
        write_text(folder / MADE / key, "")
    return text


def _distinctions(rows: Sequence[RowResult], notes: list[str]) -> Distinctions:
    """Which rows differ significantly; none, and a note, if the files for this are missing."""
    if max((len(row.counted) for row in rows), default=0) < FEWEST_SEEDS:
        return Distinctions()
    from benchmark.reporting.intervals import row_distinctions  # loads the evaluator

    try:
        return row_distinctions(rows)
    except BenchmarkError as error:
        notes.append(f"differences between rows are not tested: {str(error).splitlines()[0]}")
        return Distinctions()
