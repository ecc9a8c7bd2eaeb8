"""GPUs of one machine, among jobs that do not know of each other: a process holds its own by file locks."""

import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from benchmark.errors import MissingDependencyError

_LOGGER = logging.getLogger(__name__)

# not TMPDIR: all jobs and users of the machine must look into the same folder
LOCKS = Path("/tmp/longtail-devices")
POLL = 0.5  # seconds
VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
SCHEDULERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID")

_held: dict[str, FileLock] = {}
"""By device; the system releases them when the process ends, however."""


def lease_devices(count: int, *, devices: Sequence[str] | None = None, locks: Path = LOCKS) -> list[str]:
    """Hold ``count`` GPUs until this process ends, and make no other visible to CUDA.

    To be called before CUDA is initialised. Waits, with one message, while other processes hold too many.
    Does nothing if there is no GPU. GPUs that a scheduler has given to its job are leased among the
    processes of this job, which may be a whole workflow.

    Args:
        count: GPUs that are needed.
        devices: what to choose from; default: the GPUs that are visible now.
        locks: folder of lock files, on a disk of this machine.

    Returns:
        The devices held by this process, as CUDA_VISIBLE_DEVICES has them; empty where nothing was done.

    Raises:
        MissingDependencyError: there are GPUs, but fewer than ``count``.
    """
    if count == 0:
        return []
    own = ""
    if devices is None:
        # numbers of GPUs are then the driver's, as in visible_devices; CUDA's own order is by speed
        os.environ.setdefault(ORDER, "PCI_BUS_ID")
        devices = visible_devices()
        job = next((os.environ[name] for name in SCHEDULERS if name in os.environ), None)
        if job is not None and VISIBLE in os.environ:  # other jobs may have other GPUs by the same numbers
            own = f"job {job} "
    if not devices or count <= len(_held):
        return list(_held)
    if count > len(devices):
        raise MissingDependencyError(
            "not enough GPUs",
            found=f"{len(devices)}: {', '.join(devices)}",
            expected=f"{count}",
            remedy=f"lower --devices, or make more of them visible ({VISIBLE})",
        )
    told = False
    while not _lease(count, devices, own, locks):
        if not told:
            text = "waiting for %s of %s GPUs: other longtail processes use them (locks in %s)"
            _LOGGER.info(text, count, len(devices), locks)
            told = True
        time.sleep(POLL)
    os.environ[VISIBLE] = ",".join(_held)
    return list(_held)


def _lease(count: int, devices: Sequence[str], own: str, locks: Path) -> bool:
    """Try once to hold ``count`` devices, all or none; ``own`` begins the names of their lock files."""
    # one process at a time tries: two that need two GPUs each must not end up with one each
    turn = _lock(locks, "turn", wait=True)
    taken = dict(_held)
    for device in devices:
        if len(taken) < count and device not in taken:
            lock = _lock(locks, own + device, wait=False)
            if lock is not None:
                taken[device] = lock
    if len(taken) == count:
        _held.update(taken)
    else:
        for device in taken.keys() - _held.keys():
            taken[device].release()
    if turn is not None:
        turn.release()
    return len(_held) == count


def visible_devices() -> list[str]:
    """The GPUs that CUDA would show to this process with ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, by UUID where the
    driver tells it. Slices of a GPU (MIG) have to be named in ``CUDA_VISIBLE_DEVICES``."""
    known: dict[str, str] = {}
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            pass  # no driver, so no GPU
        else:
            known = dict(line.split(", ", 1) for line in done.stdout.splitlines() if ", " in line)
    chosen = os.environ.get(VISIBLE)
    if chosen is None:
        return list(known.values())
    names = [name.strip() for name in chosen.split(",")]
    return [known.get(name, name) for name in names if name and name != "-1"]


def _lock(folder: Path, name: str, *, wait: bool) -> FileLock | None:
    """A lock that is held, in a file that other users may lock too; None if another process has it."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)
    lock = FileLock(folder / re.sub(r"[^\w-]", "_", name), mode=0o666)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        return None
    return lock
