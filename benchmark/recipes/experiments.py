"""Experiments and their runs."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmark.errors import BenchmarkError
from benchmark.files import read_json, write_text
from benchmark.recipes import paths
from benchmark.recipes.catalog import (
    PAPER_BUDGET,
    Catalog,
    Preset,
    detector_presets,
    read_budget,
    read_dataset,
    read_experiment,
    yaml_file,
    yaml_files,
)
from benchmark.recipes.deviations import change_of_preset, row_deviations, same_architecture
from benchmark.recipes.loading import RecipeError, parse, unknown
from benchmark.recipes.models import Dataset, Deviation, Experiment, Row, Run, Variant
from benchmark.recipes.plugins import find_plugins
from benchmark.recipes.project import in_project, shown
from benchmark.recipes.requirements import missing
from benchmark.recipes.resolution import Choice, Resolved, resolve
from benchmark.recipes.sweeps import SweepPoint, expanded
from benchmark.recipes.touches import TOUCHED, Touched, touched

_RECIPE = re.compile(r"(.+\.ya?ml|[^:]+):([\w.,=-]+)(?::([0-9]+))?((?::base)*)")


@dataclass(frozen=True)
class ExperimentRow:
    """A row of the table.

    Attributes:
        entry: the row as written in the experiment's file.
        runs: one for each seed.
        skipped: why the row cannot run here; None if it can.
        deviations: its differences from its published row.
        point: its place in a sweep, if it is part of one.
        comparable: whether its schedule is that of its published row, if it has one.
        touches: what its method changes, where the experiment groups its rows by that; else None.
    """

    entry: Row
    runs: list[Run]
    skipped: str | None
    deviations: list[Deviation]
    point: SweepPoint | None = None
    comparable: bool = True
    touches: Touched | None = None

    @property
    def id(self) -> str:
        """The row's name in the experiment."""
        return self.entry.id


@dataclass(frozen=True)
class LoadedExperiment:
    """An experiment with every row resolved; ``reference`` is the experiment with whose shipped numbers its
    own are compared, ``metrics`` are the further columns of its tables."""

    name: str
    title: str
    path: Path
    budget: str
    reference: str
    rows: list[ExperimentRow]
    dataset_files: dict[str, Path]
    metrics: tuple[str, ...] = ()


class _Source:
    """The file of an experiment, and everything that its rows may name."""

    def __init__(self, name_or_path: str) -> None:
        self.path = yaml_file("experiments", name_or_path)
        self.experiment: Experiment = read_experiment(self.path)
        points = expanded(self.experiment.rows, shown(self.path))
        self.rows = [row for row, _ in points]
        self._points = {row.id: point for row, point in points}
        folder = self.path.parent
        self.catalog = Catalog(
            [folder / item for item in self.experiment.method_paths],
            [folder / item for item in self.experiment.dataset_paths],
        )
        self.budget, self.budget_file = None, ""
        if self.experiment.budget not in (None, PAPER_BUDGET):
            file = yaml_file("budgets", str(self.experiment.budget), folder)
            self.budget = read_budget(file)
            self.budget_file = f"budget {self.budget.name} ({shown(file)})"

    def point(self, row: Row) -> SweepPoint | None:
        return self._points.get(row.id)

    def place(self, row: Row) -> str:
        """The location of a row, for messages."""
        point = self.point(row)
        return f"{shown(self.path)}, row {point.sweep if point else row.id}"

    def resolve(self, row: Row, seed: int) -> Resolved:
        where, point = self.place(row), self.point(row)
        dataset = self.catalog.dataset(row.dataset, where)
        choice = Choice(
            row.method,
            row.detector,
            dataset,
            self.budget,
            self.budget_file,
            seed,
            row.options,
            row.released,
            frozenset(point.values) if point else frozenset(),
            row.schedule,
            f"{where}, schedule",
        )
        return resolve(self.catalog, choice, row.id, where)

    def deviations(self, row: Row) -> list[Deviation]:
        return row_deviations(self.catalog, row, self.place(row))

    def comparable(self, row: Row) -> bool:
        """Whether its schedule is that of its published row, if it has one."""
        return self.budget is None or (row.reported or "").partition("/")[0] == self.budget.answers

    def touches(self, row: Row) -> Touched | None:
        """What the row's method changes, where rows are grouped by it."""
        if self.experiment.group_by is None:
            return None
        _, method, _, variant = self.catalog.method(row.method, self.place(row))
        return touched(method, variant)

    def row(self, row_id: str) -> Row:
        rows = {row.id: row for row in self.rows}
        if row_id not in rows:
            swept = [row.id for row in self.rows if (point := self.point(row)) and point.sweep == row_id]
            if swept:
                raise RecipeError(
                    f"row '{row_id}' is a sweep of {len(swept)} rows",
                    where=shown(self.path),
                    expected=f"one of: {', '.join(swept)}",
                    remedy="name one of its rows",
                )
            raise unknown("row", row_id, rows, shown(self.path))
        return rows[row_id]


