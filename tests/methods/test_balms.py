"""BALMS equals the released code, and its closed-form meta gradient equals double backward."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.classifiers import Rois, VirtualSgd, one_hot
from benchmark.errors import BenchmarkError
from methods.balms.classifier import BalancedMeta, sample_weights
from methods.balms.meta import Reweighting, meta_gradient

CLOSE = tolerance("balms")
NAMES = ("linear.weight", "linear.bias")


def _tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _equal(actual: Tensor | None, expected: Any) -> None:
    assert actual is not None
    torch.testing.assert_close(actual.detach(), _tensor(expected), **CLOSE)


def _one_worker(value: Tensor) -> Tensor:
    return value


def _classifier(inputs: dict[str, Any], **options: Any) -> BalancedMeta:
    features = len(inputs["weight"][0]) if "weight" in inputs else 4
    classifier = BalancedMeta(features, statistics_of([5] * inputs["num_classes"]), **options)
    classifier.frequency.copy_(torch.tensor(inputs["class_frequency"]))
    classifier.double()
    classifier.reweighter.copy_(_tensor(inputs["learner_weight"]))
    if "weight" in inputs:
        classifier.linear.weight.data.copy_(_tensor(inputs["weight"]))
        classifier.linear.bias.data.copy_(_tensor(inputs["bias"]))
    return classifier


def _rois(batch: dict[str, Any]) -> Rois:
    return Rois(_tensor(batch["features"]), torch.tensor(batch["labels"]))


def _sgd(classifier: BalancedMeta, case: dict[str, Any]) -> torch.optim.SGD:
    settings_ = case["hyperparameters"]
    optimizer = torch.optim.SGD(
        classifier.linear.parameters(),
        momentum=settings_["sgd_momentum"],
        weight_decay=settings_["sgd_weight_decay"],
    )
    for parameter, key in zip(
        classifier.linear.parameters(), ("momentum_weight", "momentum_bias"), strict=True
    ):
        if case["inputs"][key] is not None:
            optimizer.state[parameter]["momentum_buffer"] = _tensor(case["inputs"][key])
    return optimizer


def _virtual(classifier: BalancedMeta, optimizer: torch.optim.SGD, rate: float) -> VirtualSgd:
    group = optimizer.param_groups[0]
    group["lr"] = rate
    buffers = {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in zip(NAMES, classifier.linear.parameters(), strict=True)
        if optimizer.state[parameter].get("momentum_buffer") is not None
    }
    return VirtualSgd(rate, group["momentum"], group["weight_decay"], buffers)


@pytest.mark.parametrize("case", golden_cases("balms", "learner_forward"))
def test_weights_equal_the_original(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    w = _tensor(inputs["learner_weight"]).requires_grad_()
    losses = _tensor(inputs["sample_losses"]).requires_grad_()
    weighted = sample_weights(w, torch.tensor(inputs["fg_labels"], dtype=torch.int64)) * losses
    _equal(weighted, expected["weighted_losses"])
    (weighted * _tensor(inputs["upstream_grad"])).sum().backward()
    _equal(losses.grad, expected["grad_sample_losses"])
    _equal(w.grad, expected["grad_learner_weight"])


@pytest.mark.parametrize("case", golden_cases("balms", "balms_losses"))
def test_losses_and_gradients_equal_the_original(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    labels = torch.tensor(inputs["labels"])
    classifier = _classifier(inputs)
    w = classifier.reweighter.requires_grad_()
    _equal(sample_weights(w, labels), expected["sample_weights"])
    logits = _tensor(inputs["logits"]).requires_grad_()
    loss = classifier.loss(logits, labels)["loss_cls"]
    loss.backward()
    _equal(loss, expected["loss_cls"])
    _equal(logits.grad, expected["grad_logits_of_loss_cls"])
    _equal(w.grad, expected["grad_learner_weight_of_loss_cls"])


@pytest.mark.parametrize("reading", ["as_released", "unadjusted"])
@pytest.mark.parametrize("case", golden_cases("balms", "balms_losses"))
def test_both_readings_of_the_meta_loss_equal_the_original(case: dict[str, Any], reading: str) -> None:
    """With features = logits, identity weights and rate 0, the meta step sees exactly these logits."""
    inputs, expected = case["inputs"], case["expected"]
    c = inputs["num_classes"]
    layer = {"weight": torch.eye(c).tolist(), "bias": [0.0] * c}
    classifier = _classifier(inputs | layer, meta_loss=reading)
    batch = Rois(_tensor(inputs["logits"]), torch.tensor(inputs["labels"]))
    result = meta_gradient(classifier, batch, batch, VirtualSgd(0.0, 0.0, 0.0))
    _equal(result.meta_loss, expected[f"meta_loss_{reading}"])
    assert not result.gradient.any()


@pytest.mark.parametrize("case", golden_cases("balms", "meta_train_iterations"))
def test_iterations_equal_the_original(case: dict[str, Any]) -> None:
    """Virtual step, learner with Adam, real step: the whole trajectory of the released trainer."""
    inputs, expected = case["inputs"], case["expected"]
    classifier = _classifier(inputs, meta_loss=case["hyperparameters"]["meta_loss"])
    layer = classifier.linear
    optimizer, learner = _sgd(classifier, case), Reweighting(classifier)
    batches = zip(inputs["train_batches"], inputs["meta_batches"], expected["iterations"], strict=True)
    for train, meta, after in batches:
        rois, meta_rois = _rois(train), _rois(meta)
        virtual = _virtual(classifier, optimizer, after["sgd_lr"])
        _equal(classifier.loss(classifier(rois.features), rois.labels)["loss_cls"], after["inner_loss"])
        result = meta_gradient(classifier, rois, meta_rois, virtual)
        _equal(result.weight, after["virtual_weight"])
        _equal(result.bias, after["virtual_bias"])
        _equal(result.gradient, after["meta_grad_learner_weight"])
        _equal(learner.step([rois], [meta_rois], virtual, _one_worker)["meta_loss"], after["meta_loss"])
        _equal(classifier.reweighter, after["learner_weight_after"])
        adam = learner.state_dict()["state"][0]
        _equal(adam["exp_avg"], after["adam_exp_avg"])
        _equal(adam["exp_avg_sq"], after["adam_exp_avg_sq"])

        optimizer.zero_grad()
        loss = classifier.loss(classifier(rois.features), rois.labels)["loss_cls"]
        _equal(loss, after["main_loss"])
        loss.backward()
        optimizer.step()
        _equal(layer.weight, after["weight_after"])
        _equal(layer.bias, after["bias_after"])
        for parameter, key in ((layer.weight, "momentum_weight_after"), (layer.bias, "momentum_bias_after")):
            if case["hyperparameters"]["sgd_momentum"]:
                _equal(optimizer.state[parameter]["momentum_buffer"], after[key])


@pytest.mark.parametrize("case", golden_cases("balms", "meta_train_two_workers"))
def test_two_workers_equal_the_original(case: dict[str, Any]) -> None:
    """Virtual steps are per worker; the gradients of learner and classifier are averaged."""
    inputs, expected = case["inputs"], case["expected"]
    classifier = _classifier(inputs, meta_loss=case["hyperparameters"]["meta_loss"])
    optimizer, learner = _sgd(classifier, case), Reweighting(classifier)
    virtual = _virtual(classifier, optimizer, case["hyperparameters"]["sgd_lr"])
    batches = [
        (_rois(train), _rois(meta))
        for train, meta in zip(inputs["train_batches"], inputs["meta_batches"], strict=True)
    ]
    gradients = [meta_gradient(classifier, *pair, virtual).gradient for pair in batches]
    _equal(torch.stack(gradients), expected["meta_grad_per_worker"])
    mean = torch.stack(gradients).mean(dim=0)
    _equal(mean, expected["meta_grad_averaged"])
    learner.step(*map(list, zip(*batches, strict=True)), virtual, _one_worker)
    _equal(classifier.reweighter, expected["learner_weight_after"])
    losses = [classifier.loss(classifier(train.features), train.labels)["loss_cls"] for train, _ in batches]
    _equal(torch.stack(losses), expected["main_loss_per_worker"])
    torch.stack(losses).mean().backward()
    _equal(classifier.linear.weight.grad, expected["main_grad_weight_averaged"])
    _equal(classifier.linear.bias.grad, expected["main_grad_bias_averaged"])
    optimizer.step()
    _equal(classifier.linear.weight, expected["weight_after"])
    _equal(classifier.linear.bias, expected["bias_after"])


def _random_problem(
    seed: int, labels: list[int], meta_labels: list[int], **options: Any
) -> tuple[BalancedMeta, Rois, Rois, VirtualSgd]:
    """Five categories, three features, SGD with momentum and decay in the middle of a training."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    classifier = BalancedMeta(3, statistics_of([0, 1, 9, 60, 200]), **options).double()
    classifier.linear.weight.data.copy_(draw(5, 3))
    classifier.linear.bias.data.copy_(draw(5) - 2)
    classifier.reweighter.copy_(draw(5))
    train, meta = (Rois(draw(len(y), 3), torch.tensor(y, dtype=torch.int64)) for y in (labels, meta_labels))
    buffers = {"linear.weight": draw(5, 3), "linear.bias": draw(5)} if seed % 2 else {}
    return classifier, train, meta, VirtualSgd(0.05, 0.9, 1e-2, buffers)


