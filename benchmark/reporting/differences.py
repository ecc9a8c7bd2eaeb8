"""Significance of differences between rows, given the noise of seeds and images.

Two rows are paired by seed: the statistic is the difference of a metric, seed by seed. Its mean over S seeds
has two sources of error, like the mean over readers and cases of a radiologist's study (Obuchowski and
Rockette, Commun. Stat. Simul. 24, 1995): other seeds give other models, and other validation images of the
same kind give other measurements. The variance of the mean difference is the sum of both:

    the variance of the differences over seeds, divided by S,
    + the variance of the mean difference over draws of images (bootstrap, the same images for all rows and
      seeds).

Intervals use Student's t with the degrees of freedom of such a sum (Satterthwaite 1946, Welch 1947). The
noise of one seed's number on these images is part of both terms, so the intervals are slightly too wide;
subtracting it, as Obuchowski and Rockette do, makes them too narrow with three seeds. With fewer than
``FEWEST_SEEDS`` seeds the variance over seeds is not known, and no difference is called significant.

All pairs of rows are tested for every metric, with p-values adjusted by Holm's procedure, as Garcia and
Herrera (JMLR 9, 2008) recommend for all pairs of a table: with probability ``CONFIDENCE`` no difference of a
metric that is called significant is noise. The possible ranks of a row follow from this (Mohamad, Goeman and
van Zwet, Biometrics 78, 2022).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from benchmark.evaluation.metrics import METRICS
from benchmark.evaluation.uncertainty import CONFIDENCE

FEWEST_SEEDS = 3
"""Least number of seeds that two rows must share for a test."""
POWER = 0.8
"""Probability of a significant difference for which needed seeds are computed."""
MOST_SEEDS = 100
"""Larger numbers of needed seeds are not reported."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class SeedSample:
    """The numbers of one seed of a row, as fractions: ``values`` by metric, and ``draws`` (R,) of the same
    metrics over draws of images, NaN for a draw without a value."""

    values: Mapping[str, float]
    draws: Mapping[str, Values]


@dataclass(frozen=True)
class Estimate:
    """A mean difference over seeds with its noise, as fractions and their squares.

    ``seeds`` is S >= 2. ``between`` is the variance of the differences over seeds. Of the variance over draws
    of ``images`` images, ``shared`` is the part that all seeds have in common, ``own`` the rest of one seed.
    """

    value: float
    seeds: int
    between: float
    shared: float
    own: float
    images: int

    def error(self, seeds: int) -> tuple[float, float]:
        """The standard error of the mean over ``seeds`` seeds, and its degrees of freedom."""
        terms = self.between / seeds, self.shared + self.own / seeds
        total = sum(terms)
        weights = terms[0] ** 2 / (seeds - 1) + terms[1] ** 2 / max(self.images - 1, 1)
        return total**0.5, total**2 / weights if weights else np.inf

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Low and high end."""
        from scipy import stats  # takes a second, and tables of one seed do not need it

        error, freedom = self.error(self.seeds)
        reach = error * float(stats.t.ppf((1 + confidence) / 2, freedom))
        return self.value - reach, self.value + reach

    @property
    def p(self) -> float:
        """Two-sided p-value of the hypothesis of no difference."""
        from scipy import stats

        error, freedom = self.error(self.seeds)
        if error == 0:
            return float(self.value == 0)
        return float(2 * stats.t.sf(abs(self.value) / error, freedom))

    def seeds_needed(self, level: float) -> int | None:
        """The least number of seeds with which a true difference of this size is significant at ``level``
        with probability ``POWER``; None if it exceeds ``MOST_SEEDS``, or if the variance over images prevents
        it."""
        if self._power(MOST_SEEDS, level) < POWER:
            return None
        low, high = FEWEST_SEEDS - 1, MOST_SEEDS  # too few, enough
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._power(middle, level) >= POWER else (middle, high)
        return high

    def _power(self, seeds: int, level: float) -> float:
        from scipy import stats

        error, freedom = self.error(seeds)
        if error == 0:
            return float(self.value != 0)
        reach = stats.t.ppf(1 - level / 2, freedom)
        return float(stats.nct.sf(reach, freedom, abs(self.value) / error))


def paired_estimate(
    first: Mapping[int, SeedSample], second: Mapping[int, SeedSample], metric: str, images: int
) -> Estimate | None:
    """The second row minus the first over the seeds that both have; None for fewer than two with a value."""
    seeds = [
        seed
        for seed in first
        if seed in second and metric in first[seed].values and metric in second[seed].values
    ]
    if len(seeds) < 2:
        return None
    values = np.array([second[seed].values[metric] - first[seed].values[metric] for seed in seeds])
    draws = np.array([second[seed].draws[metric] - first[seed].draws[metric] for seed in seeds])
    draws = draws[:, np.isfinite(draws).all(axis=0)]
    covariance = np.cov(draws) if draws.shape[1] > 1 else np.zeros((len(seeds), len(seeds)))
    of_mean = max(float(covariance.mean()), 0.0)
    apart = float(covariance.sum() - np.trace(covariance)) / (len(seeds) * (len(seeds) - 1))
    shared = min(max(apart, 0.0), of_mean)
    own = (of_mean - shared) * len(seeds)
    return Estimate(float(values.mean()), len(seeds), float(values.var(ddof=1)), shared, own, images)


@dataclass(frozen=True)
class Pair:
    """Two rows, by id, and a metric: the second minus the first.

    ``adjusted`` is the p-value adjusted for all pairs of the metric, and ``level`` the level of Holm's
    procedure for the next pair.
    """

    first: str
    second: str
    metric: str
    estimate: Estimate
    adjusted: float
    level: float

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Low and high end for this pair alone."""
        return self.estimate.interval()

    @cached_property
    def clear(self) -> bool:
        """Whether the difference is significant."""
        return self.adjusted <= 1 - CONFIDENCE and excludes_zero(self.metric, *self.interval)

    @cached_property
    def seeds_needed(self) -> int | None:
        """How many seeds would probably make the difference significant; see ``Estimate.seeds_needed``."""
        return self.estimate.seeds_needed(self.level)


