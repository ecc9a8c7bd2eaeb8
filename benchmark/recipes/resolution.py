"""Resolve the names in a row to a run: every value, and the source of each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark.recipes.catalog import PAPER_BUDGET, Catalog, Preset
from benchmark.recipes.detector_settings import FRAMEWORKS, DetectorSettings
from benchmark.recipes.loading import RecipeError, parse
from benchmark.recipes.models import (
    Budget,
    Dataset,
    Method,
    Pretraining,
    Released,
    Run,
    Sampler,
    Schedule,
    Stage,
    TestSettings,
    Variant,
)
from benchmark.recipes.options import checked_options, value_text
from benchmark.recipes.schedules import changed, expanded, kept
from benchmark.statistics.upstream_files import WEIGHT_FILES

DEFAULT = "default"
Layer = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Choice:
    """The choices of a row before it is resolved; ``swept`` are the options whose values come from a
    sweep."""

    method: str
    detector: str
    dataset: Dataset
    budget: Budget | None
    budget_file: str
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    released: Released = field(default_factory=dict)
    swept: frozenset[str] = frozenset()
    schedule: Mapping[str, Any] = field(default_factory=dict)
    schedule_place: str = ""


@dataclass(frozen=True)
class Resolved:
    """A run, and the source of each value by its key path, e.g. ``detector.init``; without a source it is a
    default. ``base`` is what it starts from."""

    run: Run
    sources: dict[str, str]
    base: "Resolved | None" = None


def resolve(catalog: Catalog, choice: Choice, row: str, where: str) -> Resolved:
    """Resolve the choices of a row; ``where`` is its location for messages. Raises ``RecipeError``."""
    return _resolve(catalog, choice, row, where, ())


class _Sources:
    """Settings merged from layers, and the source of each by its key path."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}

    def merge(self, path: str, layers: Iterable[Layer]) -> dict[str, Any]:
        """The settings of all layers; later ones win."""
        values: dict[str, Any] = {}
        for source, settings in layers:
            values.update(settings)
            self.of.update({f"{path}.{key}": source for key in settings})
        return values


@dataclass(frozen=True)
class _Recipe:
    """A method and one of its variants, with the location of each for messages."""

    method: Method
    variant: Variant
    manifest: str
    variation: str

    def layers(self, of_method: Mapping[str, Any], of_variant: Mapping[str, Any]) -> list[Layer]:
        """What the manifest sets, and what the variant changes."""
        return [(self.manifest, of_method), (self.variation, of_variant)]

    @property
    def stages(self) -> tuple[list[Stage], str]:
        """The stages and their source."""
        return (
            (self.variant.stages, self.variation)
            if self.variant.stages
            else (self.method.stages, self.manifest)
        )

    @property
    def sampler(self) -> tuple[Sampler, str]:
        """The sampler of stages that do not have their own, and its source."""
        return (
            (self.variant.sampler, self.variation)
            if self.variant.sampler
            else (self.method.sampler, self.manifest)
        )


