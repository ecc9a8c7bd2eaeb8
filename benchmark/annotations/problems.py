"""Problems of a dataset, in one form for text, JSON and errors."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmark.errors import BenchmarkError

LIMIT = 100
"""Number of records that are kept of each kind of problem in a file."""

SHOWN = 5
"""Number of records that are shown of each kind."""

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One defect of one record.

    Training, prediction or evaluation refuses an ``error``, or it makes the numbers of the whole file wrong;
    they tolerate a ``warning``, as described in ``expected`` or ``remedy``. ``what`` is the kind, in the same
    words for all its records; ``record`` is annotation, image, category or file; ``id`` is None if there is
    none. A record without a readable id is named by its position, e.g. ``annotation[12]``. ``count`` is the
    number of problems of this kind in the file; if there are many, a list contains the first ones.
    """

    what: str
    record: str
    id: int | None
    field: str
    found: str
    expected: str
    remedy: str | None = None
    severity: Severity = "error"
    file: str | None = None
    count: int = 1

    def as_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)

    def as_error(self, kind: type[BenchmarkError], path: Path) -> BenchmarkError:
        """The problem as the error of a command that refuses the file ``path``."""
        check = f"longtail check {path} shows every problem"
        return kind(
            self.what,
            where=f"{path}, {self._name}",
            found=f"{self.field}: {self.found}",
            expected=self.expected,
            remedy=f"{self.remedy}; {check}" if self.remedy else check,
        )

    @property
    def _name(self) -> str:
        return self.record if self.id is None else f"{self.record} {self.id}"

    def __str__(self) -> str:
        return f"{self._name}, {self.field}: found {self.found}, expected {self.expected}"


class Findings:
    """Collects the problems of one file: the first ``LIMIT`` of each kind, and their total."""

    def __init__(self, file: Path | str) -> None:
        self._file = str(file)
        self._kept: list[Problem] = []
        self._counts: Counter[tuple[str, Severity]] = Counter()
        self._faults: set[tuple[str, int | None, str]] = set()

    def add_fault(self, problem: Problem) -> None:
        """Add that a field cannot be read; further problems of the record that follow from it are not
        added."""
        self.add(problem)
        self._faults.add((problem.record, problem.id, problem.field))

    def add(self, problem: Problem) -> None:
        """Count a problem, and keep it unless its kind already has ``LIMIT``."""
        if (problem.record, problem.id, problem.field) in self._faults:
            return
        kind = (problem.what, problem.severity)
        self._counts[kind] += 1
        if self._counts[kind] <= LIMIT:
            self._kept.append(problem)

    def extend(self, problems: Iterable[Problem]) -> None:
        """Add each."""
        for problem in problems:
            self.add(problem)

    def problems(self) -> list[Problem]:
        """The kept problems with file and counts: categories, images, annotations, then the file."""
        order = ("category", "image", "annotation", "file")
        return [
            replace(problem, file=self._file, count=self._counts[problem.what, problem.severity])
            for problem in sorted(self._kept, key=lambda item: order.index(item.record.split("[")[0]))
        ]


def problems_text(problems: Sequence[Problem], shown: int = SHOWN) -> str:
    """The problems as text: by file and kind, errors first, ``shown`` records of each kind."""
    kinds: dict[tuple[str | None, str, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.file, problem.severity, problem.what), []).append(problem)
    lines: list[str] = []
    for file in dict.fromkeys(kind[0] for kind in kinds):
        lines += [*([""] if lines else []), f"{file}"]
        for severity in ("error", "warning"):
            for (of_file, of_severity, what), found in kinds.items():
                if (of_file, of_severity) != (file, severity):
                    continue
                count = found[0].count
                lines.append(f"{severity}: {what}" + (f" ({count:,} times)" if count > 1 else ""))
                lines += [f"  {problem}" for problem in found[:shown]]
                if count > shown:
                    lines.append(f"  and {count - shown:,} more")
                if found[0].remedy:
                    lines.append(f"  remedy: {found[0].remedy}")
    return "\n".join(lines)


def counted(problems: Sequence[Problem]) -> dict[Severity, int]:
    """The total numbers of errors and warnings."""
    kinds = {(problem.file, problem.severity, problem.what): problem for problem in problems}
    totals: dict[Severity, int] = {"error": 0, "warning": 0}
    for problem in kinds.values():
        totals[problem.severity] += problem.count
    return totals
