"""Scaled logits, their training and the class-aware images equal the release of EQL v2."""

from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from hypothesis import given, settings
from hypothesis import strategies as st
from later_cases import labels_of, matrix

from benchmark.classifiers import CategoricalClassifier
from benchmark.sampling import LabelledImages
from methods.crt_lws.classifier import LearnableWeightScaling
from methods.crt_lws.sampler import ClassAwareStream, class_aware_draws

CLOSE = tolerance("crt_lws")


def _classifier(inputs: dict[str, Any]) -> LearnableWeightScaling:
    weight = matrix(inputs["weight"])
    classifier = LearnableWeightScaling(weight.shape[1], statistics_of([5] * (len(weight) - 1))).double()
    classifier.linear.load_state_dict({"weight": weight, "bias": matrix(inputs["bias"])})
    return classifier


@pytest.mark.parametrize("case", golden_cases("crt_lws", "lws_forward"))
def test_logits_scores_and_gradients_equal_the_original(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    classifier = _classifier(inputs)
    classifier.linear.requires_grad_(True)
    classifier.scale.data.copy_(matrix(inputs["scale"]))
    features = matrix(inputs["features"]).requires_grad_()
    logits = classifier(features)
    logits.backward(matrix(inputs["upstream_grad"]))
    for found, key in (
        (logits, "logits"),
        (classifier.scores(logits), "scores"),
        (classifier.scale.grad, "grad_scale"),
        (classifier.linear.weight.grad, "grad_weight"),
        (classifier.linear.bias.grad, "grad_bias"),
        (features.grad, "grad_features"),
    ):
        assert found is not None
        torch.testing.assert_close(found.detach(), matrix(expected[key]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("crt_lws", "lws_training"))
def test_training_of_the_scales_equals_the_original(case: dict[str, Any]) -> None:
    classifier, rates = _classifier(case["inputs"]), case["hyperparameters"]
    before = {name: value.clone() for name, value in classifier.linear.state_dict().items()}
    optimizer = torch.optim.SGD(
        [parameter for parameter in classifier.parameters() if parameter.requires_grad],
        lr=rates["learning_rate"],
        momentum=rates["momentum"],
        weight_decay=rates["weight_decay"],
    )
    for batch, after in zip(case["inputs"]["iterations"], case["expected"]["iterations"], strict=True):
        loss = classifier.loss(classifier(matrix(batch["features"])), labels_of(batch))["loss_cls"]
        torch.testing.assert_close(loss.item(), after["loss"], **CLOSE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(classifier.scale.data, matrix(after["scale"]), **CLOSE)
    assert all(value.equal(before[name]) for name, value in classifier.linear.state_dict().items())


@pytest.mark.parametrize("case", golden_cases("crt_lws", "class_aware_images"))
def test_class_aware_images_equal_the_original(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    of = [
        np.array([index for index, labels in enumerate(inputs["labels_of_images"]) if label in labels])
        for label in range(inputs["num_classes"])
    ]
    orders, image_orders = inputs["category_permutations"], inputs["image_permutations"]
    count = case["hyperparameters"]["images"]
    # the lists hold what was drawn: a category whose turn did not come has none
    found = class_aware_draws(
        of, orders.__getitem__, lambda label, round_: image_orders[label][round_], 0, count
    )
    assert [values.tolist() for values in found] == [expected["categories"], expected["indices"]]


@pytest.mark.parametrize("case", golden_cases("crt_lws", "classifier_init"))
def test_the_retrained_classifier_starts_as_the_original(case: dict[str, Any]) -> None:
    classifier = CategoricalClassifier(4096, statistics_of([5] * case["inputs"]["num_classes"]))
    assert classifier.linear.out_features == case["expected"]["outputs"]
    assert classifier.linear.bias.unique().tolist() == [case["expected"]["bias"]]
    std = classifier.linear.weight.std().item()
    assert std == pytest.approx(case["hyperparameters"]["weight_std"], rel=0.05)


def test_scales_of_one_change_nothing_and_reach_the_weights() -> None:
    classifier, x = LearnableWeightScaling(3, statistics_of([5, 9])), torch.randn(4, 3)
    torch.testing.assert_close(classifier(x), classifier.linear(x))
    classifier.scale.data.copy_(torch.tensor([2.0, -1.0, 0.5]))
    logits = x @ classifier.category_weights().T + classifier.linear.bias[:-1]
    torch.testing.assert_close(classifier(x)[:, :-1], logits)


@given(seed=st.integers(0, 100), start=st.integers(0, 60))
@settings(max_examples=30)
def test_all_categories_come_equally_often(seed: int, start: int) -> None:
    """Category 3 is in no image; the others occur once in every four draws, from any position on."""
    images = LabelledImages([[0], [0, 1, 1], [2, 0], [4, 2], [0]], 5)
    stream = ClassAwareStream(images, seed)
    epochs = 8
    drawn = [(stream.label(position), stream[position]) for position in range(5 * epochs)]
    assert all(label in images.labels[image] for label, image in drawn)
    counts = np.bincount([label for label, _ in drawn], minlength=5)
    assert counts.tolist() == [10, 10, 10, 0, 10]
    of_two = np.bincount([image for label, image in drawn if label == 2])
    assert of_two[of_two > 0].tolist() == [5, 5]
    later = ClassAwareStream(images, seed)
    assert [(later.label(p), later[p]) for p in range(start, start + 3)] == [
        (stream.label(p), stream[p]) for p in range(start, start + 3)
    ]
