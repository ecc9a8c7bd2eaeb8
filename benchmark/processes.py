"""Runs one step of a recipe as several processes on one machine, one per device.

``torchrun`` (torch.distributed.elastic) is not used: it exits with 1 for every failure, but the workflow
needs our exit status (2 bad input, 3 interrupted); if it is killed, its workers keep running and hold their
GPUs; and 30 s after SIGTERM it kills them, perhaps while they write a checkpoint. No step needs several
nodes, and Snakemake restarts jobs.
"""

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

from benchmark.devices import lease_devices
from benchmark.errors import BenchmarkError
from benchmark.recipes.paths import RECORD
from benchmark.records import State, amend_record, read_record

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

GRACE = 10.0  # seconds after a failure until the remaining processes are killed
POLL = 0.05
TAIL = 8192  # bytes at the end of a process's stderr that are searched for its error
INTERRUPTED = 3
# Fabric's names for the `precision` of a schedule
PRECISIONS: dict[str, Any] = {"fp32": "32-true", "tf32": "32-true", "bf16-mixed": "bf16-mixed"}
_PARENT = "LONGTAIL_PARENT"  # process id of the launcher
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_LOST_CONNECTION = re.compile(r"gloo|nccl|connection|broken pipe|socket", re.IGNORECASE)


class ProcessError(BenchmarkError):
    """One of several processes was killed or failed; ``code`` is its exit status, negative for a signal."""

    def __init__(self, what: str, code: int) -> None:
        killed = code == -signal.SIGKILL
        super().__init__(
            what,
            remedy="memory may have run out: use a smaller batch, or request more memory for the job"
            if killed
            else None,
        )
        self.exit_code = max(code, 1)


def launched(devices: int, folder: Path) -> bool:
    """Lease ``devices`` GPUs; if there are several, run the current command in one process for each of them.

    The new processes call this function too and get False. If one fails, the others are killed within
    seconds; the record in ``folder`` and the error state the reason. SIGTERM and SIGINT are passed on to all.

    Args:
        devices: number of GPUs and of processes. Without a GPU, the processes share the cores. 0 means one
            process that uses no GPU.
        folder: the work folder of the step. If another process than the first causes a failure, its reason is
            added to the record in this folder.

    Returns:
        True if other processes have done the work, False if the caller has to do it (or its part of it).

    Raises:
        ProcessError: a process was killed or failed.
        SystemExit: all were interrupted, or the first one failed and has printed its error.
    """
    if _PARENT in os.environ:
        end_with(int(os.environ[_PARENT]))
        return False
    lease_devices(devices)
    if devices <= 1:
        return False
    with ExitStack() as stack:
        files: list[IO[bytes]] = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(devices)]
        port = _free_port()
        processes = [_start(rank, devices, port, file) for rank, file in enumerate(files)]
        ended = _wait(processes)
        codes = [process.returncode for process in processes]
        if not any(codes):
            return True
        texts = [_error_text(file) for file in files]
    texts[0] = _recorded_reason(folder, processes[0].pid)
    rank = _cause(codes, ended, texts)
    if codes[rank] == INTERRUPTED or (rank == 0 and codes[0] > 0):
        raise SystemExit(codes[rank])
    if codes[rank] < 0:  # a second attempt may succeed
        state, what = State.interrupted, f"was killed by {signal.Signals(-codes[rank]).name}"
    else:
        state, what = State.failed, f"failed: {texts[rank] or 'without a message'}"
    what = f"process {rank} of {devices} {what}"
    amend_record(folder, processes[0].pid, state, what)
    raise ProcessError(what, codes[rank])


def fabric_of(devices: int, precision: str = "fp32") -> "Fabric":
    """Lightning Fabric for the processes started by ``launched``, independent of the scheduler.

    ``precision`` is that of a schedule. TF32 is used only with "tf32", for convolutions and matrix products;
    PyTorch's own default is TF32 for convolutions only.
    """
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"

    class Autocast(MixedPrecision):
        """Leaves the inputs of modules alone: Fabric's plugin would round boxes in pixels to bfloat16."""

        def convert_input(self, data: Any) -> Any:
            return data

    kind = PRECISIONS[precision]
    plugins: list[Any] = [LightningEnvironment()]
    if kind == "bf16-mixed":
        plugins.append(Autocast(kind, "cuda" if devices and torch.cuda.is_available() else "cpu"))
        kind = None
    return Fabric(
        accelerator="auto" if devices else "cpu",
        devices=max(devices, 1),
        precision=kind,
        plugins=plugins,
    )


