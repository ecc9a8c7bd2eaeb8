"""The content of the page as JSON values: numbers in percent, None for missing ones."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmark.evaluation.metrics import METRICS
from benchmark.evaluation.uncertainty import CONFIDENCE
from benchmark.recipes import LoadedExperiment
from benchmark.recipes.paths import run_name
from benchmark.recipes.project import project_root
from benchmark.reporting.answers import REPORTED
from benchmark.reporting.citations import citations
from benchmark.reporting.collect import HEADLINE, RowResult, RunResult, StepResult, cost_of_rows
from benchmark.reporting.differences import Distinctions, Pair
from benchmark.reporting.footnotes import Footnotes
from benchmark.reporting.html.examples import examples
from benchmark.reporting.html.training_tables import training_tables
from benchmark.reporting.noise import explanation, marks_note, needed_seeds_text, rank_text, statements
from benchmark.reporting.prediction import Agreement, Published, agreements
from benchmark.reporting.series import SeriesReader, Values, smoothed, trainings
from benchmark.reporting.sweeps import numeric_sweeps
from benchmark.reporting.tables import WORDS, duration, memory
from benchmark.steps.store import in_results

if TYPE_CHECKING:
    from benchmark.reporting.intervals import RowIntervals

CURVE_POINTS = 200
"""Number of points of a training curve; longer curves are averaged over this number of pieces."""


def page_content(
    experiment: LoadedExperiment,
    rows: Sequence[RowResult],
    notes: Sequence[str],
    reader: SeriesReader,
    certain: Mapping[str, "RowIntervals"],
    distinctions: Distinctions,
) -> dict[str, Any]:
    """The content of the page; ``notes`` are known problems."""
    all_notes = list(notes)
    runs = [run for row in rows for run in row.runs]
    footnotes = Footnotes(rows)
    content = {
        "name": experiment.name,
        "title": experiment.title,
        "budget": experiment.budget,
        "done": sum(run.done for run in runs),
        "total": len(runs),
        "ious": [iou for iou in ("segm", "bbox") if any(iou in run.metrics for run in runs)],
        "words": WORDS,
        "metrics": _metrics(rows),
        "headline": [*HEADLINE, *experiment.metrics],
        "rows": [
            {
                **_row(row, number, certain.get(row.id)),
                "footnotes": footnotes.marks(row),
                **_places(row, distinctions),
            }
            for number, row in enumerate(rows)
        ],
        "footnotes": footnotes.texts,
        "marks": marks_note(rows, distinctions),
        "differences": _differences(distinctions),
        "agreement": [
            {**asdict(item), "text": _agreement_text(item)}
            for item in agreements(rows, Published(project_root() / REPORTED))
        ],
        "sweeps": _sweeps(rows),
        "runs": [_run(row, run) for row in rows for run in row.runs],
        "datasets": _datasets(rows, reader),
        "classes": {row.id: _classes(row, reader) for row in rows},
        "calibration": {row.id: bins for row in rows if (bins := _calibration(row, reader))},
        "training": list(_training(rows, reader)),
        "tables": training_tables(rows, reader),
        "examples": examples(rows, all_notes),
        "citations": [
            {"title": item.paper.title, "for": item.cited_for, "bibtex": item.bibtex}
            for item in citations(experiment)
        ],
    }
    return {**content, "notes": list(dict.fromkeys([*all_notes, *reader.notes]))}


def _metrics(rows: Sequence[RowResult]) -> list[dict[str, Any]]:
    """Every metric of any row: those of the registry in its order, then those of other protocols."""
    present = dict.fromkeys(key for row in rows for _, key in row.values)
    found = []
    for key in [*(key for key in METRICS if key in present), *(key for key in present if key not in METRICS)]:
        metric = METRICS.get(key) or replace(METRICS["AP"], title=key, meaning="a number of another protocol")
        found.append(
            {
                "key": key,
                "title": metric.title,
                "meaning": metric.meaning,
                "higher": metric.higher_is_better,
                "digits": metric.digits,
                "scale": metric.scale,
            }
        )
    return found


def _row(row: RowResult, number: int, certain: "RowIntervals | None") -> dict[str, Any]:
    run = row.runs[0].run
    values: dict[str, dict[str, Any]] = {}
    for iou, key in row.values:
        seeds = row.values[iou, key]
        spread = row.spread(iou, key)
        values.setdefault(iou, {})[key] = {
            "mean": _rounded(row.mean(iou, key)),
            "std": _rounded(spread),
            "interval": _interval(row, iou, key, certain),
            "seeds": [_rounded(value) for value in seeds],
        }
    reported: dict[str, Any] = {}
    for metric, value in (row.reported.values if row.reported else {}).items():
        verdict = row.verdict(metric)
        reported[metric] = {
            "value": value,
            "tolerance": row.reported.tolerances.get(metric) if row.reported else None,
            "difference": _rounded(row.difference(metric)),
            "verdict": None if verdict is None else ("within" if verdict else "outside"),
        }
    done = sum(item.done for item in row.runs)
    older = next((item.older for item in row.counted), None)
    states = list(dict.fromkeys(item.state for item in row.runs if not item.done))
    return {
        "id": row.id,
        "number": number,
        "touches": row.touches,
        "title": row.title,
        "method": run.method + (f"+{run.variant}" if run.variant else ""),
        "detector": run.detector_name,
        "dataset": run.dataset_name,
        "schedule": row.schedule,
        "iou": row.iou,
        "done": done,
        "counted": len(row.counted),
        "older": older,
        "total": len(row.runs),
        "state": str(states[0]) if states else "done",
        "status": row.status,
        "values": values,
        "reported": reported,
        "answers": row.resolved.entry.reported,
        "seconds": row.seconds,
        "time": duration(row.seconds),
        "gpu_hours": cost_of_rows([row]).gpu_hours,
        "memory_mb": row.memory_mb,
        "memory": memory(row.memory_mb),
    }


def _interval(
    row: RowResult, iou: str, key: str, certain: "RowIntervals | None"
) -> list[float | None] | None:
    """Low and high end of a row with one seed; None for several seeds, because the interval is of the first
    one."""
    if certain is None or iou != row.iou or key not in certain.values or len(row.values[iou, key]) > 1:
        return None
    return [_rounded(certain.values[key].low), _rounded(certain.values[key].high)]


def _agreement_text(item: Agreement) -> str:
    if item.p > 1 - CONFIDENCE or item.low <= 0 <= item.high:
        return "too uncertain to say"
    return "the orders agree" if item.tau > 0 else "the orders are opposite"


def _places(row: RowResult, distinctions: Distinctions) -> dict[str, Any]:
    """The headline metrics in which a row is marked as the best, and its ranks."""
    id_ = row.id
    ranks = {metric: distinctions.rank(id_, metric) for metric in HEADLINE}
    return {
        "best": [metric for metric in HEADLINE if distinctions.best(id_, metric)],
        "ranks": {
            metric: {"places": list(rank), "text": rank_text(rank)} for metric, rank in ranks.items() if rank
        },
    }


def _differences(distinctions: Distinctions) -> dict[str, Any] | None:
    """Which pairs of rows differ, by headline metric; None if no pair was compared."""
    if not distinctions.pairs:
        return None
    return {
        "metrics": {metric: [_pair(pair) for pair in distinctions.of(metric)] for metric in HEADLINE},
        "statements": statements(distinctions),
        "explanation": explanation(),
    }


def _sweeps(rows: Sequence[RowResult]) -> list[dict[str, Any]]:
    """Sweeps over a number with results for at least two values."""
    return [
        {
            "id": sweep.id,
            "key": sweep.key,
            "values": sweep.values,
            "rows": [row.id for row in sweep.rows],
            "log": sweep.logarithmic,
        }
        for sweep in (sweep.counted for sweep in numeric_sweeps(rows))
        if len(sweep.values) > 1
    ]


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "value": _rounded(pair.estimate.value),
        "interval": [_rounded(end) for end in pair.interval],
        "seeds": pair.estimate.seeds,
        "clear": pair.clear,
        "needed": None if pair.clear else needed_seeds_text(pair),
    }


def _run(row: RowResult, result: RunResult) -> dict[str, Any]:
    run = result.run
    return {
        "row": row.id,
        "title": run.title,
        "seed": run.seed,
        "folder": f"results/runs/{run_name(run)}",
        "state": str(result.state),
        "reason": result.reason,
        "time": duration(result.seconds),
        "memory": memory(result.memory_mb),
        "older": result.older,
        "key": result.steps[-1].step.place,
        "recipe": result.steps[-1].step.subject.recipe,
        "steps": [_step(item) for item in result.steps if not item.step.kind.of_dataset],
    }


def _step(result: StepResult) -> dict[str, Any]:
    """The record of a step, if there is one."""
    step, record = result.step, result.record
    start = {"name": result.title, "output": in_results(step.record.parent)}
    if record is None:
        return {**start, "state": "no record", "reason": result.reason}
    command = shlex.join([Path(record.command[0]).name, *record.command[1:]]) if record.command else None
    versions = ", ".join(f"{area} {version}" for area, version in record.subject.numerics.items())
    return {
        **start,
        "state": result.state,
        "reason": result.reason,
        "command": command,
        "time": duration(record.duration_s),
        "memory": memory(record.peak_memory_mb),
        "started": record.started,
        "finished": record.finished,
        "host": record.host,
        "code": record.code_version,
        "numerics": versions,
        "method": record.subject.code,
        "inputs": {**record.subject.inputs, **record.subject.sources},
        "versions": record.versions,
        "hardware": record.hardware,
        "facts": record.facts,
    }


def _datasets(rows: Sequence[RowResult], reader: SeriesReader) -> dict[str, Any]:
    found = {}
    for row in rows:
        run = row.runs[0].run
        if run.dataset_name in found:
            continue
        statistics = reader.statistics(row)
        if statistics is not None:
            found[run.dataset_name] = {
                "title": run.dataset.title,
                "names": statistics.names,
                "frequencies": statistics.frequencies,
                "image_counts": statistics.image_counts.tolist(),
                "instance_counts": statistics.instance_counts.tolist(),
            }
    return found


def _classes(row: RowResult, reader: SeriesReader) -> dict[str, Any]:
    """Values of every category by IoU type (percent) and of weight norms, with curves against both counts."""
    statistics = reader.statistics(row)
    if statistics is None:
        return {}
    found: dict[str, Any] = {}
    series: dict[str, Values | None] = {}
    for iou in WORDS:
        if any(iou in run.metrics for run in row.counted):
            values = reader.class_ap(row, iou)
            series[iou] = None if values is None else values * 100
    series["norm"] = reader.weight_norms(row)
    for name, values in series.items():
        if values is None:
            continue
        digits = 4 if name == "norm" else 2
        found[name] = {"values": _numbers(values, digits), "curves": {}}
        for kind, counts in (("image", statistics.image_counts), ("instance", statistics.instance_counts)):
            x, y = smoothed(counts, values)
            found[name]["curves"][kind] = [_numbers(x, 2), _numbers(y, digits)]
    return found


def _calibration(row: RowResult, reader: SeriesReader) -> dict[str, list[float | None]] | None:
    bins = reader.calibration(row)
    return None if bins is None else {str(name): _numbers(bins[name].to_numpy(), 4) for name in bins}


def _training(rows: Sequence[RowResult], reader: SeriesReader) -> Iterator[dict[str, Any]]:
    """Every training once, with the rows that depend on it; ``own`` is the row of which it is a stage."""
    for training in trainings(rows):
        step, owners = training.step, training.owners
        points = reader.progress(step.progress)
        if points is not None:
            if len(points) > CURVE_POINTS:
                points = np.array([part.mean(axis=0) for part in np.array_split(points, CURVE_POINTS)])
            yield {
                "stage": step.name,
                "title": training.title,
                "seed": step.run.seed,
                "rows": [row.id for row in training.rows],
                "own": owners[-1].id if owners else None,
                "iterations": _numbers(points[:, 0], 1),
                "losses": _numbers(points[:, 1], 5),
            }


def _rounded(value: float | None) -> float | None:
    """With enough digits that the page rounds it to the same digit as the other tables."""
    return None if value is None else round(value, 12)


def _numbers(values: NDArray[np.float64], digits: int) -> list[float | None]:
    return [round(value, digits) if np.isfinite(value) else None for value in values.tolist()]
