"""Learning rates equal those of the released schedulers; the batch size scales rate and length."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from torch import nn

from benchmark.recipes.models import Schedule
from benchmark.training.optimisation import build_optimizer, plan


@pytest.mark.parametrize("case", golden_cases("balms", "lr_schedule"))
def test_rates_equal_detectron2(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    schedule = Schedule(
        iterations=90000,
        steps=inputs["milestones"],
        learning_rate=inputs["base_lr"],
        gamma=inputs["gamma"],
        warmup_iterations=inputs["warmup_iters"],
        warmup_factor=inputs["warmup_factor"],
    )
    rates = [plan(schedule, num_images=1).learning_rate(i) for i in inputs["iterations"]]
    torch.testing.assert_close(rates, case["expected"]["learning_rates"], **tolerance("balms"))


@pytest.mark.parametrize("case", golden_cases("bags", "lr_schedule"))
def test_rates_equal_mmdetection(case: dict[str, Any]) -> None:
    settings = case["hyperparameters"]
    schedule = Schedule(
        epochs=12,
        steps=settings["decay_epochs"],
        learning_rate=settings["base_lr"],
        gamma=settings["gamma"],
        warmup_iterations=settings["warmup_iters"],
        warmup_factor=settings["warmup_ratio"],
        reference_batch_size=16,
    )
    lengths = plan(schedule, num_images=16 * settings["iters_per_epoch"])
    rates = [lengths.learning_rate(i) for i in case["inputs"]["iterations_zero_based"]]
    torch.testing.assert_close(rates, case["expected"]["lr"], **tolerance("bags"))


def test_half_the_batch_halves_the_rate_and_sees_as_many_images() -> None:
    reference = Schedule(iterations=1000, steps=[600], warmup_iterations=100, learning_rate=0.02)
    whole = plan(reference, num_images=500)
    half = plan(reference.model_copy(update={"batch_size": 8}), num_images=500)
    assert (half.base_rate, half.iterations, half.milestones, half.warmup_iterations) == (
        0.01,
        2000,
        (1200,),
        200,
    )
    assert half.iterations * half.batch_size == whole.iterations * whole.batch_size
    assert (whole.scale, half.scale) == (1, 0.5)


def test_cosine_falls_from_the_base_rate_towards_zero() -> None:
    lengths = plan(Schedule(iterations=100, learning_rate=1.0, decay="cosine"), num_images=1)
    rates = [lengths.learning_rate(i) for i in range(100)]
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.001


def test_frozen_parameters_are_left_out_and_norms_have_their_own_decay() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    schedule = Schedule(iterations=1, learning_rate=0.1, weight_decay=0.01, norm_weight_decay=0.0)
    groups = build_optimizer(module, schedule).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(2, 0.01), (2, 0.0)]
