"""A sample of the fault run, which as a whole is `make faults`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_one_fault_of_each_of_the_first_kinds() -> None:
    command = [sys.executable, "-m", "tests.faults", "--faults", "8", "--no-workflow", "--jobs", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8  faults" in done.stdout
    assert "0 violations" in done.stdout