def excludes_zero(metric: str, low: float, high: float) -> bool:
    """Whether an interval excludes zero as printed: an end that prints as 0.0 counts as zero."""
    ends = [round(end * METRICS[metric].scale, METRICS[metric].digits) for end in (low, high)]
    return ends[0] > 0 or ends[1] < 0


class Distinctions:
    """Marks and ranks from all pairs of rows. ``pairs`` contains only rows that can be compared."""

    def __init__(self, pairs: Sequence[Pair] = ()) -> None:
        self.pairs = list(pairs)
        self._of_row: dict[tuple[str, str], list[Pair]] = {}
        for pair in self.pairs:
            for row in (pair.first, pair.second):
                self._of_row.setdefault((row, pair.metric), []).append(pair)

    def of(self, metric: str) -> list[Pair]:
        """The pairs of a metric."""
        return [pair for pair in self.pairs if pair.metric == metric]

    def rank(self, row: str, metric: str) -> tuple[int, int] | None:
        """The best and the worst possible rank of a row among those that it is compared with; None if there
        are none."""
        pairs = self._of_row.get((row, metric))
        if pairs is None:
            return None
        wins = [(pair.second == row) == (pair.estimate.value > 0) for pair in pairs if pair.clear]
        return 1 + wins.count(False), 1 + len(pairs) - wins.count(True)

    def best(self, row: str, metric: str) -> bool:
        """Whether a row may be the best and some other row cannot."""
        rank = self.rank(row, metric)
        if rank is None or rank[0] != 1:
            return False
        rivals = {name for pair in self._of_row[row, metric] for name in (pair.first, pair.second)}
        return any((self.rank(rival, metric) or rank)[0] > 1 for rival in rivals)


def distinguish(
    samples: Mapping[str, Mapping[int, SeedSample]], metrics: Sequence[str], images: int
) -> list[Pair]:
    """Test every pair of rows in every metric; ``samples`` are by row and seed, of rows with the same dataset
    and IoU type. Pairs with fewer than ``FEWEST_SEEDS`` seeds in common are left out."""
    found = []
    for metric in metrics:
        estimates = {}
        for rows in combinations(samples, 2):
            estimate = paired_estimate(samples[rows[0]], samples[rows[1]], metric, images)
            if estimate is not None and estimate.seeds >= FEWEST_SEEDS:
                estimates[rows] = estimate
        adjusted = holm(np.array([estimate.p for estimate in estimates.values()]))
        level = (1 - CONFIDENCE) / max(int((adjusted > 1 - CONFIDENCE).sum()), 1)
        found += [
            Pair(*rows, metric, estimate, float(p), level)
            for (rows, estimate), p in zip(estimates.items(), adjusted, strict=True)
        ]
    return found


def holm(p: Values) -> Values:
    """P-values (N,) adjusted by Holm's procedure (Scand. J. Stat. 6, 1979)."""
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted
