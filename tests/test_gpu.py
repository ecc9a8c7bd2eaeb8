"""``make gpu`` at tiny size without a GPU: its topics run, and a second call has nothing to do."""

import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from gpu.__main__ import LIMITS
from gpu.methods import enter_place

from benchmark.devices import VISIBLE, lease_devices

ROOT = Path(__file__).resolve().parents[1]


def run(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.gpu", "--dry", "--minutes", "60", "--place", str(place), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_topics_run_and_what_is_done_stays(tmp_path: Path) -> None:
    """All topics except two, which the tests of the canary and of `make agreement` cover."""
    known = [f"<!-- topic: {topic}, done -->\n## {topic}\n" for topic in ("methods", "agreement")]
    (tmp_path / "dry.md").write_text("\n".join(known))
    done = run(tmp_path)
    text = (tmp_path / "dry.md").read_text()
    assert done.returncode == 0, text + done.stderr
    for topic in LIMITS:
        assert f"<!-- topic: {topic}, done -->" in text
    assert "failed" not in text
    again = run(tmp_path)
    assert again.returncode == 0
    assert "after" not in again.stderr
    assert (tmp_path / "dry.md").read_text() == text


def test_a_topic_that_fails_stops_no_other_and_is_run_again(tmp_path: Path) -> None:
    """With no time left no topic starts; a failed topic has its reason, and finished ones are kept."""
    sections = [f"<!-- topic: {topic}, done -->\n## {topic}\n" for topic in LIMITS if topic != "retraining"]
    sections.append("<!-- topic: retraining, failed -->\n## old\n")
    (tmp_path / "dry.md").write_text("\n".join(sections))
    late = run(tmp_path, "--minutes", "0")
    assert late.returncode == 1
    assert "retraining: no time left" in late.stderr
    assert (tmp_path / "dry.md").read_text() == "\n".join(sections)


def test_processes_of_a_topic_share_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease ends with its process; processes of a pool end together, so none may wait for another's."""
    monkeypatch.setenv(VISIBLE, "7")
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=enter_place) as pool:
        leases = [pool.submit(lease_with_another, tmp_path) for _ in range(2)]
        assert [lease.result() for lease in leases] == [["7"], ["7"]]


def lease_with_another(locks: Path) -> list[str]:
    """Lease a device, and keep the process busy until a second one has it too."""
    devices = lease_devices(1, locks=locks)
    (locks / f"{os.getpid()}.leased").touch()
    end = time.monotonic() + 120
    while len(list(locks.glob("*.leased"))) < 2:
        if time.monotonic() > end:
            os._exit(1)  # which breaks the pool; otherwise the other waits forever
        time.sleep(0.05)
    return devices
