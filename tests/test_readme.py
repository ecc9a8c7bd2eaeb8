"""The README is correct: its table is the output of `make smoke`, and its paths and commands exist."""

import re
import subprocess
import sys
from pathlib import Path

from benchmark.recipes import describe

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_table_is_the_one_that_the_workflow_wrote() -> None:
    shown = re.search(r"<!-- results/smoke/table.md -->\n(.*?)\n<!-- end -->", README, re.DOTALL)
    assert shown is not None
    table = (ROOT / "results" / "smoke" / "table.md").read_text()
    rows = table.split("\n\n")[2].splitlines()  # after the heading and how many runs are done
    assert len(rows) == 9 + 2
    assert shown[1].splitlines() == rows


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
