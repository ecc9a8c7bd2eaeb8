"""A result costs what all attempts at it cost, whoever did them and however they ended."""

import json
import os
import sys
import types
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmark.cost import Cost, Meter, cost_of, cost_so_far
from benchmark.records import State, amend_record, read_record, record_step


def write(path: Path, **content: object) -> None:
    path.write_text(json.dumps(content))


def cost_at(output: Path) -> Cost:
    return cost_of(read_record(output.with_name("checkpoint.provenance.json")))


def test_attempts_add_up_until_one_brings_the_result(tmp_path: Path) -> None:
    output = tmp_path / "checkpoint.pt"
    for _ in range(2):
        with pytest.raises(RuntimeError), record_step(output, "train", {"a": 1}, {}):
            raise RuntimeError("no luck")
    with record_step(output, "train", {"a": 1}, {}):
        pass
    cost = cost_at(output)
    assert cost.attempts == 3
    assert cost.wall_s > 0
    assert cost.host_memory_mb is not None
    assert (cost.gpu_hours, cost.energy_kwh, cost.device_memory_mb) == (0, None, None)
    with record_step(output, "train", {"a": 1}, {}):  # made anew
        pass
    assert cost_at(output).attempts == 1


def test_another_recipe_does_not_inherit(tmp_path: Path) -> None:
    output = tmp_path / "checkpoint.pt"
    for value in (1, 2):
        with pytest.raises(RuntimeError), record_step(output, "train", {"a": value}, {}):
            raise RuntimeError
    assert cost_at(output).attempts == 1


def test_a_killed_attempt_counts_to_its_last_sign_of_life(tmp_path: Path) -> None:
    """Its record still says that it runs; what it wrote last is a line of losses."""
    started = datetime.now(UTC) - timedelta(hours=2)
    sign = tmp_path / "progress.jsonl"
    sign.write_text("{}\n")
    os.utime(sign, (started.timestamp() + 3600,) * 2)
    before = Cost(1, 10.0, 0.5, 2.0, 100.0, 50.0)
    record = {"state": "running", "recipe_digest": "d", "started": started.isoformat(), "gpus": ["a", "b"]}
    cost = cost_so_far(record | {"cost": before.as_dict()}, "d", tmp_path)
    assert cost.attempts == 2
    assert cost.wall_s == pytest.approx(3610, abs=1)
    assert cost.gpu_hours == pytest.approx(2.5, abs=0.01)
    assert (cost.energy_kwh, cost.host_memory_mb, cost.device_memory_mb) == (2.0, 100.0, 50.0)
    assert cost_so_far(record, "other", tmp_path) == Cost()


def test_a_process_that_could_not_say_how_it_ended_has_cost_something(tmp_path: Path) -> None:
    output = tmp_path / "checkpoint.pt"
    path = tmp_path / "checkpoint.provenance.json"
    started = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    write(
        path,
        state="running",
        pid=12,
        started=started,
        duration_s=None,
        gpus=["a"],
        cost=Cost(1, 5.0).as_dict(),
    )
    amend_record(output, 11, State.failed, "of another process")
    assert read_record(path)["state"] == State.running  # type: ignore[index]
    amend_record(output, 12, State.failed, "process 0 of 2 was ended by SIGKILL")
    cost = cost_at(output)
    assert (cost.attempts, round(cost.gpu_hours, 2)) == (2, 1.0)
    assert cost.wall_s == pytest.approx(3605, abs=5)
    assert read_record(path)["reason"].endswith("SIGKILL")  # type: ignore[index]


def test_energy_is_the_difference_of_the_drivers_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters are in millijoules; without the driver's package, or with an error of it, it is unknown."""
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