def end_with(parent: int) -> None:
    """Let the kernel kill this process when ``parent``, which started it, ends for any reason (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def sum_over_processes(value: "Tensor") -> "Tensor":
    """Sum of a tensor over the processes, without gradient; the tensor itself if there is one process."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    found = value.detach().clone()
    distributed.all_reduce(found)
    return found


def average(value: "Tensor") -> "Tensor":
    """Mean of a tensor over the processes, without gradient; the tensor itself if there is one process."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    return sum_over_processes(value) / distributed.get_world_size()


class Team:
    """Consecutive processes that together load the images of one worker of a released code, usually one.

    Collective: all processes create their teams at the same time, and all members of a team call the same
    methods in the same order.

    Args:
        size: number of processes in a team; the number of processes is a multiple of it.
    """

    def __init__(self, size: int = 1) -> None:
        self.size, self.rank = size, 0
        if size > 1:
            from torch import distributed

            number, self.rank = divmod(distributed.get_rank(), size)
            starts = range(0, distributed.get_world_size(), size)
            self._group = [distributed.new_group(range(start, start + size)) for start in starts][number]

    def summed(self, value: "Tensor") -> "Tensor":
        """Sum over the team, without gradient."""
        total = value.detach().clone()
        if self.size > 1:
            from torch import distributed

            distributed.all_reduce(total, group=self._group)
        return total

    def largest(self, numbers: "Sequence[int]") -> tuple[int, ...]:
        """The element-wise maximum over the team."""
        if self.size == 1:
            return tuple(numbers)
        from torch import distributed

        found: list[tuple[int, ...]] = [()] * self.size
        distributed.all_gather_object(found, tuple(numbers), group=self._group)
        return tuple(map(max, zip(*found, strict=True)))

    def gathered(self, values: "Tensor") -> "list[Tensor]":
        """The tensors of all processes of the team in order, without gradient; (n, ...), n may differ."""
        if self.size == 1:
            return [values.detach()]
        import torch
        from torch import distributed

        length = torch.tensor([len(values)], device=values.device)
        lengths = [torch.zeros_like(length) for _ in range(self.size)]
        distributed.all_gather(lengths, length, group=self._group)
        counts = [int(item) for item in lengths]
        padded = values.new_zeros(max(counts), *values.shape[1:])
        padded[: len(values)] = values.detach()
        found = [torch.zeros_like(padded) for _ in range(self.size)]
        distributed.all_gather(found, padded, group=self._group)
        return [item[:count] for item, count in zip(found, counts, strict=True)]


def _start(rank: int, processes: int, port: int, messages: IO[bytes]) -> "subprocess.Popen[bytes]":
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = {"OMP_NUM_THREADS": str(max(1, cores // processes))} | os.environ
    environment |= {_PARENT: str(os.getpid()), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "benchmark.cli", *sys.argv[1:]]
    # only the first process prints; the messages of the others are kept to explain a failure
    return subprocess.Popen(command, env=environment, stderr=messages if rank else None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(processes: "list[subprocess.Popen[bytes]]") -> list[int]:
    """Wait until all have ended. Returns the ranks of those that ended by themselves, in order of time."""

    def pass_on(number: int, _: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    old = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    ended: list[int] = []
    deadline = float("inf")
    try:
        while len(ended) < len(processes):
            for rank, process in enumerate(processes):
                if rank not in ended and process.poll() is not None:
                    ended.append(rank)
                    if process.returncode:
                        deadline = min(deadline, time.monotonic() + GRACE)
            if time.monotonic() > deadline:
                break
            time.sleep(POLL)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for number, handler in old.items():
            signal.signal(number, handler)
    return ended


def _cause(codes: list[int], ended: list[int], texts: list[str]) -> int:
    """The rank that caused the failure.

    A killed process is a likelier cause than an error, and an error than a lost connection, which the end of
    another process causes (NCCL's watchdog then aborts the process).
    """

    def order(rank: int) -> int:
        if codes[rank] in (0, INTERRUPTED):
            return 3 if codes[rank] else 4
        if codes[rank] < 0:
            return 2 if codes[rank] == -signal.SIGABRT else 0
        return 2 if _LOST_CONNECTION.search(texts[rank]) else 1

    return min(ended, key=order)


def _error_text(file: IO[bytes]) -> str:
    """The error of a process: the message of the command line, or the last line of a traceback."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
    text = file.read().decode(errors="replace").strip()
    found = text.rpartition("\nerror: ")[2] if "\nerror: " in text else text.removeprefix("error: ")
    return found if found != text or text.startswith("error: ") else text.rpartition("\n")[2]


def _recorded_reason(folder: Path, pid: int) -> str:
    record = read_record(folder / RECORD)
    return record.reason or "" if record is not None and record.pid == pid else ""
