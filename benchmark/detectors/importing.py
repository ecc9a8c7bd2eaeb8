"""Import of checkpoints: the papers' released weights, and those of the frameworks.

Every tensor of the model must have its counterpart in the file, and every tensor of the file must be used or
be known not to matter. Differences between frameworks other than names and order are stored with the weights
(``benchmark.detectors.checkpoints.CONVENTIONS``).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.detectors.build import build_detector
from benchmark.detectors.checkpoints import CheckpointError, finished, is_counter, read_tensors, save
from benchmark.detectors.initial_weights import read_zoo
from benchmark.detectors.interface import Detector
from benchmark.detectors.layouts import (
    DETECTRON2,
    MASK,
    REGRESSOR,
    SOURCES,
    Layout,
    fitting,
    naming_of,
)
from benchmark.detectors.pixels import key_for_detectron2
from benchmark.errors import MissingDependencyError
from benchmark.files import sha256_file, write_json
from benchmark.recipes.models import Run
from benchmark.statistics import ClassStatistics

LISTED = 60  # names in an error message; a file of another layout lacks hundreds

# Beginnings of our names, in all back ends; a number is that of a cascade's head
CLASSIFIER = re.compile(r"classifiers\.\d\.linear\.")
CALIBRATED = re.compile(r"classifiers\.\d\.calibrated\.")
REWEIGHTER = "classifiers.0.reweighter"


@dataclass
class Imported:
    """How the tensors of a file were used: names in the file, in its order."""

    layout: str
    used: int = 0
    changed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    conventions: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        lines = [f"{self.used} tensors in the layout of {self.layout} taken over"]
        lines += [f"  changed    {item}" for item in self.changed]
        # many batch norms have one each
        kinds = Counter(re.sub(r".*\.(num_batches_tracked)$", r"*.\1", name) for name in self.left_out)
        lines += [f"  left out   {name} ({count})" for name, count in kinds.items()]
        lines += [f"  kept       {name}: {value}" for name, value in self.conventions.items()]
        lines += [f"  note       {item}" for item in self.notes]
        return "\n".join(lines)


def import_checkpoint(
    run: Run, statistics_file: Path, file: Path, source: str, output: Path, heads: Sequence[Path] = ()
) -> Imported:
    """Write released weights as the finished checkpoint of the recipe's last stage.

    Args:
        run: fixes detector, method and dataset, hence the model.
        statistics_file: class statistics of the dataset's training split.
        file: weights saved by ``torch.save``: a state dict, or a dictionary with one.
        source: key of ``SOURCES``.
        output: the checkpoint; ``<name>.import.json`` beside it records its source.
        heads: SimCal's calibrated heads, which are separate files: one, or one for each box head in order.

    Raises:
        CheckpointError: the file is damaged, holds more than tensors and plain values, or its tensors are not
            those of the model; the message names all of them.
        BenchmarkError: there are no class statistics, or the back end is not installed.
    """
    statistics = ClassStatistics.read(statistics_file)
    statistics.check_number(run.dataset.categories, run.dataset_name, statistics_file, CheckpointError)
    released = read_released(file)
    if heads:
        released |= _read_heads(heads, source, run.detector.box_head_count)
    detector = build_detector(run, statistics, initial_weights=False)
    state, imported = convert(released, source, detector, where=file)
    detector.load_state_dict(state)
    vocabulary = statistics.as_vocabulary("").digest or ""
    save(output, finished(run, run.stages[-1].name, detector, vocabulary, imported.conventions))
    origin = {str(path): sha256_file(path) for path in (file, *heads)}
    write_json(output.with_suffix(".import.json"), {"files": origin, "source": source, **asdict(imported)})
    return imported


def _read_heads(heads: Sequence[Path], source: str, count: int) -> dict[str, Tensor]:
    """The tensors of SimCal's calibrated heads, by name; in a cascade the number of the head comes first."""
    if source != "simcal":
        raise CheckpointError(
            f"weights of {source} have no second file", found=f"--head {heads[0]}", remedy="--from simcal"
        )
    if len(heads) != count:
        raise CheckpointError(
            "the detector has another number of box heads",
            found=", ".join(map(str, heads)),
            expected=f"--head FILE {count} times, in the order of the box heads" if count > 1 else "one",
        )
    if count == 1:
        return read_released(heads[0])
    return {
        f"head{number}.{name}": value
        for number, head in enumerate(heads)
        for name, value in read_released(head).items()
    }


