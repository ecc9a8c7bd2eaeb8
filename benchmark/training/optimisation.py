"""Optimiser, learning rate and lengths of a schedule."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from benchmark.recipes.models import Schedule

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Plan:
    """A schedule with lengths in iterations, and the learning rate for the actual batch size."""

    iterations: int
    batch_size: int
    base_rate: float
    scale: float
    warmup_iterations: int
    milestones: tuple[int, ...]
    schedule: Schedule

    def learning_rate(self, iteration: int) -> float:
        """Rate of a 0-based iteration: base * warm-up * decay.

        Warm-up is linear from ``warmup_factor``; a step decay multiplies by ``gamma`` from each milestone on;
        a cosine decay falls from 1 at the first iteration to 0 after the last.
        """
        rate = self.base_rate
        if iteration < self.warmup_iterations:
            progress = iteration / self.warmup_iterations
            rate *= self.schedule.warmup_factor * (1 - progress) + progress
        if self.schedule.decay == "cosine":
            return rate * (1 + math.cos(math.pi * iteration / self.iterations)) / 2
        return rate * self.schedule.gamma ** sum(milestone <= iteration for milestone in self.milestones)


def plan(schedule: Schedule, num_images: int) -> Plan:
    """Convert epochs to iterations and scale the schedule to the batch size.

    With k times the reference batch size, the learning rate is multiplied by k and iteration counts (also of
    the warm-up) are divided by k, so the number of images stays the same (linear scaling rule, Goyal et al.
    2017).

    Args:
        schedule: the schedule, with lengths in iterations at the reference batch size or in epochs.
        num_images: number of images in an epoch.
    """
    batch_size = schedule.images_per_step
    scale = batch_size / schedule.reference_batch_size
    if schedule.epochs is not None:
        per_unit = math.ceil(num_images / batch_size)
        iterations = math.ceil(schedule.epochs * per_unit)
        milestones = tuple(round(step * per_unit) for step in schedule.steps)
    else:
        iterations = math.ceil((schedule.iterations or 0) / scale)
        milestones = tuple(round(step / scale) for step in schedule.steps)
    return Plan(
        iterations=iterations,
        batch_size=batch_size,
        base_rate=schedule.learning_rate * scale,
        scale=scale,
        warmup_iterations=round(schedule.warmup_iterations / scale),
        milestones=milestones,
        schedule=schedule,
    )


def build_optimizer(module: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """The optimiser of all parameters that require gradients; normalisation layers have their own weight
    decay."""
    norms = {
        id(parameter)
        for layer in module.modules()
        if isinstance(layer, _NORMS)
        for parameter in layer.parameters(recurse=False)
    }
    trained: Iterable[nn.Parameter] = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in norms], "weight_decay": schedule.weight_decay},
        {"params": [p for p in trained if id(p) in norms], "weight_decay": schedule.norm_weight_decay},
    ]
    groups = [group for group in groups if group["params"]]
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=schedule.learning_rate, fused=True)
    return torch.optim.SGD(groups, lr=schedule.learning_rate, momentum=schedule.momentum, fused=True)
