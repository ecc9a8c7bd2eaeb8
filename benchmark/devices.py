"""Assignment of a machine's GPUs to independent jobs: each process leases its GPUs with file locks."""

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

# not TMPDIR: all jobs and users of the machine must use the same folder
LOCKS = Path("/tmp/longtail-devices")
POLL = 0.5  # seconds
VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
SCHEDULERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID")

_held: dict[str, FileLock] = {}
"""The locks of this process by device. The system releases them when the process ends for any reason."""


def lease_devices(count: int, *, devices: Sequence[str] | None = None, locks: Path = LOCKS) -> list[str]:
    """Lease ``count`` GPUs until this process ends, and hide all others from CUDA.

    Call this before CUDA is initialised. Waits, with one message, while too few GPUs are free. Does nothing
    on a machine without GPUs. Inside the job of a scheduler, only the processes of this job (which may be a
    whole workflow) compete for its GPUs.

    Args:
        count: number of GPUs needed.
        devices: the GPUs to choose from; default: those that are visible now.
        locks: folder of the lock files, on a local disk.

    Returns:
        The GPUs that this process holds, as in CUDA_VISIBLE_DEVICES; empty on a machine without GPUs.

    Raises:
        MissingDependencyError: there are GPUs, but fewer than ``count``.
    """
    if count == 0:
        return []
    own = ""
    if devices is None:
        # number GPUs as the driver does, and visible_devices; CUDA's default order is by speed
        os.environ.setdefault(ORDER, "PCI_BUS_ID")
        devices = visible_devices()
        job = next((os.environ[name] for name in SCHEDULERS if name in os.environ), None)
        if job is not None and VISIBLE in os.environ:  # in another job, the same number may be another GPU
            own = f"job {job} "
    if not devices or count <= len(_held):
        return list(_held)
    if count > len(devices):
        raise MissingDependencyError(
            "not enough GPUs",
            found=f"{len(devices)}: {', '.join(devices)}",
            expected=f"{count}",
            remedy=f"lower --devices, or make more GPUs visible ({VISIBLE})",
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
    """Try once to lock ``count`` devices, all or none; ``own`` is a prefix of the names of the lock files."""
    # one process at a time: two that need two GPUs each must not end up with one each
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
    """The GPUs that CUDA shows to this process with ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, by UUID if the driver
    reports it. Slices of a GPU (MIG) must be listed in ``CUDA_VISIBLE_DEVICES``."""
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
    """Acquire a lock whose file other users can lock too; None if another process holds it."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)
    lock = FileLock(folder / re.sub(r"[^\w-]", "_", name), mode=0o666)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        return None
    return lock