def read_released(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, read without running code in it.

    The file holds the state dict itself, or has it under ``state_dict`` (mmdetection) or ``model``
    (detectron2, torchvision). If all names begin with ``module.``, from data-parallel training, it is
    dropped. A ``.pkl`` is a file of detectron2's model zoo. Raises ``CheckpointError``.
    """
    if path.suffix == ".pkl":
        try:
            return read_zoo(path)
        except MissingDependencyError as error:
            raise CheckpointError(str(error)) from None
    content = read_tensors(
        path,
        lambda found: CheckpointError(
            "cannot read the weights",
            where=path,
            found=found,
            expected="a file saved by torch.save that holds tensors and plain values only",
            remedy="if its source is trusted, load it in the environment that it was made in and save its "
            "state dict alone: torch.save(dict(state_dict), 'weights.pth')",
        ),
    )
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        raise CheckpointError("no weights in the file", where=path, expected="tensors by name")
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            "not a dictionary of tensors", where=path, found=_listing(others), expected="tensors by name"
        )
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    return dict(content)


def convert(
    released: Mapping[str, Tensor], source: str, detector: Detector, where: object = None
) -> tuple[dict[str, Tensor], Imported]:
    """The state dict of ``detector`` from tensors in the names and orders of ``source``.

    Raises:
        CheckpointError: a tensor is missing, has another shape, is not finite or is not used; or the layout
            cannot be imported into the detector's back end.
    """
    own, naming = detector.state_dict(), naming_of(detector)
    layout = max(SOURCES[source], key=lambda item: fitting(item, detector, released))
    if naming not in layout.names:
        raise CheckpointError(
            f"weights in the layout of {layout.title} are not imported into back end '{detector.backend}'",
            where=where,
            expected="a recipe in a detector of back end "
            + " or ".join(name for name in layout.names if " " not in name),
        )
    names = {layout.current(name): name for name in released}
    imported = Imported(layout.title, conventions=_conventions(layout, released, detector.settings.backbone))
    imported.notes += _notes(layout, released, detector)
    problems: list[str] = []
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, target in own.items():
        if is_counter(name):
            state[name] = target
            continue
        theirs = layout.theirs(name, naming)
        if theirs is None or theirs not in names:
            problems.append(f"{theirs or name}: missing" + (f" ({name})" if theirs else " from this layout"))
            continue
        used.add(theirs)
        value, order = released[names[theirs]], _Order.of(name, own, layout, detector)
        if problem := order.problem(value, detector.num_classes):
            problems.append(f"{theirs}: {problem}")
            continue
        value = order.apply(value)
        if order.what:
            places = f"{names[theirs]} {order.shape} -> {name} {tuple(value.shape)}"
            imported.changed.append(f"{places}: {order.what}")
        state[name] = value.to(target.dtype)
    unused = [name for name in names if name not in used]
    problems += [f"{name}: no place in the model" for name in unused if not layout.is_harmless(name)]
    if problems:
        raise CheckpointError(
            f"the weights do not fit {detector.settings.architecture} with "
            f"{type(detector.classifiers[0]).__name__}, read as {layout.title}",
            where=where,
            found=_listing(problems),
            remedy=_advice(detector, released, layout),
        )
    imported.used = len(used)
    imported.left_out = [names[name] for name in unused]
    return state, imported


def _notes(layout: Layout, released: Mapping[str, Tensor], detector: Detector) -> list[str]:
    """What a reader of the import should know about the weights."""
    notes = []
    if layout is DETECTRON2 and "pixel_mean" not in released:
        notes.append("no pixel_mean in the file: read as the models that detectron2 has converted")
    if layout.coordinates == "mmdet_v1" and detector.settings.mask_pasting != "whole_pixels":
        notes.append(
            "mmdetection 1 pastes masks into whole pixels; the recipe does not (mask_pasting: "
            f"{detector.settings.mask_pasting}), so masks may differ by up to a pixel at their border"
        )
    return notes


@dataclass(frozen=True)
class _Order:
    """How the rows of one tensor are reordered: ``shape`` is the file's, ``what`` describes the change."""

    shape: tuple[int, ...]
    by_class: bool = False
    what: str = ""
    first: int = 0
    dropped: int = 0

    @classmethod
    def of(cls, name: str, own: Mapping[str, Tensor], layout: Layout, detector: Detector) -> "_Order":
        shape, settings = tuple(own[name].shape), detector.settings
        if name == REWEIGHTER:
            return cls((1, *shape), True, "one row as a vector")
        layer = name.rpartition(".")[0]
        head = calibrated[0] if (calibrated := CALIBRATED.match(name)) else None
        last = max((item for item in own if head and item.startswith(head)), default="")
        if CLASSIFIER.match(name) or last.startswith(f"{layer}."):
            # other widths are layouts of a method, which follow its release
            if layout.background_first and shape[0] == detector.num_classes + 1:
                return cls(shape, True, "background moved from first to last", first=1)
            return cls(shape, True)
        rows = 0
        if REGRESSOR.match(name) and not settings.class_agnostic_boxes:
            rows = 4
        elif MASK.match(name) and not settings.class_agnostic_masks:
            rows = 1
        if rows and layout.background_first:
            return cls((shape[0] + rows, *shape[1:]), True, "rows of background left out", dropped=rows)
        return cls(shape, bool(rows))

    def problem(self, value: Tensor, categories: int) -> str | None:
        """Why a tensor of the file cannot be used; None if it can."""
        if tuple(value.shape) != self.shape:
            classes = f" for {categories} categories" if self.by_class else ""
            return f"shape {tuple(value.shape)}, expected {self.shape}{classes}"
        return None if bool(value.isfinite().all()) else "values that are not finite"

    def apply(self, value: Tensor) -> Tensor:
        """The tensor in our order."""
        if len(self.shape) == 2 and self.shape[0] == 1:
            return value[0]
        return torch.cat([value[self.first :], value[: self.first]])[self.dropped :]


def _conventions(layout: Layout, released: Mapping[str, Tensor], backbone: str) -> dict[str, Any]:
    """The conventions of the weights. In detectron2 the input depends on the model; MSRA's ResNets also have
    another stride."""
    pixels = key_for_detectron2(released, backbone) if layout is DETECTRON2 else "torchvision"
    return {"coordinates": layout.coordinates, "stride_in_1x1": pixels == "caffe", "pixels": pixels}


def _advice(detector: Detector, released: Mapping[str, Tensor], layout: Layout) -> str:
    own = [name for name in detector.state_dict() if not is_counter(name)]
    lacking = {
        source: len(own) - max(fitting(item, detector, released) for item in layouts)
        for source, layouts in SOURCES.items()
    }
    least = min(lacking.values())
    better = [source for source, count in lacking.items() if count == least]
    if 2 * least < len(own) - fitting(layout, detector, released):
        return f"its names are those of another layout: --from {' or '.join(better)}"
    if any(".calibrated." in name for name in own) and not any("feat_" in name for name in released):
        more = ", once for each box head in order" if detector.settings.box_head_count > 1 else ""
        return f"SimCal's calibrated head is a file of its own: --head FILE{more}"
    return "check that the recipe's method, detector and dataset are those of the weights"


def _listing(items: list[str]) -> str:
    more = [f"and {len(items) - LISTED} more"] if len(items) > LISTED else []
    return ("\n" + " " * 12).join([*items[:LISTED], *more])
