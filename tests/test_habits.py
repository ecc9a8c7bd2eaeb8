"""The tools that check a commit are those of ``make lint``."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def test_pre_commit_runs_the_tools_of_make_lint() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    linted = {line.strip().removeprefix("$(BIN)/") for line in recipe[1].splitlines()}
    paths = {" .", " Snakefile workflows"}  # pre-commit adds the changed files itself
    tools = {
        next((line.removesuffix(path) for path in paths if line.endswith(path)), line) for line in linted
    }
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    entries = {hook["entry"].removeprefix(".venv/bin/") for hook in repository["hooks"]}
    assert {entry.removesuffix(" --force-exclude") for entry in entries} == tools
