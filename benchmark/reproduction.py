"""Reproduces published numbers from released weights: import, predict, evaluate, compare."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import BenchmarkError
from benchmark.files import write_json
from benchmark.recipes import find_run
from benchmark.recipes.paths import results_folder
from benchmark.recipes.project import project_root
from benchmark.reporting.answers import REPORTED, find_answers
from benchmark.reporting.collect import Reported, read_reported, within_tolerance
from benchmark.steps import made_dataset


@dataclass(frozen=True)
class Comparison:
    """A published number and ours, in percent; ``ours`` is None if the evaluation has no such number."""

    metric: str
    theirs: float
    ours: float | None
    tolerance: float | None

    @property
    def difference(self) -> float | None:
        """Our number minus the published one in percentage points."""
        return None if self.ours is None else self.ours - self.theirs

    @property
    def holds(self) -> bool | None:
        """Whether the difference is within the tolerance; None if there is none."""
        return within_tolerance(self.difference, self.tolerance)


@dataclass(frozen=True)
class Reproduction:
    """The results of released weights, number by number."""

    title: str
    imported: str
    comparisons: list[Comparison]

    @property
    def holds(self) -> bool:
        """Whether there are numbers with a tolerance and all of them are within it."""
        judged = [item.holds for item in self.comparisons if item.holds is not None]
        return bool(judged) and all(judged)

    def as_dict(self) -> dict[str, Any]:
        """The content of ``reproduction.json``."""
        return {"reproduced": self.holds, "numbers": [asdict(item) for item in self.comparisons]}

    def text(self) -> str:
        """A line for each number, then the summary."""
        lines = [
            self.title,
            "",
            f"{'':<14}{'ours':>8}{'theirs':>8}{'difference':>12}{'tolerance':>11}",
        ]
        for item in self.comparisons:
            ours = "-" if item.ours is None else f"{item.ours:.2f}"
            difference = "-" if item.difference is None else f"{item.difference:+.2f}"
            tolerance = "-" if item.tolerance is None else f"{item.tolerance:.2f}"
            verdict = {True: "within", False: "outside", None: "not judged"}[item.holds]
            lines.append(
                f"{item.metric:<14}{ours:>8}{item.theirs:>8.2f}{difference:>12}{tolerance:>11}  {verdict}"
            )
        judged = [item.holds for item in self.comparisons if item.holds is not None]
        verdict = "reproduced" if self.holds else "not reproduced"
        lines += ["", f"{verdict}: {sum(judged)} of {len(judged)} numbers within their tolerance"]
        return "\n".join(lines)


def reproduce(
    paper: str,
    row: str,
    weights: Path,
    heads: Sequence[Path] = (),
    recipe: str | None = None,
    workers: int = 0,
) -> Reproduction:
    """Evaluate released weights with the recipe of a published row.

    Checkpoint, detections, metrics and ``reproduction.json`` go to ``results/reproduced/PAPER/ROW``.

    Args:
        paper: paper of the release, for the layout of the weights; first column of the published numbers.
        row: second column of the published numbers.
        weights: the released file.
        heads: SimCal's calibrated heads: one, or one for each box head in order.
        recipe: the recipe to use, if there are several for the row.
        workers: data loading processes.

    Raises:
        BenchmarkError: there is no such row or no recipe for it, or weights, images or annotations do not
            match.
    """
    reported = _published(f"{paper}/{row}")
    run = find_run(recipe or _recipe(f"{paper}/{row}"))
    if run.dataset_name != reported.dataset:
        raise BenchmarkError(
            "the recipe is on another dataset than the published row",
            found=run.dataset_name,
            expected=reported.dataset,
        )
    from benchmark.detectors.importing import import_checkpoint
    from benchmark.detectors.layouts import SOURCES
    from benchmark.evaluation import evaluate_detections
    from benchmark.inference.predict import predict_dataset

    if paper not in SOURCES:
        raise BenchmarkError(
            f"no layout of released weights is known for '{paper}'", expected=" or ".join(SOURCES)
        )
    folder = results_folder() / "reproduced" / paper / row
    files = made_dataset(run.dataset)
    imported = import_checkpoint(run, files.statistics, weights, paper, folder / "checkpoint.pt", heads)
    predict_dataset(run, files, folder / "checkpoint.pt", folder / "detections.parquet", workers=workers)
    evaluation = evaluate_detections(
        files.val,
        folder / "detections.parquet",
        max_detections={"lvis": run.test.max_detections},
        statistics=files.statistics,
    )
    evaluation.write(folder / "metrics.json", folder / "per_class.csv")
    comparisons = compare(reported, evaluation.metrics, evaluation.max_detections)
    found = Reproduction(f"{paper}/{row}: {run.title} on {run.dataset.title}", imported.text(), comparisons)
    write_json(folder / "reproduction.json", found.as_dict())
    return found


def compare(
    reported: Reported, metrics: dict[str, dict[str, float | None]], max_detections: int
) -> list[Comparison]:
    """Compare published numbers (percent) with those of an evaluation (fractions).

    Recalls are those at ``max_detections``. ``AP_bin1`` to ``AP_bin4`` are the four bins of the mean that the
    evaluation has.
    """
    found = []
    for metric, theirs in reported.values.items():
        iou, _, key = metric.partition("/")
        numbers = metrics.get(iou, {})
        if key.startswith("AP_bin"):
            keys, mean = list(numbers), "eAP" if f"{iou}/eAP" in reported.values else "bAP"
            bins = keys[: keys.index(mean)][-4:] if mean in keys else []
            key = dict(enumerate(bins, start=1)).get(int(key.removeprefix("AP_bin")), key)
        ours = numbers.get(key, numbers.get(f"{key}@{max_detections}"))
        percent = None if ours is None else 100 * ours
        found.append(Comparison(metric, theirs, percent, reported.tolerances.get(metric)))
    return found


def _published(key: str) -> Reported:
    reported = read_reported(project_root() / REPORTED)
    if key not in reported:
        raise BenchmarkError(
            f"no published row '{key}'", where=REPORTED, expected=", ".join(sorted(reported)) or "a row"
        )
    return reported[key]


def _recipe(key: str) -> str:
    """The only recipe of a published row."""
    answers = find_answers()
    recipes = answers.recipes.get(key, [])
    if len(recipes) == 1:
        return recipes[0]
    if recipes:
        raise BenchmarkError(
            f"several recipes reproduce '{key}'",
            found=", ".join(recipes),
            remedy=f"choose one: --recipe {recipes[0]}",
        )
    raise BenchmarkError(
        f"no recipe reproduces '{key}'",
        found=answers.reasons.get(key),
        remedy="longtail list experiments shows the rows without a recipe",
    )
