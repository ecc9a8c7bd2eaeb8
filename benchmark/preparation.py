"""Preparation and validation of everything that an experiment's rows need, before anything expensive."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmark.annotations.image_files import usable_cores
from benchmark.datasets import DatasetError, Prepared, prepare_dataset
from benchmark.datasets.download import DownloadError, download
from benchmark.datasets.prepare import COCO, Report
from benchmark.detectors import build_detector
from benchmark.errors import BenchmarkError
from benchmark.recipes import LoadedExperiment, lineage
from benchmark.recipes.catalog import read_dataset
from benchmark.recipes.models import Archive, Dataset, Run
from benchmark.recipes.paths import data_folder, split_file
from benchmark.recipes.project import working_root
from benchmark.recipes.zoo import zoo
from benchmark.statistics import ClassStatistics, class_statistics
from benchmark.steps import Means, dataset_files, dataset_steps, make
from benchmark.steps.listing import CHECK
from benchmark.steps.store import link_dataset
from benchmark.training.data_fit import settings_without_effect


def prepare_experiment(experiment: LoadedExperiment, coco: Path | None, report: Report) -> list[Prepared]:
    """Download, link, draw or rebuild the dataset files and initial weights of an experiment, and check them.
    Existing files are kept, and an interrupted call is resumed by the next one.

    The user's own datasets are only checked, if their files exist. The result of the check is stored with
    sizes and hashes (``files.json`` of the step ``check``), and checked files are not checked again.

    Args:
        experiment: the experiment; rows that cannot run here yet are prepared too.
        coco: folder of COCO to link to.
        report: called with one line for every longer step.

    Raises:
        DatasetError: a file is not the expected one.
        FileError: an error of the system.
    """
    runs = _runs(experiment)
    done: list[Prepared] = []
    for name, path in experiment.dataset_files.items():
        used = [run for run in runs if run.dataset_name == name]
        if not used:
            continue
        dataset = read_dataset(path)
        if dataset.is_preparable:
            stuff_maps = any(run.detector.semantic_branch for run in used)
            done += prepare_dataset(
                dataset, data_folder(), coco if _needs_coco(dataset) else None, report, stuff_maps=stuff_maps
            )
        done += [Prepared(path, False, text) for path, text in _problems_of_files(dataset, report)]
    return (
        done
        + list(_fetched_weights(runs, report))
        + [
            Prepared(Path(where), text is None, text or "weights fit the detector")
            for where, text in _weights(runs, report)
        ]
    )


def validate_experiment(experiment: LoadedExperiment, report: Report) -> list[str]:
    """Problems that would stop the rows that can run here, or make their numbers wrong: errors in dataset
    files (files that were checked before are not opened again), and initial weights or options that a
    detector or classifier refuses. One text for each."""
    rows = [row.runs for row in experiment.rows if row.skipped is None]
    runs = _lineages(run for runs in rows for run in runs)
    datasets = {run.dataset_name: run.dataset for run in runs}
    found = [text for dataset in datasets.values() for _, text in _problems_of_files(dataset, report)]
    return found + [text for _, text in _weights(runs, report) if text is not None]


def warnings_of_data(experiment: LoadedExperiment) -> dict[str, list[str]]:
    """The warnings of the trainings of the rows that can run here, with the rows for each warning.

    Generated data that do not exist yet have no warnings. ``validate_experiment`` reports what a classifier
    refuses.
    """
    found: dict[str, list[str]] = {}
    statistics: dict[str, ClassStatistics | None] = {}
    for row in experiment.rows:
        for run in _lineages(row.runs) if row.skipped is None else []:
            if run.dataset_name not in statistics:
                statistics[run.dataset_name] = _statistics(run.dataset)
            known = statistics[run.dataset_name]
            try:
                texts = settings_without_effect(run, known) if known is not None else []
            except BenchmarkError:
                continue
            for text in texts:
                if row.id not in found.setdefault(text, []):
                    found[text].append(row.id)
    return found


def _statistics(dataset: Dataset) -> ClassStatistics | None:
    made = dataset_files(dataset).statistics
    if made.is_file():
        return ClassStatistics.read(made)
    if dataset.synthetic is None and _files_exist(dataset):
        return class_statistics(split_file(dataset, "train", "annotations"))
    return None


def _runs(experiment: LoadedExperiment) -> list[Run]:
    return _lineages(run for row in experiment.rows for run in row.runs)


def _lineages(runs: Iterable[Run]) -> list[Run]:
    return [item for run in runs for item in lineage(run)]


def _needs_coco(dataset: Dataset) -> bool:
    return dataset.subset is not None or any(file.path.startswith(COCO) for file in dataset.files)


def _problems_of_files(dataset: Dataset, report: Report) -> Iterator[tuple[Path, str]]:
    """Check a real dataset whose files exist, unless they were checked before; yields the error, if any."""
    if dataset.synthetic is not None or not _files_exist(dataset):
        return
    (step,) = [step for step in dataset_steps(dataset) if step.kind is CHECK]
    try:
        if not step.finished:
            report(f"checking the files of {dataset.title} ...")
            make(step, Means(workers=usable_cores() - 1))
            link_dataset(dataset)
        annotations = split_file(dataset, "train", "annotations")
        if (known := _statistics(dataset)) is not None:
            known.check_number(dataset.categories, dataset.name, annotations, DatasetError)
    except BenchmarkError as error:
        yield dataset_files(dataset).train, str(error)


def _files_exist(dataset: Dataset) -> bool:
    return all(
        split_file(dataset, split, part).exists()
        for split in ("train", "val")
        for part in ("annotations", "images")
    )


def _fetched_weights(runs: list[Run], report: Report) -> Iterator[Prepared]:
    """Download the missing weight files of recipes that a model zoo has."""
    absent = {str(run.detector.weights_file): run for run in runs if _lacks_file(run)}
    for file, run in absent.items():
        known = zoo().weights_of(run.detector)
        if known is None:
            yield Prepared(Path(file), False, "put the file there; no address of it is known")
            continue
        report(f"fetching {known.url} ...")
        try:
            download(Archive(url=known.url, sha256=known.sha256), working_root() / file)
            yield Prepared(Path(file), True, f"fetched from {known.url}")
        except DownloadError as error:
            yield Prepared(Path(file), False, str(error))


def _lacks_file(run: Run) -> bool:
    file = run.detector.weights_file
    return run.base is None and file is not None and not (working_root() / file).is_file()


def _weights(runs: list[Run], report: Report) -> Iterator[tuple[str, str | None]]:
    """Build every distinct detector with its initial weights, downloading those of torchvision; yields the
    source of the weights, and the error if there is one."""
    seen = set()
    statistics: dict[str, ClassStatistics | None] = {}
    for run in runs:
        where = run.detector.weights_file or f"{run.detector.init} weights of {run.detector_name}"
        own = run.base is None and run.detector.init != "none"
        model = repr((run.detector_name, run.detector, run.classifier, run.options, run.dataset_name))
        unknown = run.dataset.synthetic is not None or not _files_exist(run.dataset) or _lacks_file(run)
        if not own or model in seen or unknown:
            continue
        seen.add(model)
        report(f"trying the {where} for {run.title} ...")
        try:
            if run.dataset_name not in statistics:
                statistics[run.dataset_name] = _statistics(run.dataset)
            known = statistics[run.dataset_name]
            if known is not None:
                build_detector(run, known)
                yield where, None
        except BenchmarkError as error:
            yield where, str(error)
