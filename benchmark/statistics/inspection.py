"""Intermediate files as text, ours or those of the releases: groups, their sizes, their categories."""

import textwrap
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.annotations import check_same_vocabulary
from benchmark.statistics.class_statistics import ClassStatistics, class_statistics
from benchmark.statistics.class_tables import Groups, read_groups
from benchmark.statistics.errors import StatisticsError
from benchmark.statistics.groups import members
from benchmark.statistics.intermediates import ABLATIONS
from benchmark.statistics.upstream_files import NOT_GROUPS, UPSTREAM_FILES, read_upstream

Listing = dict[str, NDArray[np.int64]]  # a group's name to the labels 0..C-1 of its categories, in order


@dataclass(frozen=True)
class InspectedFile:
    """An intermediate file: its name in the folder, one line on its content, and the categories of each group
    if it is the file whose groups are listed. As text, a line for the file and for each group, and the
    categories."""

    name: str
    summary: str
    groups: dict[str, list[str]]

    def __str__(self) -> str:
        lines, indent = [f"{self.name}: {self.summary}"], " " * 4
        for group, categories in self.groups.items():
            lines.append(f"  {group}: {len(categories)} categories")
            lines += textwrap.wrap(
                ", ".join(categories), 100, initial_indent=indent, subsequent_indent=indent
            )
        return "\n".join(lines)


def inspect_intermediates(path: Path | str, annotations: Path | str | None = None) -> list[InspectedFile]:
    """The content of a folder of intermediate files, or of one file; checks every file without running code
    in it.

    Categories have names if ``annotations`` or the folder's ``class_statistics.csv`` has them; otherwise they
    are the class numbers of the releases (the ids of LVIS).

    Args:
        path: a folder, a ``groups.csv``, or a file with its name in the release.
        annotations: the annotation file that the tables were made from, or its table of class statistics.

    Raises:
        StatisticsError: there is no such file in the folder, or a file is invalid, contradicts another file
            of the folder, or belongs to another vocabulary.
        AnnotationError, FileError: a file cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        statistics = _statistics(path.parent, annotations)
        content = _read(path, statistics)
        return [_described(path.name, path.name, content, _groups(path.name, content), statistics)]
    statistics = _statistics(path, annotations)
    files = []
    for place in ("", *ABLATIONS):
        contents = {file.name: _read(file, statistics) for file in _existing_files(path / place)}
        groups = {name: _groups(name, content) for name, content in contents.items()}
        _check_agreement(path / place, contents, groups)
        listing = next((name for name in groups if groups[name]), None)
        for name, content in contents.items():
            shown = groups[name] if name == listing else None
            files.append(_described(name, str(Path(place, name)), content, shown, statistics))
    if not files:
        raise StatisticsError(
            "no intermediate file in the folder",
            where=path,
            expected=f"groups.csv, {', '.join(UPSTREAM_FILES)}",
            remedy="make them with longtail intermediates",
        )
    return files


def _statistics(folder: Path, annotations: Path | str | None) -> ClassStatistics | None:
    """The vocabulary of the annotations, of the folder or of its parent (for 2bins, 8bins); if there are two,
    they must be the same."""
    tables = [place / "class_statistics.csv" for place in (folder, folder.resolve().parent)]
    table = next((table for table in tables if table.is_file()), None)
    own = ClassStatistics.read(table) if table else None
    if annotations is None:
        return own
    read = ClassStatistics.read if Path(annotations).suffix == ".csv" else class_statistics
    given = read(annotations)
    if own is not None:
        check_same_vocabulary(
            own.as_vocabulary(f"class statistics {table}"),
            given.as_vocabulary(f"annotations {annotations}"),
            StatisticsError,
            "give the annotation file that the folder was made from",
        )
    return given


def _existing_files(folder: Path) -> list[Path]:
    """The files of the folder that can be shown, the one with most information on groups first."""
    patterns = ("groups.csv", *UPSTREAM_FILES)
    return [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]


def _read(path: Path, statistics: ClassStatistics | None) -> Any:
    if path.name != "groups.csv":
        return read_upstream(path, statistics.num_classes if statistics else None)
    if statistics is None:
        raise StatisticsError(
            "a table of groups without its class statistics",
            where=path,
            expected="class_statistics.csv beside it",
            remedy="give the annotation file with --ann",
        )
    return read_groups(path, statistics)


def _groups(name: str, content: Any) -> Listing:
    """The groups in a file; none for files without groups."""
    if name == "groups.csv":
        assert isinstance(content, Groups)
        edges, tables = content.edges, content.tables
        inner = [f"{left} to {right - 1}" for left, right in pairwise(edges)]
        counts = [f"below {edges[0]}", *inner, f"from {edges[-1]}"]
        return {
            f"group {group}, {count} instances": members(tables.targets[:, :-1], group)
            for group, count in enumerate(counts, 1)
        }
    if name == "label2binlabel.pt":
        return {f"group {group}": members(content[:, 1:], group) for group in range(1, len(content))}
    if name == "valsplit.pkl":
        return {key: labels - 1 for key, labels in content.items() if key not in NOT_GROUPS}
    return {}


def _check_agreement(folder: Path, contents: dict[str, Any], groups: dict[str, Listing]) -> None:
    """Check that all files of a folder with groups have the same ones."""
    told = {
        name: sorted(labels.tolist() for labels in known.values()) for name, known in groups.items() if known
    }
    different = [name for name in told if told[name] != next(iter(told.values()))]
    slices = contents.get("pred_slice_with0.pt")
    if told and slices is not None:
        first = next(iter(told))
        if sorted(slices[1:, 1] - 1) != sorted(map(len, told[first])):
            different.append("pred_slice_with0.pt")
    if different:
        raise StatisticsError(
            "files of one folder tell of different groups",
            where=folder,
            found=f"{', '.join(different)} and {next(iter(told))}",
            expected="files that were made together",
            remedy="write them again with longtail intermediates --upstream",
        )


def _described(
    name: str, shown_name: str, content: Any, groups: Listing | None, statistics: ClassStatistics | None
) -> InspectedFile:
    """One file, with the members of ``groups``."""
    if not groups:
        return InspectedFile(shown_name, _summary(name, content), {})
    categories = {
        group: [statistics.names[label] if statistics else str(label + 1) for label in labels.tolist()]
        for group, labels in groups.items()
    }
    number = sum(map(len, categories.values()))
    return InspectedFile(shown_name, f"{len(groups)} groups of {number} categories", categories)


def _summary(name: str, content: Any) -> str:
    """One line for a file whose groups are not listed."""
    if name == "pred_slice_with0.pt":
        bins = ", ".join(f"{start} to {start + length - 1}" for start, length in content.tolist())
        return f"{len(content)} bins, logits {bins}"
    if name in ("valsplit.pkl", "label2binlabel.pt"):
        return "the same groups"
    if isinstance(content, np.ndarray):
        return f"{content.dtype} {content.shape}, values {content.min():g} to {content.max():g}"
    if name == "bins_cls_weight.pkl":
        return f"float64 weights of {', '.join(str(len(weights) - 1) for weights in content)} categories"
    pairs = sum(len(entry["img_id"]) for entry in content.values())
    instances = sum(entry["isntance_count"] for entry in content.values())
    return f"{max(content)} classes, {pairs} pairs of class and image, {instances} instances"
