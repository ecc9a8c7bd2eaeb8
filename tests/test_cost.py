"""The cost of a result is the sum over all attempts, by any process and with any outcome."""

import os
import sys
import types
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmark.cost import Cost, Meter
from benchmark.records import Record, State, Subject, amend_record, read_record, record_step, write_record

SUBJECT = Subject(kind="train", step="train", key="0123-45", identity="0123")


def record_of(folder: Path) -> Record:
    record = read_record(folder / "record.json")
    assert record is not None
    return record


def attempt(folder: Path, error: Exception | None = None) -> None:
    with record_step(folder, SUBJECT):
        if error is not None:
            raise error


def running(folder: Path, **changes: object) -> None:
    """The record of a process that was killed without a chance to update it."""
    attempt(folder)
    started = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    change = {"state": State.running, "started": started, "duration_s": None, "pid": 12, **changes}
    write_record(folder / "record.json", record_of(folder).model_copy(update=change))


def test_attempts_add_up_until_one_brings_the_result(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError):
            attempt(tmp_path, RuntimeError("no luck"))
    attempt(tmp_path)
    cost = record_of(tmp_path).cost
    assert cost.attempts == 3
    assert cost.wall_s > 0
    assert cost.host_memory_mb is not None
    assert (cost.gpu_hours, cost.energy_kwh, cost.device_memory_mb) == (0, None, None)
    attempt(tmp_path)  # made anew
    assert record_of(tmp_path).cost.attempts == 1


def test_a_killed_attempt_counts_to_its_last_sign_of_life(tmp_path: Path) -> None:
    """Its record still has the state running; the last thing it wrote is a line of losses."""
    before = Cost(1, 10.0, 0.5, 2.0, 100.0, 50.0)
    running(tmp_path, gpus=["a", "b"], cost=before)
    started = datetime.fromisoformat(record_of(tmp_path).started).timestamp()
    sign = tmp_path / "progress.jsonl"
    sign.write_text("{}\n")
    for path in tmp_path.iterdir():
        os.utime(path, (started + (3600 if path == sign else 0),) * 2)
    attempt(tmp_path)
    cost = record_of(tmp_path).cost
    assert cost.attempts == 3
    assert cost.wall_s == pytest.approx(3610, abs=5)
    assert cost.gpu_hours == pytest.approx(2.5, abs=0.01)
    assert (cost.energy_kwh, cost.device_memory_mb) == (2.0, 50.0)


def test_a_process_that_could_not_say_how_it_ended_has_cost_something(tmp_path: Path) -> None:
    running(tmp_path, gpus=["a"], cost=Cost(1, 5.0))
    amend_record(tmp_path, 11, State.failed, "of another process")
    assert record_of(tmp_path).state == State.running
    amend_record(tmp_path, 12, State.failed, "process 0 of 2 was killed by SIGKILL")
    record = record_of(tmp_path)
    assert (record.cost.attempts, round(record.cost.gpu_hours, 2)) == (2, 2.0)
    assert record.cost.wall_s == pytest.approx(7205, abs=5)
    assert (record.reason or "").endswith("SIGKILL")


def test_energy_is_the_difference_of_the_drivers_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters are in millijoules. Without the driver's package, or if it fails, energy is unknown."""
    counters = {"GPU-a": 7_200_000_000, "GPU-b": 1_000}
    driver = types.ModuleType("pynvml")
    driver.nvmlInit = lambda: None  # type: ignore[attr-defined]
    driver.nvmlDeviceGetHandleByUUID = lambda uuid: uuid  # type: ignore[attr-defined]
    driver.nvmlDeviceGetTotalEnergyConsumption = lambda uuid: counters[uuid]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    meter = Meter()
    meter.use(["GPU-a", "GPU-b"])
    counters["GPU-a"] += 3_600_000_000
    counters["GPU-b"] += 1_800_000_000
    assert meter.cost().energy_kwh == pytest.approx(1.5)
    del counters["GPU-b"]
    assert meter.cost().energy_kwh is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter.use(["GPU-a"])
    assert meter.cost().energy_kwh is None
