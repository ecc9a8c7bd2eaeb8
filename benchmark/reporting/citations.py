"""Citations: the papers of an experiment's methods and datasets, as BibTeX."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.recipes import LoadedExperiment, lineage
from benchmark.recipes.models import Paper
from benchmark.recipes.plugins import Plugin


@dataclass(frozen=True)
class Citation:
    """A paper, and the methods or datasets for which it is cited, in table order."""

    paper: Paper
    cited_for: list[str]

    @property
    def bibtex(self) -> str:
        """One BibTeX entry."""
        return bibtex(self.paper)


def citations(experiment: LoadedExperiment) -> list[Citation]:
    """Every paper once: methods in table order, each followed by those that it starts from, then datasets.

    A method or dataset whose manifest names no paper is left out, and so is one that cannot be read.
    """
    runs = [run for row in experiment.rows for item in row.runs for run in reversed(lineage(item))]
    papers: list[tuple[Paper, str]] = []
    for run in runs:
        try:
            manifest = Plugin(run.method, Path(run.plugin_path)).method
        except BenchmarkError:
            continue
        title = f"{manifest.title} ({manifest.paper.note})" if manifest.paper.note else manifest.title
        papers.append((manifest.paper, title))
    papers += [(run.dataset.paper, run.dataset.title) for run in runs]
    found: dict[str, Citation] = {}
    for paper, name in papers:
        if paper.title:
            citation = found.setdefault(paper.arxiv or paper.title, Citation(paper, []))
            if name not in citation.cited_for:
                citation.cited_for.append(name)
    return list(found.values())


def bibtex(paper: Paper) -> str:
    """A paper as a BibTeX entry of type ``inproceedings``; unknown fields are omitted."""
    venue, year = paper.venue, None
    if found := re.fullmatch(r"(.*?)\s*\b(\d{4})", paper.venue):
        venue, year = found.groups()
    fields = {
        "title": f"{{{paper.title}}}",
        "author": " and ".join(paper.authors),
        "booktitle": venue,
        "year": year,
        "eprint": paper.arxiv,
        "archiveprefix": "arXiv" if paper.arxiv else None,
    }
    lines = [f"  {name:<13} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@inproceedings{{{_key(paper, year)},", *lines, "}"])


def _key(paper: Paper, year: str | None) -> str:
    """Surname, year and first long word of the title, e.g. ``gupta2019lvis``."""
    surname = paper.authors[0].split()[-1] if paper.authors else ""
    words = re.findall(r"\w+", paper.title)
    word = next((word for word in words if len(word) > 3), words[0] if words else "")
    text = unicodedata.normalize("NFKD", f"{surname}{year or ''}{word}").lower()
    return re.sub(r"[^a-z0-9]", "", text)
