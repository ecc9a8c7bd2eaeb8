"""Finished checkpoints: written atomically, read without running code, checked before use."""

import hashlib
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.annotations import Vocabulary, check_same_vocabulary
from benchmark.errors import BenchmarkError
from benchmark.files import atomic_path
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.loading import parse
from benchmark.recipes.models import Run

CONVENTIONS = ("coordinates", "stride_in_1x1", "pixels")
"""Detector settings that depend on the weights: those of imported weights override the recipe's."""


def is_counter(name: str) -> bool:
    """Whether a tensor counts batches; only a moving average without momentum needs it, frozen batch norms
    have none."""
    return name.endswith(".num_batches_tracked")


def is_classifier(name: str) -> bool:
    """Whether a tensor belongs to the detector's classifiers."""
    return name.startswith("classifiers.")


class CheckpointError(BenchmarkError):
    """A checkpoint is damaged, or belongs to another model or dataset."""


def save(path: Path, content: dict[str, Any]) -> str:
    """Write tensors and plain values atomically; returns the SHA-256 of the bytes in hexadecimal digits.

    Equal content gives equal bytes.

    Serialises in memory first, because PyTorch's error for a full disk does not state the cause.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def _why_unreadable(error: Exception) -> str:
    """Why ``torch.load`` refuses a file, without PyTorch's advice to run the code in it."""
    if isinstance(error, pickle.UnpicklingError):
        return "something other than tensors and plain values"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_tensors(path: Path, refusal: Callable[[str], BenchmarkError]) -> Any:
    """The content of a file of ``torch.save``, without unpickling anything but tensors and plain values.

    Raises what ``refusal`` makes of the reason where there is something else in it.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise refusal(_why_unreadable(error)) from None


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint without unpickling anything but tensors and plain values.

    Verifies the checksums of its parts first, because PyTorch silently reads tensors with flipped bits.

    Raises:
        CheckpointError: missing, damaged or not a checkpoint of this project.
    """

    def refusal(found: str) -> CheckpointError:
        return CheckpointError(
            "cannot read the checkpoint",
            where=path,
            found=found,
            expected="a checkpoint written by `longtail train`",
            remedy="delete the file and run the stage again",
        )

    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        raise refusal(_why_unreadable(error)) from None
    if damaged is not None:
        raise refusal(f"{damaged} does not have its checksum")
    content = read_tensors(path, refusal)
    if not isinstance(content, dict) or "model" not in content:
        raise CheckpointError(
            "not a checkpoint of this project", where=path, expected="a dictionary with key 'model'"
        )
    return content


def conventions_of(path: Path | None) -> dict[str, Any]:
    """The ``CONVENTIONS`` of the weights in a checkpoint if they differ from the recipe's; else empty."""
    found = load(path).get("conventions") if path is not None else None
    return {name: found[name] for name in CONVENTIONS if name in found} if isinstance(found, dict) else {}


def with_conventions(run: Run, conventions: dict[str, Any]) -> Run:
    """The recipe with these detector settings; its names do not change."""
    settings = run.detector.model_dump() | conventions
    detector = parse(DetectorSettings, settings, f"conventions of the checkpoint for recipe {run.row}")
    return run.model_copy(update={"detector": detector})


def finished(
    run: Run,
    stage: str,
    detector: nn.Module,
    vocabulary: str,
    conventions: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Content of a finished checkpoint: the weights and a description of the model."""
    state = detector.state_dict()
    for name in state:
        state[name] = state[name].cpu()
    return {
        "model": state,
        "method": run.method,
        "variant": run.variant,
        "detector": run.detector_name,
        "dataset": run.dataset_name,
        "stage": stage,
        "vocabulary": vocabulary,
        "conventions": conventions or {},
    }


def load_weights(
    detector: nn.Module,
    path: Path,
    run: Run,
    vocabulary: str | None,
    *,
    fresh: Callable[[str], bool] | None = None,
) -> None:
    """Copy a finished checkpoint into a detector.

    Args:
        detector: takes the weights.
        path: the checkpoint.
        run: the recipe that wants them.
        vocabulary: hash of the categories of the recipe's dataset; None for weights of other categories.
        fresh: whether a tensor, by its name, stays as initialised; default: none does.

    Raises:
        CheckpointError: other categories, or tensors that are missing or have another shape.
    """
    content = load(path)
    trained_on = content.get("vocabulary")
    if vocabulary is not None:
        check_same_vocabulary(
            Vocabulary(
                f"checkpoint {path} (dataset {content.get('dataset')})",
                trained_on if isinstance(trained_on, str) else None,
            ),
            Vocabulary(f"dataset {run.dataset_name}", vocabulary),
            CheckpointError,
            remedy="use a checkpoint of the same LVIS version",
        )
    state: dict[str, Tensor] = content["model"]
    own = detector.state_dict()
    kept = {name for name in state.keys() | own.keys() if fresh is not None and fresh(name)}
    state = {name: value for name, value in state.items() if name not in kept}
    state = {name: value for name, value in state.items() if name in own or not is_counter(name)}
    # a classifier may add parameters to those of the one it continues from (a re-weighter, say)
    needed = {name for name in own if not (name in kept or is_classifier(name) or is_counter(name))}
    wrong = sorted(
        [f"{name}: missing" for name in needed - state.keys()]
        + [f"{name}: not in the model" for name in state.keys() - own.keys()]
        + [
            f"{name}: shape {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
            for name in state.keys() & own.keys()
            if state[name].shape != own[name].shape
        ]
    )
    if wrong:
        raise CheckpointError(
            f"the checkpoint does not fit {run.detector_name} with method {run.method}",
            where=path,
            found="; ".join(wrong[:8]) + (f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""),
            remedy="train the stage before this one with the same detector",
        )
    detector.load_state_dict(state, strict=False)