def load_experiment(name_or_path: str) -> LoadedExperiment:
    """An experiment by its name in ``workflows/experiments``, or by the path of its YAML file.

    Raises ``RecipeError`` or ``FileError`` if the file, or a file that its rows name, is invalid.
    """
    source = _Source(name_or_path)
    rows = []
    for row in source.rows:
        runs = [source.resolve(row, seed).run for seed in row.seeds]
        skipped = missing(lineage(runs[0]))
        rows.append(
            ExperimentRow(
                row,
                runs,
                skipped,
                source.deviations(row),
                source.point(row),
                source.comparable(row),
                source.touches(row),
            )
        )
    if source.experiment.group_by is not None:
        rows.sort(
            key=lambda row: TOUCHED.index(row.touches or TOUCHED[0])
        )  # stable: keeps the order within a group
    return LoadedExperiment(
        name=source.experiment.name,
        title=source.experiment.title,
        path=source.path,
        budget=source.budget.name if source.budget else PAPER_BUDGET,
        reference=source.experiment.reference or source.experiment.name,
        rows=rows,
        dataset_files=source.catalog.dataset_files,
        metrics=tuple(source.experiment.metrics),
    )


def published_rows(name: str) -> list[tuple[Row, list[Deviation]]]:
    """The rows of an experiment with a published number, and the deviations of each. Rows with another
    schedule have no published number.

    Raises ``RecipeError`` or ``FileError``.
    """
    source = _Source(name)
    answering = [row for row in source.rows if row.reported is not None and source.comparable(row)]
    return [(row, source.deviations(row)) for row in answering]


def with_detector(name_or_path: str, detector: str) -> Path:
    """Write the file of an experiment with the same rows in another detector, among the results of
    experiments.

    Its name consists of those of the experiment and the detector. A row with the architecture of the detector
    keeps its published number, with a deviation that lists the differences between the two presets. If only
    some rows have the architecture of the detector, the others use the preset of their own name in its back
    end (R101 stays R101), if there is one. All other rows have no published number.

    Raises ``RecipeError`` or ``FileError``.
    """
    source = _Source(name_or_path)
    chosen = source.catalog.preset(detector, "detector")
    folder, old = source.path.parent.resolve(), source.experiment
    presets = [source.catalog.preset(row.detector, f"{shown(source.path)}, row {row.id}") for row in old.rows]
    some = any(same_architecture(preset, chosen) for preset in presets)
    rows = []
    for row, preset in zip(old.rows, presets, strict=True):
        own = detector_presets().get(f"{detector.partition('/')[0]}/{preset.name.partition('/')[2]}")
        stays = some and own is not None and same_architecture(preset, own)
        taken = own if stays and own and not same_architecture(preset, chosen) else chosen
        rows.append(_moved(row, preset, taken))
    changes: dict[str, Any] = {
        "name": f"{old.name}_{detector.replace('/', '_')}".lower(),
        "title": f"{old.title}, {detector}",
        "method_paths": [str(folder / path) for path in old.method_paths],
        "dataset_paths": [str(folder / path) for path in old.dataset_paths],
        "reference": None,
        "rows": rows,
    }
    if (old.budget or "").endswith((".yaml", ".yml")):
        changes["budget"] = str(folder / str(old.budget))
    content = old.model_copy(update=changes).model_dump(mode="json", exclude_unset=True)
    path = paths.results_folder() / "experiments" / f"{changes['name']}.yaml"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    if not path.is_file() or path.read_text() != text:
        write_text(path, text)
    return path


def _moved(row: Row, before: Preset, after: Preset) -> Row:
    """A row in another detector."""
    if before.name == after.name:
        return row
    if row.reported is None or not same_architecture(before, after):
        return row.model_copy(update={"detector": after.name, "reported": None, "deviations": []})
    declared = [*row.deviations, change_of_preset(before, after)]
    return row.model_copy(update={"detector": after.name, "deviations": declared})


def load_dataset(name_or_path: str) -> Dataset:
    """A dataset by its name in ``workflows/datasets``, or by the path of its YAML file.

    Raises ``RecipeError`` or ``FileError``.
    """
    return read_dataset(yaml_file("datasets", name_or_path))


