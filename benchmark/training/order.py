"""Which training images a stage sees, and in which order."""

import numpy as np

from benchmark.images import TrainImages
from benchmark.recipes.models import Sampler
from benchmark.sampling import AlikeStream, CategoryFirstStream, DrawnStream, ImageStream
from benchmark.statistics import (
    category_draw_probabilities,
    category_repeat_factors,
    ceiling_repeat_factors,
    class_balanced_factors,
    copies_added_to_original,
    image_repeat_factors,
)


def repeat_factors(sampler: Sampler, data: TrainImages) -> np.ndarray:
    """How often each training image comes in relation to others, (I,) float32, at least 1."""
    if sampler.kind == "uniform":
        return np.ones(len(data), np.float32)
    labels = [data.labels(index) for index in range(len(data))]
    counts = np.zeros(len(data.label_of), np.int64)
    for present in labels:
        counts[list(set(present))] += 1
    if sampler.kind == "class_balanced":
        return image_repeat_factors(labels, class_balanced_factors(counts, len(data)))
    if sampler.kind == "repeat_factor_ceiling":
        return ceiling_repeat_factors(labels, counts, len(data), sampler.threshold)
    factors = image_repeat_factors(labels, category_repeat_factors(counts, len(data), sampler.threshold))
    return copies_added_to_original(factors) if sampler.kind == "repeat_factor_plus_one" else factors


def image_stream(sampler: Sampler, data: TrainImages, seed: int) -> ImageStream:
    """The endless stream of image indices that a sampler stands for."""
    if sampler.kind == "category_first":
        labels = [data.labels(index) for index in range(len(data))]
        instances = np.bincount(np.concatenate(labels), minlength=len(data.label_of))
        return CategoryFirstStream(labels, category_draw_probabilities(instances, sampler.exponent), seed)
    kind = DrawnStream if sampler.kind == "class_balanced" else ImageStream
    return kind(repeat_factors(sampler, data), seed)


def grouped(stream: ImageStream, data: TrainImages, images_per_worker: int) -> ImageStream:
    """The stream with a worker's images all wide or all not, where the settings ask for it.

    Images that are drawn for a category stay in their order: the draw belongs to the position.
    """
    if isinstance(stream, CategoryFirstStream) or not data.settings.aspect_grouping:
        return stream
    height, width = np.asarray(data.images.sizes).T
    return AlikeStream(stream, width > height, images_per_worker)
