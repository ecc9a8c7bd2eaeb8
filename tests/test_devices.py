"""Independent processes never hold the same device; a dead process holds none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.devices import VISIBLE, lease_devices, visible_devices
from benchmark.errors import MissingDependencyError

HOLD = """
import os, sys, time
from pathlib import Path
from benchmark.devices import VISIBLE, lease_devices
from benchmark.messages import show_messages
show_messages()
folder, count, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
held = lease_devices(count, devices=sys.argv[4:], locks=folder / "locks")
assert os.environ[VISIBLE] == ",".join(held)
used = []
for device in held:  # another user of the device would make this fail
    used.append(os.open(folder / f"in use {device}", os.O_CREAT | os.O_EXCL))
print(*held, flush=True)
time.sleep(seconds)
for device in held:
    (folder / f"in use {device}").unlink()
"""


def holder(folder: Path, count: int, seconds: float, *devices: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", HOLD, str(folder), str(count), str(seconds), *devices]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_more_processes_than_devices_take_turns(tmp_path: Path) -> None:
    """Some need one of three devices, some two; each finds its devices unused, and all get a turn."""
    processes = [holder(tmp_path, count, 0.2, "a", "b", "c") for count in (1, 2, 1, 2, 1, 2, 1)]
    ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 7, ends
    assert [len(out.split()) for out, _ in ends] == [1, 2, 1, 2, 1, 2, 1]
    assert all(err.count("waiting for") <= 1 for _, err in ends)
    assert not list(tmp_path.glob("in use *"))


def test_what_a_killed_process_held_goes_to_the_one_that_waits(tmp_path: Path) -> None:
    first = holder(tmp_path, 2, 60, "a", "b")
    assert first_line(first) == "a b"
    second = holder(tmp_path, 1, 0, "a", "b")
    assert second.stderr is not None
    assert "waiting for 1 of 2 GPUs" in second.stderr.readline()
    for file in tmp_path.glob("in use *"):
        file.unlink()
    assert second.poll() is None
    first.kill()
    first.wait()
    assert first_line(second) == "a"
    assert second.wait() == 0


def test_a_process_of_its_own_gets_another_device(tmp_path: Path) -> None:
    first = holder(tmp_path, 1, 60, "a", "b")
    assert first_line(first) == "a"
    second = holder(tmp_path, 1, 60, "a", "b")
    assert first_line(second) == "b"
    for process in (first, second):
        process.kill()
        process.wait()


def test_too_few_devices_are_an_error_and_none_is_not(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"(?s)not enough GPUs.*2: a, b.*3"):
        lease_devices(3, devices=["a", "b"], locks=tmp_path)
    assert lease_devices(2, devices=[], locks=tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_what_a_scheduler_or_a_user_has_chosen_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices are chosen from CUDA_VISIBLE_DEVICES; "-1" and "" mean no GPU."""
    monkeypatch.setenv("PATH", str(tmp_path))  # a machine without nvidia-smi
    monkeypatch.setenv(VISIBLE, "1,3")
    assert visible_devices() == ["1", "3"]
    for nothing in ("", "-1"):
        monkeypatch.setenv(VISIBLE, nothing)
        assert visible_devices() == []
    monkeypatch.delenv(VISIBLE)
    assert visible_devices() == []
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho '0, GPU-aa'\necho '1, GPU-bb'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert visible_devices() == ["GPU-aa", "GPU-bb"]
    monkeypatch.setenv(VISIBLE, "1")
    assert visible_devices() == ["GPU-bb"]


SCHEDULED = """
import os, sys
from pathlib import Path
from benchmark.devices import lease_devices
print(*lease_devices(1, locks=Path(sys.argv[1])), os.environ["CUDA_DEVICE_ORDER"], flush=True)
sys.stdin.read()
"""


def test_processes_of_a_scheduled_job_share_out_its_gpus(tmp_path: Path) -> None:
    """Jobs of a workflow inside one allocation get one GPU each; another allocation's GPUs with the same
    numbers are different ones."""
    environment = {name: value for name, value in os.environ.items() if "CUDA" not in name}
    environment |= {VISIBLE: "0,1", "PATH": str(tmp_path)}  # no nvidia-smi
    command = [sys.executable, "-c", SCHEDULED, str(tmp_path / "locks")]
    held = []
    processes = []
    for job in ("7", "7", "8"):
        process = subprocess.Popen(
            command, env=environment | {"SLURM_JOB_ID": job}, stdin=-1, stdout=-1, text=True
        )
        processes.append(process)
        held.append(first_line(process))
    for process in processes:
        process.communicate("")
    assert held == ["0 PCI_BUS_ID", "1 PCI_BUS_ID", "0 PCI_BUS_ID"]
