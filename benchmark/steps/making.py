"""Makes a step: the jobs of the workflow and ``longtail make`` run this code."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmark.cost import visible_gpus
from benchmark.errors import BenchmarkError
from benchmark.files import atomic_path, exclusive, remove_abandoned_lock, write_json
from benchmark.messages import verbosity_options
from benchmark.notices import data_warnings
from benchmark.processes import launched
from benchmark.recipes import LoadedExperiment
from benchmark.recipes.loading import unknown
from benchmark.recipes.models import Dataset, Run
from benchmark.recipes.paths import RECORD, DatasetFiles, data_folder
from benchmark.records import (
    SHARED_BY,
    StepRecorder,
    check_attempt,
    holds,
    is_intact,
    read_record,
    record_step,
)
from benchmark.steps.listing import (
    CHECK,
    EVALUATE,
    FIT,
    INTERMEDIATES,
    PREDICT,
    RETRAIN,
    STATISTICS,
    SYNTHESIZE,
    TRAIN,
    TRANSFORM,
    dataset_files,
    dataset_steps,
    find_step,
    own_steps,
    run_files,
    shared_steps,
    steps_of,
    steps_of_experiment,
)
from benchmark.steps.sharing import SharedPass, shared_passes
from benchmark.steps.step import ABSENT, MAIN, Step
from benchmark.steps.store import in_results, link, link_dataset, publish

if TYPE_CHECKING:
    from benchmark.inference.predict import PredictionJob
    from benchmark.training import StageJob


_LOGGER = logging.getLogger(__name__)

_LEFT = "%s is left to its own job: %s"


class StepError(BenchmarkError):
    """A step cannot be made from its present inputs."""


@dataclass(frozen=True)
class Means:
    """Resources of a step, on which its result does not depend.

    ``devices`` is the number of GPUs, with one process each (0: the CPU); ``workers`` the number of data
    loading processes of each; ``images_at_once`` limits the images of a forward pass in training if memory is
    short.
    """

    devices: int = 0
    workers: int = 0
    images_at_once: int | None = None

    def options(self) -> list[str]:
        """As options of ``longtail make``."""
        found = ["--devices", str(self.devices), "--workers", str(self.workers)]
        if self.images_at_once is not None:
            found += ["--images-at-once", str(self.images_at_once)]
        return found


def make(step: Step, means: Means, attempt: int = 1) -> bool:
    """Make a step whose inputs are finished, and move its result into the store.

    Returns whether anything was made. A finished step is not made again. If a step was killed between its end
    and the move into the store, only the move is done.

    Raises:
        StepError: an input is not finished, or differs from its record.
        BusyError: another process is making the step.
        BenchmarkError: the step itself has found an error.
    """
    if _is_made(step):
        return False
    check_attempt(step.work, attempt)
    if launched(means.devices if step.kind.on_gpu else 0, step.work):
        return True
    if not _is_first():  # the first process writes the record
        _FUNCTIONS[step.kind.name](step, means)
        return True
    return _make_here(step, means)


def make_shared(shared: SharedPass, means: Means, attempt: int = 1) -> None:
    """Make the unfinished steps of a shared pass and move each into the store when it has ended.

    A step that fails gets a failed record, and its own job tries it again. The pass also leaves to their own
    jobs the steps that another process is making and, in a second attempt, those that would fail again.

    Raises:
        BenchmarkError: an error that ends all steps, such as an interruption.
    """
    if launched(means.devices, shared.done.parent):
        return
    if _is_first():
        _transform(shared, means, attempt)
        _make_together(shared, means, attempt)
        for step in shared.steps:
            link(step.run)
        shared.done.parent.mkdir(parents=True, exist_ok=True)
        shared.done.touch()
    else:  # the first process has chosen the steps
        for _ in _results(shared.steps, means):
            pass


def _make_here(step: Step, means: Means) -> bool:
    """Make a step in this process. Returns whether anything was made."""
    with _made_within(step, means) as recorder:
        if recorder is not None:
            recorder.add(**_FUNCTIONS[step.kind.name](step, means))
    return recorder is not None


def _transform(shared: SharedPass, means: Means, attempt: int) -> None:
    """Make the transform stages before the predictions of a shared pass, if their inputs are finished."""
    for step in shared.transforms:
        if not _has_inputs(step):
            continue
        try:
            check_attempt(step.work, attempt)
            _make_here(step, means)
        except Exception as error:
            _LOGGER.warning(_LEFT, step.full_name, error)


def _make_together(shared: SharedPass, means: Means, attempt: int) -> None:
    held: dict[str, tuple[ExitStack, StepRecorder]] = {}
    with ExitStack() as rest:
        for step in filter(_has_inputs, shared.steps):  # the training of a checkpoint may have failed
            own = rest.enter_context(ExitStack())
            try:
                check_attempt(step.work, attempt)
                recorder = None if _is_made(step) else own.enter_context(_made_within(step, means))
            except BenchmarkError as error:
                _LOGGER.warning(_LEFT, step.full_name, error)
                continue
            if recorder is not None:
                recorder.share(len(shared.steps))
                held[step.place] = own, recorder
        waiting = [step for step in shared.steps if step.place in held]
        if not waiting:
            if means.devices > 1:
                raise StepError(
                    "the shared pass has no step to make",
                    where=shared.name,
                    found="other processes make or have made its steps, or the steps before them failed",
                )
            return
        for _, recorder in held.values():
            recorder.share(len(held))
            recorder.add(**{SHARED_BY: len(held)})
            recorder.write()
        for step, result in _results(waiting, means):
            own, recorder = held.pop(step.place)
            if isinstance(result, Exception):
                _LOGGER.error("%s failed: %s", step.full_name, result)
                own.__exit__(type(result), result, result.__traceback__)
            else:
                recorder.add(**result)
                own.close()
                _LOGGER.info(in_results(step.folder))
            for _, other in held.values():
                other.share(len(held))


def _results(steps: Sequence[Step], means: Means) -> Iterator[tuple[Step, dict[str, Any] | Exception]]:
    """Make the steps of a pass; yields each when it has ended, with facts for its record or its error."""
    return _predicted(steps, means) if steps[0].kind is PREDICT else _trained(steps, means)


def _trained(steps: Sequence[Step], means: Means) -> Iterator[tuple[Step, dict[str, Any] | Exception]]:
    from benchmark.training import train_stages

    jobs = {_stage_job(step): step for step in steps}
    for job, result in train_stages([*jobs], devices=means.devices, workers=means.workers):
        yield jobs[job], result


def _predicted(steps: Sequence[Step], means: Means) -> Iterator[tuple[Step, dict[str, Any] | Exception]]:
    from benchmark.inference.predict import predict_together

    jobs = {_prediction_job(step): step for step in steps}
    for job, result in predict_together([*jobs], devices=means.devices, workers=means.workers):
        if isinstance(result, Exception):
            yield jobs[job], result
            continue
        try:
            _write_weight_norms(jobs[job])
        except Exception as error:
            if len(steps) == 1:
                raise
            yield jobs[job], error
        else:
            yield jobs[job], result


@contextmanager
def _made_within(step: Step, means: Means) -> Iterator[StepRecorder | None]:
    """Lock a step and write its record while it is made; move its result into the store at the end.

    Yields None if nothing is left to make.
    """
    with exclusive(step.lock, step.work):
        if _is_made(step):
            yield None
        elif is_intact(step.work):  # killed before the move into the store
            publish(step)
            yield None
        else:
            with record_step(step.work, step.subject) as recorder:
                _check_inputs(step)
                if step.kind.on_gpu and means.devices:
                    recorder.use_gpus(visible_gpus(means.devices))
                yield recorder
            publish(step)


def _is_made(step: Step) -> bool:
    """Whether a step is finished. A result whose files have changed since they were made is removed."""
    if not step.finished:
        return False
    if is_intact(step.folder):
        step.done.touch()
        remove_abandoned_lock(step.lock)
        return True
    _LOGGER.warning("%s is damaged: it is made again", in_results(step.folder))
    shutil.rmtree(step.folder)
    return False


def make_step(run: Run, name: str, means: Means, attempt: int = 1) -> None:
    """Make a step of a run by its name, or any step of the run or its bases by KIND/KEY.

    Raises ``StepError`` if there is no such step, and the errors of ``make``.
    """
    step = find_step(run, name)
    if step is None and "/" in name:
        raise StepError(
            f"{run.title} no longer has this step",
            found=name,
            expected=", ".join(step.place for step in steps_of(run)),
            remedy="something that it depends on was changed since the workflow was planned: run it again",
        )
    if step is None:
        known = [step.name for step in [*shared_steps(run), *own_steps(run)]]
        raise unknown(f"step of {run.title}", name, known)
    made = make(step, means, attempt)
    if _is_first():
        link(run)
        _LOGGER.info("%s%s", in_results(step.folder), "" if made else " exists already")


def make_pass(experiment: LoadedExperiment, name: str, means: Means, attempt: int = 1) -> None:
    """Make a shared pass of an experiment by its name (shared_pass/KEY).

    Raises ``StepError`` if there is no such pass, and the errors of ``make_shared``.
    """
    steps = [planned.step for planned in steps_of_experiment(experiment).values()]
    passes = {found.name: found for found in shared_passes(steps)}
    if name not in passes:
        raise StepError(
            f"{experiment.name} no longer has this shared pass",
            found=name,
            expected=", ".join(passes) or "none: no steps can share one",
            remedy="something that it depends on was changed since the workflow was planned: run it again",
        )
    make_shared(passes[name], means, attempt)


def make_all(run: Run, recipe: str, means: Means) -> None:
    """Make all missing steps of a run and its bases, each in a separate process.

    Raises ``SystemExit`` with the exit status of the first step that fails.
    """
    for step in steps_of(run):
        if not _is_made(step):
            command = [sys.executable, "-m", "benchmark.cli", "make", recipe, step.place]
            command += [*means.options(), *verbosity_options()]
            status = subprocess.run(command, check=False).returncode
            if status:
                raise SystemExit(status if status > 0 else 1)
    link(run)


def made_dataset(dataset: Dataset) -> DatasetFiles:
    """The files of a dataset. Generates a synthetic dataset and makes the statistics if they are missing;
    does not check the files."""
    for step in dataset_steps(dataset):
        if step.kind is not CHECK:
            make(step, Means())
    link_dataset(dataset)
    return dataset_files(dataset)


def made_files(run: Run) -> DatasetFiles:
    """Like ``made_dataset``, with the intermediate files that the run's method reads."""
    for step in shared_steps(run):
        if step.kind is not CHECK:
            make(step, Means())
    link_dataset(run.dataset)
    return run_files(run)


