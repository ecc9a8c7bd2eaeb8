"""The page's tables on the training data: groups of categories and repeat factors of methods."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from benchmark.errors import BenchmarkError
from benchmark.notices import data_warnings
from benchmark.reporting.collect import RowResult
from benchmark.reporting.series import SeriesReader
from benchmark.statistics import ClassStatistics, category_repeat_factors, read_groups
from benchmark.steps import Step
from benchmark.steps.listing import INTERMEDIATES

FACTOR_EDGES = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)


def training_tables(rows: Sequence[RowResult], reader: SeriesReader) -> list[dict[str, Any]]:
    """Groups and repeat factors of the rows' methods, each distinct one once.

    An entry has ``title``, ``rows`` (ids), ``axis`` (what is counted), ``bins`` (labels of the axis), and
    ``series``: for each group, or for all categories, ``name``, ``categories``, ``instances`` and ``counts``
    (categories in every bin).
    """
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        statistics = reader.statistics(row)
        if statistics is None:
            continue
        run = row.runs[0]
        made = [item.step for item in run.steps if item.step.kind is INTERMEDIATES and item.step.finished]
        entries = [(step.place, _groups(step, statistics, reader)) for step in made]
        for threshold in _thresholds(row):
            key = f"{run.run.dataset_name}, {threshold}"
            entries.append((key, _repeat_factors(run.run.dataset.title, threshold, statistics)))
        for key, entry in entries:
            if entry is not None:
                found.setdefault(key, entry | {"rows": []})["rows"].append(row.id)
    return list(found.values())


def _groups(step: Step, statistics: ClassStatistics, reader: SeriesReader) -> dict[str, Any] | None:
    try:
        groups = read_groups(step.output(), statistics)
    except BenchmarkError as error:
        reader.note(error)
        return None
    counts, edges = statistics.instance_counts, groups.edges
    powers = [2**power for power in range(int(counts.max()).bit_length() + 1)]
    bins = ["0", *(str(low) if high == low + 1 else f"{low} to {high - 1}" for low, high in pairwise(powers))]
    names = [
        f"below {edges[0]}",
        *(f"{low} to {high - 1}" for low, high in pairwise(edges)),
        f"from {edges[-1]}",
    ]
    series = []
    for number, name in enumerate(names, 1):
        inside = counts[groups.tables.group_of_label == number]
        series.append(
            {
                "name": f"group {number}: {name} instances",
                "categories": len(inside),
                "instances": int(inside.sum()),
                "counts": np.histogram(inside, [0, *powers])[0].tolist(),
            }
        )
    released = [role for role in step.sources if role != "annotations"]
    return {
        "title": f"Groups of {step.dataset.title}, edges {', '.join(map(str, edges))}"
        + (f" (released: {', '.join(released)})" if released else ""),
        "axis": "training instances of the category",
        "bins": bins,
        "series": series,
    }


def _thresholds(row: RowResult) -> Iterator[float]:
    """Repeat thresholds of the row's own stages, each once."""
    samplers = [stage.sampler for stage in row.runs[0].run.stages if stage.sampler is not None]
    yield from dict.fromkeys(item.threshold for item in samplers if item.kind.startswith("repeat_factor"))


def _repeat_factors(title: str, threshold: float, statistics: ClassStatistics) -> dict[str, Any] | None:
    if not statistics.num_annotated_images:
        return None
    with data_warnings():  # training has printed and recorded them
        factors = category_repeat_factors(
            statistics.image_counts, statistics.num_annotated_images, threshold
        ).astype(np.float64)
    repeated = factors[factors > 1]
    bins = [
        "1",
        *(f"{low:g} to {high:g}" for low, high in pairwise(FACTOR_EDGES)),
        f"from {FACTOR_EDGES[-1]:g}",
    ]
    counts = np.histogram(repeated, [*FACTOR_EDGES, np.inf])[0].tolist()
    return {
        "title": f"Repeat factors of {title}, threshold {threshold:g}: {len(repeated)} of {len(factors)} "
        f"categories are repeated, at most {factors.max():.3g} times",
        "axis": "repeat factor of the category",
        "bins": bins,
        "series": [
            {
                "name": "categories",
                "categories": len(factors),
                "instances": int(statistics.instance_counts.sum()),
                "counts": [len(factors) - len(repeated), *counts],
            }
        ],
    }
