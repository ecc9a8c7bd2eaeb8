"""The frozen batch norm is torchvision's, but keeps the type of its input."""

import torch
from torchvision.ops import FrozenBatchNorm2d

from benchmark.detectors.modules import FrozenBatchNorm


def filled(norm: FrozenBatchNorm2d) -> FrozenBatchNorm2d:
    torch.manual_seed(0)
    for buffer in norm.buffers():
        buffer.uniform_(0.5, 1.5)
    return norm


def test_values_and_gradients_are_those_of_torchvision() -> None:
    """Also after its buffers were changed in place, loaded or moved."""
    ours, theirs = filled(FrozenBatchNorm(3)), filled(FrozenBatchNorm2d(3))
    for change in (
        lambda norm: None,
        lambda norm: norm.running_var.mul_(2),
        lambda norm: norm.load_state_dict({name: value + 1 for name, value in norm.state_dict().items()}),
        lambda norm: norm.double(),
    ):
        change(ours)
        change(theirs)
        x = torch.randn(2, 3, 4, 5, dtype=ours.weight.dtype)
        found = []
        for norm in (ours, theirs):
            own = x.clone().requires_grad_()
            norm(own).square().sum().backward()
            found.append((norm(own).detach(), own.grad))
        assert all(one.equal(two) for one, two in zip(*found, strict=True))


def test_bfloat16_stays_bfloat16() -> None:
    """torchvision's gives float32, which all layers after it would convert again."""
    norm = filled(FrozenBatchNorm(3))
    x = torch.randn(2, 3, 4, 5)
    half = norm(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), norm(x), rtol=0.03, atol=0.03)
