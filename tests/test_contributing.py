"""CONTRIBUTING.md works: its blocks are executed in order, in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
PARTS = ("Makefile", "Snakefile", "benchmark", "envs", "methods", "pyproject.toml", "tests", "workflows")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone of the repository, without results."""
    folder = tmp_path_factory.mktemp("repository")
    for name in (*PARTS, "results/reported"):
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def blocks(section: str) -> list[tuple[str, str]]:
    """Info string and text of every block of a section that is a file or commands."""
    text = re.split(r"^## ", PAGE.split(f"\n## {section}\n")[1], flags=re.MULTILINE)[0]
    found = re.findall(r"^```([^\n]+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert found
    return found


def carry_out(section: str, folder: Path) -> str:
    """Write the files and run the commands of a section; returns all output."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
    }
    environment.pop("LONGTAIL_DATA", None)
    printed = []
    for info, text in blocks(section):
        language, _, path = info.partition(" ")
        if path:
            name, appended, _ = path.partition(" (appended)")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text((target.read_text() + "\n" if appended else "") + text)
        else:
            assert language == "sh"
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=folder,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}"
            printed.append(done.stdout)
    return "".join(printed)


def test_a_method_is_added_by_following_the_page(copy: Path) -> None:
    printed = carry_out("A method", copy)
    assert re.search(r"\d+ passed", printed)
    assert "failed" not in printed
    assert "logit_adjusted+half" in printed
    assert "3 of 3 runs done" in printed
    assert "Logit adjustment (seed 0) minus Softmax (seed 0)" in printed
    assert "@inproceedings{menon2021long," in printed
    assert (copy / "results/experiments/logit_adjusted/report.html").is_file()


def test_the_example_method_is_clean(copy: Path) -> None:
    """The example on the page passes the project's linter."""
    carry = [(info, text) for info, text in blocks("A method") if info.startswith("python ")]
    for info, text in carry:
        target = copy / info.partition(" ")[2]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        ruff = Path(sys.executable).with_name("ruff")
        for command in (["check"], ["format", "--check"]):
            done = subprocess.run([ruff, *command, target], cwd=copy, capture_output=True, check=False)
            assert done.returncode == 0, done.stdout.decode()


def test_a_detector_is_added_by_following_the_page(copy: Path) -> None:
    assert "torchvision/small_mask_rcnn" in carry_out("A detector", copy)


def test_a_dataset_is_added_by_following_the_page(copy: Path) -> None:
    printed = carry_out("A dataset", copy)
    assert printed.count("0 problems") == 2
    assert "3 of 3 runs done" in printed
    assert "others_ratio: 1.0" in printed


def test_named_files_and_commands_exist() -> None:
    for path in re.findall(r"`((?:benchmark|tests|workflows|results/reported)/[\w./]+)`", PAGE):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in re.findall(r"\bmake ([a-z-]+)", PAGE):
        assert line in targets
