"""The README is correct: its tables are the output of the workflow, and its paths and commands exist."""

import re
import subprocess
import sys
from pathlib import Path

from benchmark.recipes import describe

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def shown(path: str) -> list[str]:
    """The lines of the README's table from a file."""
    found = re.search(rf"<!-- {path} -->\n(.*?)\n<!-- end -->", README, re.DOTALL)
    assert found is not None
    return found[1].splitlines()


def test_the_table_is_the_one_that_the_workflow_wrote() -> None:
    table = (ROOT / "results" / "smoke" / "table.md").read_text()
    rows = table.split("\n\n")[2].splitlines()  # after the heading and how many runs are done
    assert len(rows) == 9 + 2
    assert shown("results/smoke/table.md") == rows


def cells(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_all_methods_has_the_numbers_that_the_workflow_wrote() -> None:
    head, _, *rows = cells(shown("results/smoke/benchmark.md"))
    parts = (ROOT / "results" / "smoke" / "benchmark.md").read_text().split("\n\n")
    numbers, ranks = (cells(part.splitlines()) for part in parts[2:4])
    ranks_of = {row[0]: dict(zip(ranks[0], row, strict=True)) for row in ranks[2:]}
    written = []
    for row in numbers[2:]:
        columns = dict(zip(numbers[0], row, strict=True)) | ranks_of.get(row[0], {})
        written.append([columns.get(name, "") for name in head])
        if row[0] not in ranks_of:  # the name of a group
            written[-1][0] = row[0]
    assert len(ranks_of) == 32
    assert rows == written


def test_every_method_is_in_the_line_of_what_it_changes() -> None:
    listed = {
        name: group
        for group, names in re.findall(r"^\| (\S+) \| (`\w+`(?:, `\w+`)*) \|$", README, re.MULTILINE)
        for name in re.findall(r"\w+", names)
    }
    methods = [entry for entry in describe("methods") if "+" not in entry["name"]]
    assert listed == {entry["name"]: entry["touches"] for entry in methods}


def test_every_folder_and_picture_exists() -> None:
    folders = re.findall(r"^\| (`.+?) \|", README.split("## Folders")[1].split("##")[0], re.MULTILINE)
    named = re.findall(r"`([^`]+)`", " ".join(folders)) + re.findall(r"\]\((results/[^)]+)\)", README)
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists(), name


def test_every_command_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets
    commands = set(re.findall(r"^longtail ([a-z]+)", README, re.MULTILINE))
    program = [sys.executable, "-m", "benchmark.cli", "--help"]
    helped = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert commands
    for command in commands:
        assert f" {command} " in helped