def _reference(classifier: BalancedMeta, trains: list[Rois], metas: list[Rois], sgd: VirtualSgd) -> Tensor:
    """Double backward through one SGD step on the mean loss of ``trains``, by hand but for the gradients."""
    w = classifier.reweighter.clone().requires_grad_()
    theta = [parameter.detach().clone().requires_grad_() for parameter in classifier.linear.parameters()]

    def loss(rois: Rois, layer: list[Tensor], *, adjust: bool, weigh: bool) -> Tensor:
        z = F.linear(rois.features, *layer)
        z = classifier.adjusted(z, rois.labels) if adjust else z
        t = one_hot(rois.labels, 5, z.dtype)
        losses = F.binary_cross_entropy_with_logits(z, t, reduction="none").sum(dim=1)
        if weigh and (rois.labels < 5).any():
            s = w.sigmoid()[rois.labels[rois.labels < 5]]
            losses = losses.index_put(
                ((rois.labels < 5).nonzero()[:, 0],), losses[rois.labels < 5] * len(s) * s / s.sum()
            )
        return losses.sum() / len(rois.labels)

    inner = torch.stack([loss(rois, theta, adjust=True, weigh=True) for rois in trains]).mean()
    gradients = torch.autograd.grad(inner, theta, create_graph=True)
    new = []
    for name, parameter, gradient in zip(NAMES, theta, gradients, strict=True):
        d = gradient + sgd.weight_decay * parameter
        d = d + sgd.momentum * sgd.buffers[name] if name in sgd.buffers else d
        new.append(parameter - sgd.learning_rate * d)
    adjust = classifier.meta_loss == "as_released"
    outer = torch.stack([loss(rois, new, adjust=adjust, weigh=False) for rois in metas]).mean()
    (gradient,) = torch.autograd.grad(outer, w, allow_unused=True)
    return torch.zeros_like(w) if gradient is None else gradient


LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@given(
    seed=st.integers(0, 2**31),
    labels=LABELS,
    meta_labels=LABELS,
    reading=st.sampled_from(["as_released", "unadjusted"]),
)
@settings(max_examples=80)
def test_closed_form_equals_double_backward(
    seed: int, labels: list[int], meta_labels: list[int], reading: str
) -> None:
    classifier, train, meta, sgd = _random_problem(seed, labels, meta_labels, meta_loss=reading)
    gradient = meta_gradient(classifier, train, meta, sgd).gradient
    torch.testing.assert_close(gradient, _reference(classifier, [train], [meta], sgd), rtol=1e-8, atol=1e-14)

    present = set(labels) - {5}
    absent = [c for c in range(5) if c not in present]
    assert not gradient[absent].any()  # exactly
    if len(present) < 2:
        assert gradient.abs().max() < 1e-15
    # a common factor of all weights has no effect: the gradient has no component along d s = s
    s = classifier.reweighter.sigmoid()
    assert abs(float((gradient / (1 - s)).sum())) < 1e-12


@given(seed=st.integers(0, 2**31), labels=st.lists(LABELS, min_size=4, max_size=4))
@settings(max_examples=15)
def test_the_step_is_down_the_mean_gradient_of_the_workers(seed: int, labels: list[list[int]]) -> None:
    """Each worker has its own virtual step; the mean over the processes is taken afterwards."""
    classifier, train, meta, sgd = _random_problem(seed, *labels[:2])
    _, other_train, other_meta, _ = _random_problem(seed + 1, *labels[2:])
    trains, metas = [train, other_train], [meta, other_meta]
    expected = torch.stack(
        [_reference(classifier, [one], [two], sgd) for one, two in zip(trains, metas, strict=True)]
    ).mean(dim=0)
    learner, averaged = Reweighting(classifier), []

    def average(value: Tensor) -> Tensor:
        averaged.append(value)
        return value / 2

    learner.step(trains, metas, sgd, average)
    torch.testing.assert_close(averaged[0], expected, rtol=1e-8, atol=1e-14)
    assert classifier.reweighter.grad is not None
    assert classifier.reweighter.grad.equal(averaged[0] / 2)


