"""Every kind of golden case is tested, or listed with the reason why not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from golden_cases import FOLDER, NOT_HELD, OWN, load
from second_golden_set import LEFT_OUT, write_second_set

SOURCES = "\n".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))


def test_every_golden_file_is_in_the_index() -> None:
    files = {path.stem for path in FOLDER.glob("*.json")}
    if FOLDER == OWN:
        assert files == set(NOT_HELD)
    elif not files & set(NOT_HELD):
        pytest.fail(f"{FOLDER} has no golden file: expected one of {', '.join(sorted(NOT_HELD))}")
    elif files - set(NOT_HELD):
        pytest.skip(f"files that nothing here answers to: {', '.join(sorted(files - set(NOT_HELD)))}")


@pytest.mark.parametrize("file", sorted(NOT_HELD))
def test_every_golden_kind_has_a_test_or_a_reason(file: str) -> None:
    tested = set(re.findall(rf'golden_cases\(\s*"{file}",\s*"(\w+)"', SOURCES))
    cases = load(file)["cases"]
    kinds = {case["kind"] for case in cases}
    to_hold = {case["kind"] for case in cases if case["status"] != "upstream_bug"}
    assert not tested & set(NOT_HELD[file])
    assert to_hold <= tested | set(NOT_HELD[file])
    if FOLDER == OWN:
        assert tested | set(NOT_HELD[file]) <= kinds


@pytest.mark.skipif(FOLDER != OWN, reason="the tests run with another folder already")
def test_golden_tests_hold_for_another_folder(tmp_path: Path) -> None:
    """With other names, orders and ids; missing files and kinds are skipped with the reason."""
    write_second_set(tmp_path)
    files = [path for path in Path(__file__).parent.rglob("test_*.py") if "golden_cases(" in path.read_text()]
    program = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-k", "golden", *files]
    environment = os.environ | {"GOLDEN_DIR": str(tmp_path)}
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(program, cwd=root, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert f"{tmp_path}/{LEFT_OUT}.json has no case of kind lws_forward" in done.stdout
    assert done.stdout.count(".") > 300
