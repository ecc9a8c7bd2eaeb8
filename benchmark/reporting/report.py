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
    """Write ``table.md``, ``table.csv``, ``table.tex`` and ``plots/`` and return the Markdown.

    ``output`` is a folder, by default ``results/experiments/<name>``. Runs that failed, were skipped or are
    not yet there are rows with their state; plots show what there is. ``intervals`` adds to the Markdown how
    certain the numbers are, which takes minutes at the size of LVIS. Raises ``ReportError`` for published
    numbers that cannot be read and ``FileError`` where the output cannot be written.
    """
    from benchmark.reporting.plots import write_plots  # matplotlib takes half a second

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
    notes += write_plots(rows, folder / "plots")
    text = markdown(experiment.title, rows, notes)
    if intervals:
        from benchmark.reporting.intervals import interval_table  # loads the evaluator

        text = "\n".join(filter(None, (text, interval_table(rows))))
    write_text(folder / "table.csv", comma_separated(rows))
    write_text(folder / "table.tex", latex(experiment.title, rows))
    write_text(folder / "table.md", text)
    return text