@pytest.mark.parametrize("labels", [[], [2], [0], [0, 0], [0, 1, 2], [2, 2]])
@pytest.mark.parametrize("w", [0.0, 200.0, -200.0])
def test_edge_cases_are_finite(labels: list[int], w: float) -> None:
    """No proposals, no foreground, one category, a category without images, saturated weights; in float32."""
    classifier = BalancedMeta(4, statistics_of([0, 7]))
    classifier.reweighter.fill_(w)
    batch = Rois(torch.randn(len(labels), 4), torch.tensor(labels, dtype=torch.int64))
    Reweighting(classifier).step([batch], [batch], VirtualSgd(0.02, 0.9, 1e-4), _one_worker)
    assert classifier.reweighter.isfinite().all()
    loss = classifier.loss(classifier(batch.features), batch.labels)["loss_cls"]
    loss.backward()
    assert loss.isfinite()
    assert classifier.linear.weight.grad is not None
    assert classifier.linear.weight.grad.isfinite().all()


def test_the_state_of_the_learner_continues() -> None:
    """Adam's state and the buffer, restored into new objects, take the same next step."""
    classifier, train, meta, sgd = _random_problem(1, [0, 1, 3, 5], [2, 3, 4, 5])
    learner = Reweighting(classifier)
    learner.step([train], [meta], sgd, _one_worker)
    other = _random_problem(2, [0], [0])[0]
    other.load_state_dict(classifier.state_dict())
    restored = Reweighting(other)
    restored.load_state_dict(copy.deepcopy(learner.state_dict()))
    for one, of in ((learner, classifier), (restored, other)):
        assert one.classifier is of
        one.step([train], [meta], sgd, _one_worker)
    assert other.reweighter.equal(classifier.reweighter)
    assert {name for name, _ in classifier.named_parameters()} == set(NAMES)


def test_an_unknown_reading_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="unknown meta_loss"):
        BalancedMeta(4, statistics_of([3, 5]), meta_loss="raw")  # type: ignore[arg-type]
