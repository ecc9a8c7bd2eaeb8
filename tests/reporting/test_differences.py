"""Differences between rows count only if they exceed the noise of seeds and images."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from reporting.results_tree import made_up_experiment
from scipy import stats

from benchmark.recipes import ExperimentRow
from benchmark.reporting.collect import RowResult, RunResult
from benchmark.reporting.differences import (
    Distinctions,
    Estimate,
    SeedSample,
    distinguish,
    excludes_zero,
    holm,
    paired_estimate,
)
from benchmark.reporting.noise import differences_csv
from benchmark.reporting.tables import latex, markdown

IMAGES, DRAWS = 40, 40
ERROR_RATE = 0.05
"""That the tables state: with at most this probability there is a mark where there is only noise."""
Samples = dict[str, dict[int, SeedSample]]


def simulated(generator: np.random.Generator, levels: Sequence[float], seeds: int) -> Samples:
    """Rows whose AP is the mean outcome of images: effects of the seed, of the image, and of both together,
    partly shared by the rows, of which ``levels`` are the true means."""
    rows, per_image = len(levels), np.sqrt(IMAGES)
    outcomes = np.asarray(levels)[:, None, None] + 0.02 * generator.normal(size=(1, seeds, 1))
    outcomes = outcomes + 0.01 * generator.normal(size=(rows, seeds, 1))
    outcomes = outcomes + 0.02 * per_image * generator.normal(size=(1, 1, IMAGES))
    outcomes = outcomes + 0.01 * per_image * generator.normal(size=(rows, 1, IMAGES))
    outcomes = outcomes + 0.01 * per_image * generator.normal(size=(rows, seeds, IMAGES))
    weights = generator.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=DRAWS) / IMAGES
    draws = outcomes @ weights.T
    return {
        f"row{row}": {
            seed: SeedSample({"AP": outcomes[row, seed].mean()}, {"AP": draws[row, seed]})
            for seed in range(seeds)
        }
        for row in range(rows)
    }


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> ExperimentRow:
    return made_up_experiment(tmp_path_factory.mktemp("experiment")).rows[0]


def table_rows(samples: Samples, template: ExperimentRow) -> list[RowResult]:
    """Rows of a table with these numbers."""
    rows = []
    for name, seeds in samples.items():
        runs = [template.runs[0].model_copy(update={"seed": seed}) for seed in seeds]
        row = replace(template, entry=template.entry.model_copy(update={"id": name}), runs=runs)
        numbers = [{"segm": dict(sample.values)} for sample in seeds.values()]
        results = [
            RunResult(run, "done", None, metrics, 1.0, 1.0)
            for run, metrics in zip(runs, numbers, strict=True)
        ]
        rows.append(RowResult(row, results))
    return rows


def marked(samples: Samples, rows: Sequence[RowResult]) -> list[str]:
    """The ids of the rows with a bold number of the results table, in Markdown and LaTeX alike."""
    distinctions = Distinctions(distinguish(samples, ["AP"], IMAGES))
    text = markdown("t", rows, [], distinctions)
    lines = [next(line for line in text.splitlines() if line.startswith(f"| {name} |")) for name in samples]
    tex = latex("t", rows, distinctions).split(r"\midrule")[1].splitlines()[1:]
    found = [name for name, line in zip(samples, lines, strict=True) if "**" in line]
    assert found == [name for name, line in zip(samples, tex, strict=False) if r"\textbf" in line]
    return found


def at_most(repetitions: int) -> float:
    """The stated error rate plus three standard deviations of a count of repetitions."""
    return ERROR_RATE + 3 * float(np.sqrt(ERROR_RATE * (1 - ERROR_RATE) / repetitions))


def share(repetitions: int, levels: Sequence[float], seeds: int, template: ExperimentRow) -> float:
    """The fraction of repetitions whose table marks anything.

    Writing a table takes time, so only some tables are written to check that they have the same marks.
    """
    generator, count = np.random.default_rng(seeds), 0
    for number in range(repetitions):
        samples = simulated(generator, levels, seeds)
        distinctions = Distinctions(distinguish(samples, ["AP"], IMAGES))
        best = [name for name in samples if distinctions.best(name, "AP")]
        count += bool(best)
        if number % 100 == 0:
            assert marked(samples, table_rows(samples, template)) == best
    return count / repetitions


def test_rows_that_differ_are_marked_and_rows_that_do_not_are_not(template: ExperimentRow) -> None:
    """Two rows that differ only by noise differ significantly as often as stated, two that truly differ
    nearly always, for any number of seeds; one seed marks nothing."""
    repetitions = 200
    for seeds in (3, 5):
        assert share(repetitions, [0.3, 0.3], seeds, template) <= at_most(repetitions)
        assert share(repetitions, [0.3, 0.4], seeds, template) >= 0.9
    for seeds in (1, 2):
        assert share(20, [0.3, 0.9], seeds, template) == 0


def test_a_table_of_many_equal_rows_marks_none_of_them(template: ExperimentRow) -> None:
    """Ten pairs at once, still at the stated rate."""
    assert share(150, [0.3] * 5, 5, template) <= at_most(150)


def test_the_table_says_which_pairs_are_told_apart_and_what_the_others_need(template: ExperimentRow) -> None:
    samples = simulated(np.random.default_rng(3), [0.3, 0.305, 0.45], 5)
    rows = table_rows(samples, template)
    distinctions = Distinctions(distinguish(samples, ["AP"], IMAGES))
    assert [distinctions.rank(name, "AP") for name in samples] == [(2, 3), (2, 3), (1, 1)]
    assert marked(samples, rows) == ["row2"]
    text = markdown("t", rows, [], distinctions)
    assert "AP: 2 of 3 pairs of rows differ significantly." in text
    assert re.search(r"Not significant, .*: row0 and row1 \((\d+|over 100)\)\.", text)
    (pair,) = [pair for pair in distinctions.pairs if (pair.first, pair.second) == ("row0", "row2")]
    low, high = pair.interval
    assert low < 0.15 < high
    assert f"**{pair.estimate.value * 100:+.1f} [{low * 100:+.1f}, {high * 100:+.1f}]**" in text
    lines = differences_csv(distinctions).splitlines()
    assert len(lines) == 1 + 3
    assert re.fullmatch(r"row0,row2,AP,5,.*,yes,", lines[2])


def test_one_seed_is_said(template: ExperimentRow) -> None:
    rows = table_rows(simulated(np.random.default_rng(0), [0.3, 0.9], 1), template)
    for text in (markdown("t", rows, [], Distinctions()), latex("t", rows, Distinctions())):
        assert "every row has one seed, and another seed may change the order" in text
        assert "**" not in text
        assert r"\textbf" not in text


def test_seeds_alone_give_the_paired_t_test() -> None:
    """Without any effect of images."""
    generator = np.random.default_rng(0)
    first, second = generator.normal(0.3, 0.02, (2, 5))
    rows = [
        {seed: SeedSample({"AP": value}, {"AP": np.full(DRAWS, value)}) for seed, value in enumerate(row)}
        for row in (first, second)
    ]
    estimate = paired_estimate(*rows, "AP", 10**9)
    assert estimate is not None
    expected = stats.ttest_rel(second, first)
    assert estimate.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert estimate.interval() == pytest.approx(expected.confidence_interval(0.95), rel=1e-6)


def test_images_alone_give_the_bootstraps_interval() -> None:
    """With equal seeds."""
    draws = np.random.default_rng(0).normal(0.1, 0.02, 5000)
    nothing = {seed: SeedSample({"AP": 0.0}, {"AP": np.zeros(5000)}) for seed in range(4)}
    something = {seed: SeedSample({"AP": 0.1}, {"AP": draws}) for seed in range(4)}
    estimate = paired_estimate(nothing, something, "AP", 5000)
    assert estimate is not None
    assert estimate.interval() == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=1e-3)


def test_the_seeds_needed_are_those_of_textbooks() -> None:
    """A paired t-test of a difference as large as its spread needs 10 pairs for 80 % at 5 % (Cohen 1988)."""
    assert Estimate(0.01, 5, 0.01**2, 0.0, 0.0, 200).seeds_needed(0.05) == 10
    assert Estimate(0.01, 5, 0.01**2, 0.0, 0.0, 200).seeds_needed(0.01) > 10
    assert Estimate(0.01, 5, 0.0001**2, 0.01**2, 0.0, 200).seeds_needed(0.05) is None  # images are too few


def test_p_values_are_adjusted_as_holm_did() -> None:
    """By hand: the smallest of four counts four times, the next three times, and so on, never falling."""
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert len(holm(np.array([]))) == 0


def test_what_prints_as_no_difference_is_none() -> None:
    assert not excludes_zero("AP", 0.00001, 0.001)
    assert excludes_zero("AP", 0.0006, 0.001)
    assert excludes_zero("AP", -0.02, -0.001)


def test_rows_are_paired_over_the_seeds_that_both_have() -> None:
    samples = simulated(np.random.default_rng(0), [0.3, 0.3], 5)
    samples["row1"] = {seed: samples["row1"][seed] for seed in (4, 1, 2)}
    (pair,) = distinguish(samples, ["AP"], IMAGES)
    assert pair.estimate.seeds == 3
    expected = [samples["row1"][seed].values["AP"] - samples["row0"][seed].values["AP"] for seed in (1, 2, 4)]
    assert pair.estimate.value == pytest.approx(np.mean(expected))
    del samples["row1"][4]
    assert distinguish(samples, ["AP"], IMAGES) == []
