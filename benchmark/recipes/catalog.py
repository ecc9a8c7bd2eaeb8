"""Methods, detector presets, datasets and budgets, found by name or file."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.loading import RecipeError, parse, parse_settings, read_yaml, unknown
from benchmark.recipes.models import (
    Budget,
    Dataset,
    Experiment,
    Method,
    Sampler,
    Schedule,
    Subset,
    Variant,
)
from benchmark.recipes.plugins import Plugin, find_plugins
from benchmark.recipes.project import folders_of, shown
from benchmark.recipes.schedules import changed

PAPER_BUDGET = "paper"


@dataclass(frozen=True)
class Preset:
    """Settings of a detector and the file that contains them."""

    name: str
    file: str
    settings: Mapping[str, Any]


class Catalog:
    """Everything that an experiment may name; ``methods`` and ``datasets`` are folders in addition to the
    project's."""

    def __init__(self, methods: list[Path] | None = None, datasets: list[Path] | None = None) -> None:
        self.plugins = find_plugins(methods or [])
        self.dataset_files = yaml_files("datasets", datasets or [])

    def method(self, key: str, where: str | None = None) -> tuple[Plugin, Method, str | None, Variant]:
        """Plug-in, manifest, variant's name and variant of METHOD or METHOD+VARIANT."""
        name, plus, variant = key.partition("+")
        if name not in self.plugins:
            raise unknown("method", name, self.plugins, where)
        plugin = self.plugins[name]
        method = plugin.method
        if not plus:
            return plugin, method, None, Variant()
        if variant not in method.variants:
            raise unknown(f"variant of {name}", variant, method.variants, where)
        return plugin, method, variant, method.variants[variant]

    def dataset(self, name: str, where: str | None = None) -> Dataset:
        """The dataset ``name``."""
        if name not in self.dataset_files:
            raise unknown("dataset", name, self.dataset_files, where)
        return read_dataset(self.dataset_files[name])

    def preset(self, name: str, where: str | None = None) -> Preset:
        """The detector preset ``BACKEND/PRESET``."""
        if name not in self._presets:
            raise unknown("detector", name, self._presets, where)
        return self._presets[name]

    @cached_property
    def _presets(self) -> dict[str, Preset]:
        return detector_presets()


def yaml_files(kind: str, folders: list[Path] | None = None) -> dict[str, Path]:
    """The YAML files of ``workflows/<kind>`` and ``folders`` by their names without suffix."""
    found: dict[str, Path] = {}
    for folder in (*folders_of(f"workflows/{kind}"), *(folders or [])):
        if not folder.is_dir():
            raise RecipeError(f"no such folder of {kind}", where=folder, remedy="correct the path")
        for path in sorted(folder.glob("*.yaml")):
            if path.stem in found and not path.samefile(found[path.stem]):
                both = f"{shown(found[path.stem])} and {shown(path)}"
                raise RecipeError(f"two {kind} are named '{path.stem}'", where=both, remedy="rename one")
            found[path.stem] = path
    return found


def yaml_file(kind: str, name_or_path: str, folder: Path | None = None) -> Path:
    """The file of a name in ``workflows/<kind>``, or of a path (relative to ``folder``)."""
    if name_or_path.endswith((".yaml", ".yml")):
        return (folder or Path.cwd()) / name_or_path
    known = yaml_files(kind)
    if name_or_path not in known:
        raise unknown(kind.removesuffix("s"), name_or_path, known)
    return known[name_or_path]


def read_dataset(path: Path) -> Dataset:
    """The dataset in a file; raises ``RecipeError``."""
    dataset = parse(Dataset, read_yaml(path), shown(path))
    check_name("dataset", dataset.name, path)
    if dataset.synthetic is not None and dataset.synthetic.categories != dataset.categories:
        raise RecipeError(
            "a synthetic dataset has as many categories as it generates",
            where=f"{shown(path)}, categories",
            found=dataset.categories,
            expected=dataset.synthetic.categories,
        )
    return dataset if dataset.subset is None else _with_whole(dataset, dataset.subset, path)


def _with_whole(dataset: Dataset, subset: Subset, path: Path) -> Dataset:
    """A subset with the dataset that it is drawn from."""
    where = f"{shown(path)}, subset"
    beside = path.with_name(f"{subset.of}.yaml")
    known = yaml_files("datasets") | ({subset.of: beside} if beside.is_file() else {})
    if subset.of not in known:
        raise unknown("dataset", subset.of, known, where)
    if known[subset.of].resolve() == path.resolve():
        raise RecipeError(
            "a dataset cannot be a subset of itself", where=where, remedy="name another dataset"
        )
    whole = read_dataset(known[subset.of])
    if whole.synthetic is not None or whole.subset is not None:
        raise RecipeError(
            "a subset is drawn from annotation files",
            where=where,
            found=f"{whole.name}, which is {'generated' if whole.synthetic else 'a subset itself'}",
            expected="a dataset with its own files",
        )
    most = subset.categories or (whole.categories if not subset.keep and not subset.drop else None)
    if most is not None and dataset.categories != most:
        raise RecipeError(
            "a subset has as many categories as it keeps",
            where=f"{shown(path)}, categories",
            found=dataset.categories,
            expected=most,
        )
    return dataset.drawn_from(whole)