def find_run(recipe: str) -> Run:
    """The run of a recipe.

    ``EXPERIMENT:ROW`` is the row's first seed, ``EXPERIMENT:ROW:SEED`` any seed, listed or not, and
    ``EXPERIMENT:ROW:SEED:base`` the run whose checkpoint it starts from (repeat ``:base`` to go further
    back). The experiment is a name or a YAML file. The path of a ``recipe.json`` is the recorded run. Raises
    ``RecipeError`` or ``FileError``.
    """
    if recipe.endswith(".json"):
        return parse_run(Path(recipe))
    return locate(recipe).run


def find_runs(recipe: str) -> list[Run]:
    """As ``find_run``, but ``EXPERIMENT:ROW`` is a run for each seed of the row."""
    match = None if recipe.endswith(".json") else _RECIPE.fullmatch(recipe)
    if match is None or match[3] is not None:
        return [find_run(recipe)]
    source, row, _ = _located(recipe)
    return [source.resolve(row, seed).run for seed in row.seeds]


def locate(recipe: str) -> Resolved:
    """As ``find_run`` for a recipe that is not a file, with the sources of its values."""
    return _located(recipe)[2]


def located_row(recipe: str) -> tuple[Row, list[Deviation]]:
    """The row of a recipe (for a base: the base as a row), and its deviations; raises as ``find_run``."""
    source, row, _ = _located(recipe)
    return row, source.deviations(row)


def _located(recipe: str) -> tuple[_Source, Row, Resolved]:
    match = _RECIPE.fullmatch(recipe)
    if match is None:
        raise RecipeError(
            "not a recipe",
            found=recipe,
            expected="EXPERIMENT:ROW, EXPERIMENT:ROW:SEED, EXPERIMENT:ROW:SEED:base, or a recipe.json",
            remedy="longtail list experiments shows the experiments, for example smoke:rfs",
        )
    name, row_id, seed, bases = match.groups()
    source = _Source(name)
    row = source.row(row_id)
    resolved = source.resolve(row, row.seeds[0] if seed is None else int(seed))
    for _ in range(bases.count(":")):
        if resolved.base is None:
            raise RecipeError(f"'{resolved.run.title}' starts from no other run", found=recipe)
        resolved = resolved.base
        base = resolved.run
        key = f"{base.method}+{base.variant}" if base.variant else base.method
        row = Row(id=key, method=key, detector=row.detector, dataset=base.dataset_name, seeds=row.seeds)
    return source, row, resolved


def parse_run(path: Path) -> Run:
    """The run in a ``recipe.json``; raises ``RecipeError`` or ``FileError``."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise RecipeError(
            "not a recorded recipe", where=path, remedy="longtail show RECIPE --json writes one"
        )
    return _in_project(parse(Run, content, str(path)))


def _in_project(run: Run) -> Run:
    """A recorded run with the folders of its methods, which are recorded relative to the project."""
    base = _in_project(run.base) if run.base is not None else None
    return run.model_copy(update={"plugin_path": str(in_project(run.plugin_path)), "base": base})


def describe(kind: str) -> list[dict[str, str]]:
    """Name and title of everything of a kind (methods, detectors, datasets, experiments); of methods also
    what they change (``touches``).

    Broken entries have the key ``broken`` with the reason.
    """
    if kind == "methods":
        return _describe_methods()
    if kind == "detectors":
        presets = detector_presets().values()
        return [_entry(item.name, "{architecture}, {backbone}".format(**item.settings)) for item in presets]
    read: Any = {"datasets": read_dataset, "experiments": read_experiment}[kind]
    entries = []
    for name, path in yaml_files(kind).items():
        try:
            entries.append(_entry(name, read(path).title))
        except BenchmarkError as error:
            entries.append(_broken(name, error))
    return entries


def _describe_methods() -> list[dict[str, str]]:
    entries = []
    for name, plugin in find_plugins([]).items():
        try:
            method = plugin.method
        except BenchmarkError as error:
            entries.append(_broken(name, error))
            continue
        entries.append({**_entry(name, method.title), "touches": touched(method, Variant())})
        for key, variant in method.variants.items():
            title = variant.title or f"{method.title} ({key})"
            entries.append({**_entry(f"{name}+{key}", title), "touches": touched(method, variant)})
    return entries


def _entry(name: str, title: str) -> dict[str, str]:
    return {"name": name, "title": title}


def _broken(name: str, error: BenchmarkError) -> dict[str, str]:
    reason = "; ".join(line.strip() for line in str(error).splitlines())
    return {"name": name, "title": f"(broken) {reason}", "broken": reason}


def lineage(run: Run) -> list[Run]:
    """The runs that a run starts from, the first one first, and the run itself."""
    return [*lineage(run.base), run] if run.base is not None else [run]
