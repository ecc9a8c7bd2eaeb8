"""CSV tables that preserve every text, including all kinds of line ends."""

import csv
import io
from collections.abc import Iterable, Sequence


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """The rows as CSV whose lines end in ``\\n``; cells with a line end (``\\n``, ``\\r``) are quoted."""
    lines = []
    for row in rows:
        line = io.StringIO()
        # the writer quotes cells with a character of its line end
        csv.writer(line, lineterminator="\r\n").writerow(row)
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def csv_records(text: str) -> list[dict[str, str]]:
    """The rows of a table with a header, as mappings from column names."""
    return list(csv.DictReader(_stream(text)))


def csv_rows(text: str) -> list[tuple[int, list[str]]]:
    """The line (from 1) on which each row begins, and its cells; blank lines are left out.

    Unlike with ``str.splitlines``, only ``\\n``, ``\\r`` and ``\\r\\n`` outside quotes end a row.
    """
    reader, rows, line = csv.reader(_stream(text)), [], 1
    for row in reader:
        if row:
            rows.append((line, row))
        line = reader.line_num + 1
    return rows


def _stream(text: str) -> io.StringIO:
    """The text for a reader of ``csv``; the limit of a cell, one for the whole process, is never lowered."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    return io.StringIO(text, newline="")