def _resolve(catalog: Catalog, choice: Choice, row: str, where: str, chain: tuple[str, ...]) -> Resolved:
    """``chain`` are the methods that start from this one, the first one last."""
    if choice.method in chain:
        circle = " -> ".join((*chain, choice.method))
        raise RecipeError("methods take each other's checkpoints in a circle", where=where, found=circle)
    plugin, method, variant_name, variant = catalog.method(choice.method, where)
    recipe = _Recipe(method, variant, str(plugin.manifest), f"{plugin.manifest}, variant {variant_name}")
    choice = replace(choice, schedule={}) if chain else _with_schedule(choice, recipe)
    sources = _Sources()
    detector = _detector(catalog.preset(choice.detector, where), recipe, choice, sources)
    test = parse(
        TestSettings,
        sources.merge("test", recipe.layers(method.test.model_dump(exclude_unset=True), variant.test)),
        f"test settings of {choice.method}",
    )
    places = {key: f"{where}, {'sweep' if key in choice.swept else 'options'}" for key in choice.options}
    own_options = checked_options(method, choice.options, places)
    option_layers = [(places[key], {key: value}) for key, value in own_options.items()]
    options = sources.merge("options", [*recipe.layers(method.options, variant.options), *option_layers])
    sources.of["classifier"] = recipe.variation if variant.classifier else recipe.manifest

    stages, _ = recipe.stages
    base = _base(catalog, choice, recipe, detector, chain)
    title = method.title if variant_name is None else variant.title or f"{method.title} ({variant_name})"
    if changes := {**own_options, **choice.schedule}:
        title += f" ({', '.join(f'{key} {value_text(value)}' for key, value in changes.items())})"
    run = Run(
        row=row,
        title=title,
        method=method.name,
        variant=variant_name,
        detector_name=choice.detector,
        dataset_name=choice.dataset.name,
        budget=choice.budget.name if choice.budget else PAPER_BUDGET,
        seed=choice.seed,
        classifier=variant.classifier or method.classifier,
        options=options,
        detector=detector,
        dataset=choice.dataset,
        stages=[_stage(stage, recipe, choice, sources) for stage in stages if stage.from_ is None],
        base=base.run if base is not None else None,
        test=test,
        plugin_path=str(plugin.folder.resolve()),
        row_options=own_options,
        row_schedule=dict(choice.schedule),
        intermediates=list(method.intermediates),
        released=_released(method, choice.released, options, where),
    )
    return Resolved(run, sources.of, base)


def _base(
    catalog: Catalog, choice: Choice, recipe: _Recipe, detector: DetectorSettings, chain: tuple[str, ...]
) -> Resolved | None:
    """What a recipe starts from: the method of its first stage, or in place of random weights the budget's
    pretraining; None for its own initial weights."""
    stages, source = recipe.stages
    if stages[0].from_ is not None:
        where = f"{source}, stage {stages[0].name}, from"
        chosen = replace(choice, method=stages[0].from_, options={}, released={}, swept=frozenset())
        return _resolve(catalog, chosen, stages[0].from_, where, (*chain, choice.method))
    if choice.budget is None or choice.budget.pretraining is None or detector.init != "none":
        return None
    return _pretraining(catalog, choice, choice.budget, choice.budget.pretraining)


def _pretraining(catalog: Catalog, choice: Choice, budget: Budget, pretraining: Pretraining) -> Resolved:
    """The training that a detector starts from where it would start at random weights."""
    where = f"{choice.budget_file}, pretraining"
    schedule = changed(budget.all, pretraining.schedule)
    own = budget.model_copy(update={"all": schedule, "pretraining": None})
    dataset = catalog.dataset(pretraining.dataset, where)
    chosen = Choice(pretraining.method, choice.detector, dataset, own, choice.budget_file, pretraining.seed)
    return _resolve(catalog, chosen, "pretraining", where, ())


def _detector(preset: Preset, recipe: _Recipe, choice: Choice, sources: _Sources) -> DetectorSettings:
    """The method's choice, the preset's over it, the budget's for what starts from its pretraining, and the
    framework's for what none sets."""
    layers = recipe.layers(recipe.method.detector, recipe.variant.detector)
    layers.append((f"preset {preset.name} ({preset.file})", preset.settings))
    settings = sources.merge("detector", layers)
    pretraining = choice.budget.pretraining if choice.budget is not None else None
    if pretraining is not None and settings.get("init") == "none":
        settings |= sources.merge("detector", [(f"{choice.budget_file}, pretraining", pretraining.detector)])
    detector = parse(DetectorSettings, settings, f"detector of {choice.method}")
    for key in FRAMEWORKS[detector.framework]:
        sources.of.setdefault(f"detector.{key}", f"framework {detector.framework}")
    return detector


