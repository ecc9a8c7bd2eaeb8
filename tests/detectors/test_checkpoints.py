"""A damaged checkpoint is refused, however little of it is damaged."""

from pathlib import Path

import pytest
import torch

from benchmark.detectors.checkpoints import CheckpointError, load, save


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
