"""Agreement of the order of the methods here with that of the published tables: Kendall's tau.

A row here represents a published method (column ``method`` of the published numbers): that of its published
row, else the one with the name of its id or its method. Values of different tables are not comparable (other
detectors, schedules and datasets), so the order is either that of one published table, or that of the gain
over the softmax baseline of the same table, averaged over all tables that have both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np

from benchmark.evaluation.uncertainty import CONFIDENCE
from benchmark.files import read_bytes
from benchmark.reporting.collect import RowResult
from benchmark.tables import csv_records

BASELINE = "softmax"
METRICS_COMPARED = ("AP", "APr")
FEWEST_METHODS = 4
"""Least number of methods for which orders are compared."""
RESAMPLES = 200

Tables = dict[tuple[str, str, str], dict[str, float]]
"""Values of one metric in percent by (paper, detector, dataset), and by method."""


@dataclass(frozen=True)
class Agreement:
    """The order of ``methods`` here by a metric compared with that of ``source``: tau with its interval over
    draws of methods, and the p-value of no association."""

    metric: str
    source: str
    methods: list[str]
    tau: float
    low: float
    high: float
    p: float


class Published:
    """The published numbers by table and method; the best if a table has several rows of a method."""

    def __init__(self, path: Path) -> None:
        self._lines = csv_records(read_bytes(path).decode())
        self.methods = {line["method"] for line in self._lines}
        self._by_row = {f"{line['paper']}/{line['row']}": line["method"] for line in self._lines}

    def method(self, row: RowResult) -> str | None:
        """The published method that a row represents."""
        written, run = row.resolved.entry, row.runs[0].run
        if written.reported is not None:
            return self._by_row.get(written.reported)
        names = [written.id] if run.variant else [written.id, run.method]
        return next((name for name in names if name in self.methods), None)

    def tables(self, key: str) -> Tables:
        """The tables with a metric, for masks if they have them."""
        found: Tables = {}
        for iou in ("bbox", "segm"):  # masks replace boxes
            of_iou: Tables = {}
            for line in self._lines:
                if line["metric"] == f"{iou}/{key}":
                    table = of_iou.setdefault((line["paper"], line["detector"], line["dataset"]), {})
                    value = float(line["value"])
                    table[line["method"]] = max(value, table.get(line["method"], value))
            found |= of_iou
        return found


def agreements(rows: Sequence[RowResult], published: Published) -> list[Agreement]:
    """Agreements of the rows with the first row's dataset and detector, by AP and APr; a method counts
    once."""
    found = []
    for key in METRICS_COMPARED:
        here: dict[str, float] = {}
        for row in rows:
            alike = all(
                getattr(row.runs[0].run, name) == getattr(rows[0].runs[0].run, name)
                for name in ("dataset_name", "detector_name")
            )
            method, value = published.method(row), row.mean(row.iou, key)
            if alike and method is not None and value is not None:
                here.setdefault(method, value)
        tables = published.tables(key)
        sources = {"gain over softmax in the same table": _gains(tables)}
        sources |= {", ".join(name): values for name, values in tables.items()}
        for source, values in sources.items():
            methods = [method for method in here if method in values]
            differ = all(len({numbers[name] for name in methods}) > 1 for numbers in (here, values))
            if len(methods) >= FEWEST_METHODS and differ:
                found.append(_agreement(key, source, methods, here, values))
    return found


def _gains(tables: Tables) -> dict[str, float]:
    gains: dict[str, list[float]] = {}
    for values in tables.values():
        if BASELINE in values:
            for method, value in values.items():
                gains.setdefault(method, []).append(value - values[BASELINE])
    return {method: mean(found) for method, found in gains.items()}


def _agreement(
    key: str, source: str, methods: list[str], here: Mapping[str, float], there: Mapping[str, float]
) -> Agreement:
    from scipy import stats  # takes a second

    pairs = np.array([[here[method], there[method]] for method in methods])
    generator = np.random.default_rng(0)
    draws = [pairs[generator.integers(len(pairs), size=len(pairs))] for _ in range(RESAMPLES)]
    taus = [stats.kendalltau(*draw.T).statistic for draw in draws if (np.ptp(draw, axis=0) > 0).all()]
    low, high = np.quantile(taus, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    whole = stats.kendalltau(*pairs.T)
    return Agreement(
        key, source, methods, float(whole.statistic), float(low), float(high), float(whole.pvalue)
    )
