"""Renders the page from its templates into one file with style, scripts, plotting library and content."""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from benchmark.files import write_text
from benchmark.recipes import LoadedExperiment
from benchmark.reporting.collect import RowResult
from benchmark.reporting.differences import Distinctions
from benchmark.reporting.html.content import page_content
from benchmark.reporting.series import SeriesReader

if TYPE_CHECKING:
    from benchmark.reporting.intervals import RowIntervals

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("page.js", "table.js", "differences.js", "plots.js", "examples.js", "start.js")


def write_page(
    experiment: LoadedExperiment,
    rows: Sequence[RowResult],
    notes: Sequence[str],
    reader: SeriesReader,
    certain: Mapping[str, "RowIntervals"],
    distinctions: Distinctions,
    path: Path,
) -> None:
    """Write ``report.html``; ``certain`` are the intervals of the rows that have some, by row id, and
    ``distinctions`` the tests of their differences.

    The file is self-contained, and its content security policy forbids every request. Equal results give
    equal bytes. Raises ``FileError`` if it cannot be written.
    """
    content = page_content(experiment, rows, notes, reader, certain, distinctions)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("page.html").render(
        title=experiment.title,
        style=_verbatim("page.css"),
        scripts=[_verbatim(name) for name in SCRIPTS],
        plotly=Markup(resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text("utf-8")),
        content=_embedded(content),
    )
    write_text(path, text)


def _verbatim(name: str) -> Markup:
    """One of our styles or scripts, not escaped, because browsers do not unescape there."""
    return Markup((TEMPLATES / name).read_text("utf-8"))


def _embedded(content: object) -> Markup:
    """JSON for a script element, in which only ``<`` could end it or start a comment."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))
