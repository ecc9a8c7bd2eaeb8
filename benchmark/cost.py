"""The cost of a result over all attempts: time, GPUs, memory and energy."""

import resource
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Cost:
    """Sums over attempts, and for memory the maximum; None if not measured.

    ``host_memory_mb`` is that of the largest process, ``device_memory_mb`` that of one GPU (all use about the
    same), both in 2**20 bytes. ``energy_kwh`` is that of the GPUs, as measured by their driver.
    """

    attempts: int = 0
    wall_s: float = 0.0
    gpu_hours: float = 0.0
    energy_kwh: float | None = None
    host_memory_mb: float | None = None
    device_memory_mb: float | None = None

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.attempts + other.attempts,
            round(self.wall_s + other.wall_s, 3),
            round(self.gpu_hours + other.gpu_hours, 6),
            _combined(sum, (self.energy_kwh, other.energy_kwh)),
            _combined(max, (self.host_memory_mb, other.host_memory_mb)),
            _combined(max, (self.device_memory_mb, other.device_memory_mb)),
        )


def _combined(function: Any, values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return function(known) if known else None


def killed_attempt(started: float, gpus: int, folder: Path, among: int = 1) -> Cost:
    """The cost of a killed attempt, until the last file that it wrote in its ``folder``.

    ``started`` is in seconds since the epoch, ``gpus`` is the number of its GPUs, ``among`` the number of
    steps that its process was making together.
    """
    seen = max((path.stat().st_mtime for path in folder.iterdir() if path.is_file()), default=started)
    wall = max(seen - started, 0.0) / among
    return Cost(1, wall, wall * gpus / 3600)


class Meter:
    """Measures one attempt from its creation on."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._gpus: Sequence[str] = ()
        self._energy: float | None = None  # value of the driver's counter at the last reading
        self._among = 1
        self._wall_s, self._joules = 0.0, 0.0

    def use(self, gpus: Sequence[str]) -> None:
        """Count the energy of the GPUs with these UUIDs from now on; their time counts from the start."""
        self._gpus, self._energy = gpus, _energy_j(gpus)

    def share(self, among: int) -> None:
        """Count one part in ``among`` of time and energy from now on, because ``among`` steps are made
        together."""
        self._read()
        self._among = among

    def cost(self) -> Cost:
        """The cost of this attempt so far."""
        self._read()
        energy = None if self._energy is None else self._joules / JOULES_PER_KWH
        memory = host_memory_mb(), device_memory_mb()
        gpu_hours = round(self._wall_s * len(self._gpus) / 3600, 6)
        return Cost(1, round(self._wall_s, 3), gpu_hours, energy, *memory)

    def _read(self) -> None:
        now = time.monotonic()
        self._wall_s += (now - self._since) / self._among
        self._since = now
        counted = None if self._energy is None else _energy_j(self._gpus)
        if counted is not None and self._energy is not None:
            self._joules += (counted - self._energy) / self._among
        self._energy = counted


def host_memory_mb() -> float:
    """Peak resident memory so far of this process or any ended child, in 2**20 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB on Linux
    highest = max(
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return round(highest * unit / 2**20, 1)


def device_memory_mb() -> float | None:
    """Peak memory that PyTorch has allocated on this process's GPU, in 2**20 bytes; None without a GPU."""
    torch = sys.modules.get("torch")  # if it is not imported, no GPU was used
    if torch is None or not torch.cuda.is_initialized():
        return None
    return round(torch.cuda.max_memory_reserved() / 2**20, 1)


def visible_gpus(count: int) -> list[str]:
    """UUIDs of the first GPUs that PyTorch sees; empty on a machine without GPUs."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [f"GPU-{torch.cuda.get_device_properties(number).uuid}" for number in range(count)]


def _energy_j(gpus: Sequence[str]) -> float | None:
    """Energy that GPUs have used since their driver was loaded; None if the driver does not report it."""
    if not gpus:
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByUUID(gpu) for gpu in gpus]
        return float(sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles)) / 1000
    except Exception:  # an NVML error, or no driver library; measuring costs must not stop a training
        return None