def _stage(stage: Stage, recipe: _Recipe, choice: Choice, sources: _Sources) -> Stage:
    """A stage of the recipe with its sampler, schedule, meta step and options."""
    _, source = recipe.stages
    path = f"stages.{stage.name}"
    settings = {
        "name": stage.name,
        **sources.merge(path, [(source, stage.model_dump(exclude_unset=True))]),
    }
    sampler, sampler_source = (stage.sampler, source) if stage.sampler else recipe.sampler
    settings["sampler"] = _sampler(
        path, sampler, sampler_source, choice, sources, trains=stage.kind == "train"
    )
    if stage.meta is not None:
        meta = sources.merge(f"{path}.meta", [(source, stage.meta.model_dump(exclude_unset=True))])
        meta["sampler"] = _sampler(f"{path}.meta", stage.meta.sampler, source, choice, sources, trains=True)
        settings["meta"] = meta
    if stage.schedule is not None:
        settings["schedule"] = _of_row(path, _schedule(path, stage, source, choice, sources), choice, sources)
    if stage.kind == "fit" and choice.budget is not None:
        shared = {key: value for key, value in choice.budget.fit.items() if key in stage.options}
        layers = [(source, stage.options), (choice.budget_file, shared)]
        settings["options"] = sources.merge(f"{path}.options", layers)
    return Stage.model_validate(settings)


def _with_schedule(choice: Choice, recipe: _Recipe) -> Choice:
    """The choices of a row, after a check that the method has a stage for the row's schedule."""
    if choice.schedule and all(stage.schedule is None for stage in recipe.stages[0]):
        raise RecipeError(
            f"method '{choice.method}' trains nothing of its own",
            where=choice.schedule_place,
            found=choice.schedule,
            remedy="leave the key out, or set the schedule of the method that it starts from in a budget",
        )
    return choice


def _of_row(path: str, schedule: Schedule, choice: Choice, sources: _Sources) -> Schedule:
    """The schedule of a stage with the row's changes; a new length also replaces the steps."""
    if not choice.schedule:
        return schedule
    try:
        changes: dict[str, Any] = expanded(dict(choice.schedule))
    except ValueError as error:
        raise RecipeError(str(error), where=f"{choice.schedule_place}.like") from None
    settings = changed(schedule.model_dump(exclude_unset=True), changes)
    sources.of.update({f"{path}.schedule.{key}": choice.schedule_place for key in changes})
    return parse(Schedule, settings, choice.schedule_place)


def _released(method: Method, released: Released, options: Mapping[str, Any], where: str) -> Released:
    """Released files that the method reads tables from; refuses any other."""
    read = {table.replace("group_weights", "groups") for table in released}
    surplus = sorted(read - set(method.intermediates))
    if surplus:
        raise RecipeError(
            f"method '{method.name}' does not read the released file",
            where=f"{where}, released",
            found=", ".join(surplus),
            expected=", ".join(method.intermediates) or "none: it reads no intermediate files",
        )
    weights = released.get("class_weights")
    if weights is not None and WEIGHT_FILES.get(Path(weights.file).name) != options.get("weights"):
        raise RecipeError(
            f"method '{method.name}' reads the table '{options.get('weights')}' of class weights",
            where=f"{where}, released.class_weights",
            found=weights.file,
            expected=", ".join(f"{name} ({table})" for name, table in WEIGHT_FILES.items()),
        )
    return released


def _sampler(
    path: str, sampler: Sampler, source: str, choice: Choice, sources: _Sources, *, trains: bool
) -> Sampler:
    """The sampler of a stage. The budget changes its settings; of a method's own sampler only its options."""
    layers = [(source, sampler.model_dump(exclude_unset=True))]
    changes = choice.budget.sampler if choice.budget is not None else {}
    if ":" in sampler.kind:
        shared = {key: value for key, value in changes.items() if key in sampler.options}
        changes = {"options": sampler.options | shared} if shared else {}
    elif not trains:
        changes = {key: value for key, value in changes.items() if key != "kind"}
    if sampler.kind != "uniform" or "kind" in changes:
        layers.append((choice.budget_file, changes))
    return parse(Sampler, sources.merge(f"{path}.sampler", layers), f"{path}.sampler")


def _schedule(path: str, stage: Stage, source: str, choice: Choice, sources: _Sources) -> Schedule:
    assert stage.schedule is not None
    settings = stage.schedule.model_dump(exclude_unset=True)
    changes: dict[str, Any] = {}
    if choice.budget is not None:
        changes = choice.budget.all if stage.trainable == "all" else choice.budget.classifier
    layers = [(source, kept(settings, changes)), (choice.budget_file, changes)]
    return parse(Schedule, sources.merge(f"{path}.schedule", layers), f"{path}.schedule")
