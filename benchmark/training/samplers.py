"""Make the stream of training images for the sampler of a recipe."""

import numpy as np
from numpy.typing import NDArray

from benchmark.images import TrainImages
from benchmark.recipes import load_object
from benchmark.recipes.models import Sampler
from benchmark.sampling import AlikeStream, CategoryStream, ImageStream, LabelledImages
from benchmark.statistics import (
    category_repeat_factors,
    ceiling_repeat_factors,
    copies_added_to_original,
    image_repeat_factors,
)
from benchmark.training.errors import TrainingError


def image_stream(sampler: Sampler, data: TrainImages, seed: int, plugin_path: str) -> ImageStream:
    """The endless stream of image indices of a sampler.

    The sampler of a method is called as ``function(images, seed, **options)`` with ``LabelledImages``. It
    returns an ``ImageStream`` with repeat factors, a ``DrawnStream`` with weights, or a subclass of its own
    (a ``CategoryStream`` if it draws images for categories).

    Raises:
        TrainingError: the function returns something else, or does not take the options.
    """
    if sampler.kind == "uniform":
        return ImageStream(np.ones(len(data), np.float32), seed)
    images = LabelledImages([data.labels(index) for index in range(len(data))], len(data.label_of))
    if ":" not in sampler.kind:
        return ImageStream(repeat_factors(sampler, images), seed)
    function = load_object(sampler.kind, plugin_path)
    try:
        stream = function(images, seed, **sampler.options)
    except TypeError as error:
        raise TrainingError(
            "the sampler cannot be made",
            where=sampler.kind,
            found=error,
            remedy="compare the sampler's options in method.yaml with the function's arguments",
        ) from error
    if not isinstance(stream, ImageStream):
        raise TrainingError(
            "a sampler returns a stream of images",
            where=sampler.kind,
            found=type(stream).__name__,
            expected="a benchmark.sampling.ImageStream",
        )
    return stream


def grouped(stream: ImageStream, data: TrainImages, images_per_worker: int) -> ImageStream:
    """The stream with the images of a worker all wide or all not, if the settings require it.

    The order of images that are drawn for categories does not change, because the draw belongs to the
    position.
    """
    if isinstance(stream, CategoryStream) or not data.settings.aspect_grouping:
        return stream
    height, width = np.asarray(data.images.sizes).T
    return AlikeStream(stream, width > height, images_per_worker)


def repeat_factors(sampler: Sampler, images: LabelledImages) -> NDArray[np.float32]:
    """Repeat factors (I,) float32, at least 1, of the named samplers: how often each image occurs in an
    epoch."""
    counts = (images.image_counts, len(images), sampler.threshold)
    if sampler.kind == "repeat_factor_ceiling":
        return ceiling_repeat_factors(images.labels, *counts)
    factors = image_repeat_factors(images.labels, category_repeat_factors(*counts))
    return copies_added_to_original(factors) if sampler.kind == "repeat_factor_plus_one" else factors