def _is_first() -> bool:
    """Whether this is the only process of a step, or the first of several."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


def _has_inputs(step: Step) -> bool:
    """Whether the steps that it depends on are finished."""
    return all(before.finished for before in step.inputs.values())


def _check_inputs(step: Step) -> None:
    """Raise ``StepError`` if an input is missing or has changed since it was made."""
    for role, source in step.sources.items():
        if source.sha256 == ABSENT or not source.path.is_file():
            raise StepError(
                f"the {role} for {step.full_name} are missing",
                where=source.path,
                remedy="put the file there, or set LONGTAIL_DATA to the folder that holds it",
            )
        if source.expected not in (None, source.sha256):
            raise StepError(
                f"the {role} for {step.full_name} do not have the checksum that the recipe states",
                where=source.path,
                found=f"SHA-256 {source.sha256}",
                expected=f"SHA-256 {source.expected}",
                remedy="download the file again, or correct sha256 in the experiment",
            )
    for role, source in step.sources.items():
        _LOGGER.debug("%s reads the %s %s, SHA-256 %s", step.full_name, role, source.path, source.sha256)
    for before in step.inputs.values():
        _LOGGER.debug("%s reads %s", step.full_name, before.folder)
        record = read_record(before.folder / RECORD)
        if record is None:
            raise StepError(
                f"{step.full_name} needs {before.full_name}, which is not finished",
                where=before.folder,
                remedy="`longtail make RECIPE` without a step makes all missing steps",
            )
        for output in record.outputs:
            path = before.folder / output.name
            if not holds(path, output):
                raise StepError(
                    f"a result of {before.full_name} has changed since it was made",
                    where=path,
                    found="other content" if path.exists() else "no such file",
                    expected=f"SHA-256 {output.sha256}" if output.sha256 else f"{output.files} files",
                    remedy="`longtail make RECIPE` makes that step again and replaces the damaged result",
                )


def _synthesize(step: Step, _: Means) -> dict[str, Any]:
    from benchmark.annotations import synthesize_dataset

    assert step.dataset.synthetic is not None
    _LOGGER.info(synthesize_dataset(step.dataset.synthetic, step.work))
    return {}


def _check(step: Step, means: Means) -> dict[str, Any]:
    from benchmark.datasets.checking import check_files

    found = check_files(dataset_files(step.dataset), data_folder(), step.dataset.name, means.workers + 1)
    write_json(step.work / CHECK.outputs[MAIN], found.files)
    write_json(step.work / CHECK.outputs["problems"], [problem.as_dict() for problem in found.problems])
    return {"warnings": found.warnings}


def _statistics(step: Step, _: Means) -> dict[str, Any]:
    from benchmark.statistics import class_statistics_with_differences

    statistics, differences = class_statistics_with_differences(dataset_files(step.dataset).train)
    statistics.write(step.work / STATISTICS.outputs[MAIN])
    _LOGGER.info(statistics.summary())
    for difference in differences:
        _LOGGER.warning(difference)
    return {"differences": differences} if differences else {}


def _intermediates(step: Step, _: Means) -> dict[str, Any]:
    from benchmark.statistics import intermediates, project_files, released_files, with_released

    content, _differences = intermediates(dataset_files(step.dataset).train)
    released = {table: source.path for table, source in step.sources.items() if table != "annotations"}
    tables = with_released(content, content.class_tables(step.reads["edges"]), released)
    content.statistics.write(step.work / "class_statistics.csv")
    with data_warnings():  # the trainings that use the tables print these warnings
        files = project_files(content, tables) | released_files(content, tables)
    for name, data in files.items():
        with atomic_path(step.work / name) as temporary:
            temporary.write_bytes(data)
    if not released:
        return {}
    for table, path in released.items():
        _LOGGER.info("%s as in %s", table, path)
    return {
        "released": {
            table: f"{path.name}, SHA-256 {step.sources[table].sha256}" for table, path in released.items()
        }
    }


def _stage(step: Step, means: Means) -> dict[str, Any]:
    from benchmark.training import run_stage

    return run_stage(
        _stage_job(step),
        devices=means.devices,
        workers=means.workers,
        images_at_once=means.images_at_once,
    )


def _stage_job(step: Step) -> "StageJob":
    from benchmark.training import StageJob

    before = step.inputs.get("init")
    return StageJob(
        step.run,
        step.name,
        run_files(step.run),
        step.work / step.kind.outputs[MAIN],
        init=before.output() if before is not None else None,
    )


def _predict(step: Step, means: Means) -> dict[str, Any]:
    ((_, facts),) = _predicted([step], means)
    assert not isinstance(facts, Exception)
    return facts


def _prediction_job(step: Step) -> "PredictionJob":
    from benchmark.inference.predict import PredictionJob

    checkpoint, output = step.inputs["checkpoint"].output(), step.work / PREDICT.outputs[MAIN]
    return PredictionJob(step.run, run_files(step.run), checkpoint, output)


def _write_weight_norms(step: Step) -> None:
    from benchmark.detectors.weight_norms import write_weight_norms

    if _is_first():
        job, norms = _prediction_job(step), step.work / PREDICT.outputs["weight_norms"]
        write_weight_norms(job.run, job.files.statistics, job.checkpoint, norms, job.files.intermediates)


def _evaluate(step: Step, _: Means) -> dict[str, Any]:
    from benchmark.evaluation import evaluate_detections

    files = dataset_files(step.dataset)
    evaluation = evaluate_detections(
        files.val,
        step.inputs["detections"].output(),
        max_detections={"lvis": step.run.test.max_detections},
        statistics=files.statistics,
        calibration=True,
    )
    evaluation.write(
        step.work / EVALUATE.outputs[MAIN],
        step.work / EVALUATE.outputs["per_class"],
        calibration=step.work / EVALUATE.outputs["calibration"],
    )
    _LOGGER.info(evaluation.text())
    return {"protocol": evaluation.protocol, "notes": evaluation.notes}


_FUNCTIONS: Mapping[str, Callable[[Step, Means], dict[str, Any]]] = {
    SYNTHESIZE.name: _synthesize,
    CHECK.name: _check,
    STATISTICS.name: _statistics,
    INTERMEDIATES.name: _intermediates,
    **dict.fromkeys((kind.name for kind in (TRAIN, RETRAIN, FIT, TRANSFORM)), _stage),
    PREDICT.name: _predict,
    EVALUATE.name: _evaluate,
}
