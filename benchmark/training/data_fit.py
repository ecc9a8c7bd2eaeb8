"""Settings of a run that have no effect on its training data, found from class counts before any training."""

from benchmark.detectors.build import build_classifier
from benchmark.notices import data_warnings
from benchmark.recipes.models import Run
from benchmark.sampling import seeded
from benchmark.statistics import ClassStatistics, category_repeat_factors
from benchmark.training.stages import trained_categories


def settings_without_effect(run: Run, statistics: ClassStatistics) -> list[str]:
    """The warnings that the run's own stages will give, one sentence each; empty if every setting has an
    effect.

    ``statistics`` are those of the training split. Raises ``BenchmarkError`` if the classifier refuses them.
    """
    with data_warnings() as found, seeded(0):
        build_classifier(run, statistics)
        for stage in run.stages:
            sampler, images = stage.sampler, statistics.num_annotated_images
            if sampler is not None and sampler.kind.startswith("repeat_factor") and images:
                category_repeat_factors(statistics.image_counts, images, sampler.threshold)
            trained_categories(stage, statistics)
    return found
