"""Advice for a step that failed, with the numbers of its recipe."""

import json
from pathlib import Path
from typing import Any

from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.models import Schedule
from benchmark.records import State, out_of_memory
from benchmark.reporting.collect import StepResult

REMEDY = "  remedy:"
AGAIN = "run the same command again"
LAST_LOSSES = 3


def cause_and_advice(step: StepResult) -> tuple[str | None, str | None]:
    """Cause and advice for a step that is not done, one paragraph each, or None."""
    if step.state == State.diverged:
        return _paragraph([_without_remedy(step.reason), _last_losses(step)]), _slower(step)
    if step.state in (State.interrupted, State.timeout):
        advice = f"{AGAIN}: {_resumption(step)}"
        if step.reason and step.reason.endswith("without a message"):
            advice += "; if the system killed it because memory ran out: " + _smaller(step)
        elif step.state == State.timeout:
            advice += "; allow it more time (resource `runtime`)"
        return _paragraph([_without_remedy(step.reason)]), advice
    if step.state != State.failed:
        return _paragraph([step.reason]), None
    if step.record is not None and out_of_memory(step.record):
        return _paragraph(["out of memory", _without_remedy(step.reason)]), _smaller(step)
    remedy = [line for line in (step.reason or "").splitlines() if line.startswith(REMEDY)]
    advice = remedy[-1].removeprefix(REMEDY).strip() if remedy else "an error in the code: see the log"
    return _paragraph([_without_remedy(step.reason)]), f"{advice}; then {AGAIN}"


def read_progress(path: Path) -> list[dict[str, Any]]:
    """The complete lines of ``progress.jsonl``, in order."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    found = []
    for line in lines:
        try:
            content = json.loads(line)
        except ValueError:
            continue  # incomplete or damaged
        if isinstance(content, dict) and "iteration" in content:
            found.append(content)
    return found


def _without_remedy(reason: str | None) -> str:
    return "\n".join(line for line in (reason or "").splitlines() if not line.startswith(REMEDY))


def _paragraph(parts: list[str | None]) -> str | None:
    lines = [" ".join(line.split()) for part in parts if part for line in part.splitlines()]
    return "; ".join(line for line in lines if line) or None


def _schedule(step: StepResult) -> Schedule | None:
    stage = step.step.stage
    return stage.schedule if stage else None


def _resumption(step: StepResult) -> str:
    return "it continues from its last checkpoint" if _schedule(step) else "it starts this step again"


def _last_losses(step: StepResult) -> str | None:
    lines = read_progress(step.step.progress)[-LAST_LOSSES:]
    losses = [f"{line['loss']:.4g} (iteration {line['iteration']})" for line in lines if "loss" in line]
    return f"last losses {', '.join(losses)}" if losses else None


def _slower(step: StepResult) -> str | None:
    schedule = _schedule(step)
    if schedule is None:
        return None
    warmup = 2 * schedule.warmup_iterations or 500
    clip = "null" if schedule.clip_norm is None else f"{schedule.clip_norm:g}"
    norm = 10 if schedule.clip_norm is None else schedule.clip_norm / 2
    return (
        f"in the schedule of stage {step.step.name}, learning_rate: {schedule.learning_rate / 2:g} (now "
        f"{schedule.learning_rate:g}), or warmup_iterations: {warmup} (now {schedule.warmup_iterations}), or "
        f"clip_norm: {norm:g} (now {clip})"
    )


def _smaller(step: StepResult) -> str:
    """The next smaller batch size with its learning rate; without a batch, or with one image, smaller
    images."""
    schedule, detector = _schedule(step), step.step.run.detector
    batch = schedule.images_per_step if schedule else 1
    if schedule is None or batch == 1:
        return f"for {step.step.name}, {_smaller_images(detector, schedule is not None)}"
    fewer = max(size for size in range(1, batch) if batch % size == 0)
    rate = schedule.learning_rate / schedule.reference_batch_size
    return (
        f"in the schedule of stage {step.step.name}, batch_size: {fewer} (now {batch}); the learning rate "
        f"becomes {rate * fewer:g} (now {rate * batch:g}) with {batch // fewer} times the iterations "
        "(both follow from batch_size: change nothing else)"
    )


def _smaller_images(detector: DetectorSettings, training: bool) -> str:
    if training:
        edges = ", ".join(map(str, detector.train_short_edges))
        return (
            f"a detector with shorter train_short_edges (now {edges}) or fewer roi_samples "
            f"(now {detector.roi_samples})"
        )
    return (
        f"a detector with a shorter test_short_edge (now {detector.test_short_edge}) or fewer "
        f"rpn_test_proposals (now {detector.rpn_test_proposals})"
    )