def read_experiment(path: Path) -> Experiment:
    """The experiment in a file, with the keys of the experiment that it is ``like``, and with its seeds in
    every row that names none; rows are not resolved.

    Raises ``RecipeError``.
    """
    experiment = _read_experiment(path, ())
    if experiment.seeds is None:
        return experiment
    seeds = {"seeds": experiment.seeds}
    rows = [
        row if "seeds" in row.model_fields_set else row.model_copy(update=seeds) for row in experiment.rows
    ]
    return experiment.model_copy(update={"rows": rows})


def _read_experiment(path: Path, chain: tuple[Path, ...]) -> Experiment:
    experiment = parse(Experiment, read_yaml(path), shown(path))
    check_name("experiment", experiment.name, path)
    if experiment.like is not None:
        experiment = _completed(experiment, experiment.like, path, chain)
    ids = [row.id for row in experiment.rows]
    twice = sorted({item for item in ids if ids.count(item) > 1})
    if twice:
        raise RecipeError("two rows have one id", where=f"{shown(path)}, rows", found=", ".join(twice))
    return experiment


def _completed(experiment: Experiment, like: str, path: Path, chain: tuple[Path, ...]) -> Experiment:
    """An experiment with missing keys taken from the one that it is ``like``."""
    beside = path.with_name(f"{like}.yaml")
    file = beside if beside.is_file() else yaml_file("experiments", like)
    chain = (*chain, path.resolve())
    if file.resolve() in chain:
        raise RecipeError(
            "experiments are like one another in a circle", where=f"{shown(path)}, like", found=like
        )
    other = _read_experiment(file, chain)
    known = [row.id for row in other.rows]
    for id_ in experiment.without:
        if id_ not in known:
            raise unknown("row", id_, known, f"{shown(path)}, without")
    named = other.model_fields_set - {"reference"}  # rows of the same names may differ here
    keys, folder = {key: getattr(other, key) for key in named}, file.parent.resolve()
    for key in {"method_paths", "dataset_paths"} & keys.keys():  # relative to their file
        keys[key] = [str(folder / item) for item in keys[key]]
    if (other.budget or "").endswith((".yaml", ".yml")):
        keys["budget"] = str(folder / str(other.budget))
    keys["rows"] = [row for row in other.rows if row.id not in experiment.without]
    own = {key: getattr(experiment, key) for key in experiment.model_fields_set - {"like", "without"}}
    if own.get("budget", other.budget) != other.budget:
        gone: dict[str, Any] = {"reported": None, "deviations": []}
        keys["rows"] = [row.model_copy(update=gone) for row in keys["rows"]]
    return parse(Experiment, keys | own, shown(path))


def read_budget(path: Path) -> Budget:
    """The budget in a file; raises ``RecipeError``."""
    budget = parse(Budget, read_yaml(path), shown(path))
    check_name("budget", budget.name, path)
    if budget.name == PAPER_BUDGET:
        raise RecipeError(
            f"'{PAPER_BUDGET}' names the papers' own schedules", where=shown(path), remedy="rename it"
        )
    parts = {"all": budget.all, "classifier": budget.classifier}
    if budget.pretraining is not None:
        parts["pretraining.schedule"] = changed(budget.all, budget.pretraining.schedule)
    for part, settings in parts.items():
        length = {} if "iterations" in settings or "epochs" in settings else {"iterations": 1}
        required = {"learning_rate": 1.0, **length}
        parse_settings(Schedule, settings, f"{shown(path)}, {part}", **required)
    parse_settings(Sampler, budget.sampler, f"{shown(path)}, sampler")
    if budget.pretraining is not None:
        where = f"{shown(path)}, pretraining.detector"
        parse_settings(
            DetectorSettings,
            budget.pretraining.detector,
            where,
            architecture="mask_rcnn",
            backbone="resnet18",
        )
    return budget


def detector_presets() -> dict[str, Preset]:
    """Every preset by its name ``BACKEND/PRESET``; raises ``RecipeError`` for an invalid one."""
    presets: dict[str, Preset] = {}
    for path in [
        path for folder in folders_of("workflows/detectors") for path in sorted(folder.glob("*.yaml"))
    ]:
        file = shown(path)
        for preset, settings in read_yaml(path).items():
            name, where = f"{path.stem}/{preset}", f"{file}, {preset}"
            if not isinstance(settings, dict):
                raise RecipeError("a preset is a mapping", where=where, found=settings)
            if name in presets:
                both = f"{presets[name].file} and {file}"
                raise RecipeError(f"two detectors are named '{name}'", where=both, remedy="rename one")
            parse(DetectorSettings, settings, where)
            presets[name] = Preset(name, file, settings)
    return presets


def check_name(kind: str, name: str, path: Path) -> None:
    """Raise ``RecipeError`` if a file's name and the name in it differ."""
    if name != path.stem:
        raise RecipeError(
            f"the {kind} has the name of its file",
            where=f"{shown(path)}, name",
            found=name,
            expected=path.stem,
            remedy="rename one of the two",
        )
