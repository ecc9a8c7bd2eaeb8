"""An experiment's tables and plots."""

from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.files import write_text
from benchmark.recipes import LoadedExperiment
from benchmark.recipes.paths import experiment_folder
from benchmark.recipes.project import project_root
from benchmark.reporting.collect import collect_row, read_reported
from benchmark.reporting.tables import comma_separated, latex, markdown


class ReportError(BenchmarkError):
    """A report that cannot be made."""


def write_report(experiment: LoadedExperiment, output: Path | None = None, intervals: bool = False) -> str:
    """Write ``table.md``, ``table.csv``, ``table.tex``, ``plots/`` and ``report.html``; return the Markdown.

    ``output`` is a folder, by default ``results/experiments/<name>``. Runs that failed, were skipped or are
    not yet there are rows with their state; plots show what there is. ``intervals`` adds to Markdown and
    page how certain the numbers are, which takes minutes at the size of LVIS. Raises ``ReportError`` for
    published numbers that cannot be read and ``FileError`` where the output cannot be written.
    """
    from benchmark.reporting.html import write_page  # importing what draws takes a second
    from benchmark.reporting.plots import write_plots
    from benchmark.reporting.series import SeriesReader

    folder = Path(output) if output is not None else experiment_folder(experiment.name)
    try:
        reported = read_reported(project_root() / "results" / "reported" / "reported.csv")
    except BenchmarkError as error:
        raise ReportError(str(error)) from error
    rows = [collect_row(row, reported) for row in experiment.rows]
    notes = [
        f"{row.row.row.id}: no published row '{row.row.row.reported}' in results/reported/reported.csv"
        for row in rows
        if row.row.row.reported and row.reported is None
    ]
    reader = SeriesReader()
    write_plots(rows, folder / "plots", reader)
    notes += reader.notes
    text = markdown(experiment.title, rows, notes)
    certain = {}
    if intervals:
        from benchmark.reporting.intervals import interval_table, row_intervals  # loads the evaluator

        certain = row_intervals(rows)
        text = "\n".join(filter(None, (text, interval_table(certain))))
    write_text(folder / "table.csv", comma_separated(rows))
    write_text(folder / "table.tex", latex(experiment.title, rows))
    write_page(experiment, rows, notes, reader, certain, folder / "report.html")
    write_text(folder / "table.md", text)
    return text
