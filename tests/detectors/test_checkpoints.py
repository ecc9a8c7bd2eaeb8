"""A damaged checkpoint is refused, however small the damage."""

from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import statistics_of

from benchmark.detectors.build import build_detector
from benchmark.detectors.checkpoints import (
    CheckpointError,
    finished,
    is_classifier,
    load,
    load_weights,
    save,
    with_conventions,
)
from benchmark.detectors.layouts import is_by_class
from benchmark.recipes import find_run


def test_a_flipped_bit_in_a_tensor_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    weights = torch.arange(1000.0)
    save(path, {"model": {"weight": weights}})
    assert load(path)["model"]["weight"].equal(weights)
    content = bytearray(path.read_bytes())
    place = content.index(weights[500:510].numpy().tobytes())
    content[place + 1] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum"):
        load(path)


@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "checkpoint.pt"
    save(path, {"model": {"weight": torch.arange(1000.0)}})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="cannot read"):
        load(path)


def test_forms_of_batch_norm_take_each_others_weights(tmp_path: Path) -> None:
    """Frozen batch norm has no counter of batches; a method may start from a base that trained its own."""
    runs = [with_conventions(find_run("smoke:softmax"), {"norm": n}) for n in ("frozen_statistics", "frozen")]
    models = [build_detector(run, statistics_of([5] * 40), initial_weights=False) for run in runs]
    with torch.no_grad():
        for model in models:
            for parameter in model.parameters():
                parameter.normal_()
    for source, target in ((0, 1), (1, 0)):
        save(tmp_path / "checkpoint.pt", finished(runs[source], "train", models[source], "same"))
        load_weights(models[target], tmp_path / "checkpoint.pt", runs[target], "same")
        theirs = models[source].state_dict()
        own = {name: value for name, value in models[target].state_dict().items() if name in theirs}
        assert own
        assert all(value.equal(theirs[name]) for name, value in own.items())


def test_weights_of_other_categories_fill_all_but_the_last_layers(tmp_path: Path) -> None:
    run = find_run("smoke:softmax")
    theirs, own = (
        build_detector(run, statistics_of([5] * count), initial_weights=False) for count in (120, 40)
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    before = own.classifiers.state_dict()["0.linear.weight"].clone()
    save(tmp_path / "checkpoint.pt", finished(run, "train", theirs, "others"))
    path, by_class = tmp_path / "checkpoint.pt", partial(is_by_class, settings=run.detector)
    with pytest.raises(CheckpointError, match="categor"):
        load_weights(own, path, run, "ours", fresh=by_class)
    load_weights(own, path, run, None, fresh=by_class)
    given = theirs.state_dict()
    kept = {name for name, value in own.state_dict().items() if not value.equal(given[name])}
    assert kept == {name for name in given if is_classifier(name)}
    assert own.classifiers.state_dict()["0.linear.weight"].equal(before)
