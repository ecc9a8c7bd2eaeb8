"""Statements of a table about noise: which rows differ significantly, and how many seeds the others need."""

import csv
import io
from collections.abc import Sequence

from benchmark.evaluation.metrics import METRICS
from benchmark.evaluation.uncertainty import CONFIDENCE
from benchmark.reporting.collect import HEADLINE, RowResult
from benchmark.reporting.differences import FEWEST_SEEDS, MOST_SEEDS, POWER, Distinctions, Pair

TOLD = ("AP", "APr")
"""Metrics of the statements; ``differences.csv`` has all."""
NAMED = 12
"""Number of pairs that are named in a sentence."""


def marks_note(rows: Sequence[RowResult], distinctions: Distinctions) -> str:
    """One sentence on the meaning of bold numbers, or why there are none; empty for a table with fewer than
    two rows with numbers."""
    counts = [len(row.counted) for row in rows if row.counted]
    if len(counts) < 2:
        return ""
    if distinctions.pairs:
        seeds = sorted({pair.estimate.seeds for pair in distinctions.pairs})
        number = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        return (
            f"Bold: the best of a column and all that do not differ significantly from it over {number} "
            "seeds, if some row does."
        )
    if max(counts) == 1:
        have = "every row has one seed"
    elif sorted(counts)[-2] < FEWEST_SEEDS:
        have = f"no two rows have {FEWEST_SEEDS} seeds"
    else:
        have = f"no two rows could be compared over {FEWEST_SEEDS} seeds"
    return (
        f"No number is marked as the best: {have}, and another seed may change the order. Rows with\n"
        f"{FEWEST_SEEDS} seeds can be compared, better with 5."
    )


def statements(distinctions: Distinctions) -> list[str]:
    """For AP and APr, how many pairs differ significantly, and how many seeds the others need."""
    found = []
    for metric in TOLD:
        pairs = distinctions.of(metric)
        unclear = sorted(
            (pair for pair in pairs if not pair.clear), key=lambda pair: -abs(pair.estimate.value)
        )
        if not pairs:
            continue
        clear = len(pairs) - len(unclear)
        text = f"{METRICS[metric].title}: {clear} of {len(pairs)} pairs of rows differ significantly."
        if unclear:
            names = [
                f"{pair.first} and {pair.second} ({needed_seeds_text(pair)})" for pair in unclear[:NAMED]
            ]
            more = f" and {len(unclear) - NAMED} more (differences.csv)" if len(unclear) > NAMED else ""
            text += (
                f" Not significant, with the number of seeds that would be needed: {', '.join(names)}{more}."
            )
        found.append(text)
    return found


def explanation() -> str:
    """How to read differences."""
    sure = f"{CONFIDENCE:.0%}"
    return (
        f"Differences are paired by seed. Their {sure} intervals cover other seeds and other images: the\n"
        "variance is the sum of that over seeds and that over draws of images (Student's t). Significance\n"
        f"is by Holm's procedure over all pairs of a metric: with a probability of {sure} none of the\n"
        "significant differences is noise. Ranks follow from it. With the needed number of seeds, a true\n"
        f"difference of the observed size is significant with a probability of {POWER:.0%}."
    )


def difference_table(rows: Sequence[RowResult], distinctions: Distinctions) -> str:
    """A Markdown table of ranks and of differences from the first row that can be compared; empty if there
    are none."""
    lines = []
    base: dict[str, str] = {}
    titles = {row.id: row.title for row in rows}
    for row in rows:
        id_ = row.id
        cells = [id_, row.title]
        for metric in TOLD:
            rank = distinctions.rank(id_, metric)
            # the first one is that with the first row
            pair = next((item for item in distinctions.of(metric) if item.second == id_), None)
            cells.append("" if rank is None else rank_text(rank))
            cells.append("" if pair is None else difference_text(pair))
            if pair is not None:
                base.setdefault(pair.first, titles[pair.first])
        if any(cells[2:]):
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if not lines:
        return ""
    name = " or ".join(base.values())
    header = ["row", "method"]
    for metric in TOLD:
        header += [f"rank by {metric}", f"{metric} minus {name}"]
    rule = "| --- | --- |" + " --: | --: |" * len(TOLD)
    return "\n".join(["| " + " | ".join(header) + " |", rule, *lines])


DIFFERENCES = (
    *("first", "second", "metric", "seeds", "second_minus_first", "low", "high", "std_over_seeds"),
    *("std_over_images", "p", "p_adjusted", "told_apart", "seeds_needed"),
)
"""Columns of ``differences.csv``."""


def differences_csv(distinctions: Distinctions) -> str:
    """Every pair and headline metric, in points of percent.

    ``std_over_seeds`` is of one seed's difference, ``std_over_images`` of the mean difference.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(DIFFERENCES)
    for metric in HEADLINE:
        for pair in distinctions.of(metric):
            estimate = pair.estimate
            over_images = (estimate.shared + estimate.own / estimate.seeds) ** 0.5
            numbers = [estimate.value, *pair.interval, estimate.between**0.5, over_images]
            cells: list[object] = [pair.first, pair.second, metric, estimate.seeds]
            cells += [f"{100 * number:.3f}" for number in numbers]
            cells += [f"{estimate.p:.3g}", f"{pair.adjusted:.3g}"]
            cells += ["yes", ""] if pair.clear else ["no", needed_seeds_text(pair)]
            table.writerow(cells)
    return text.getvalue()


def needed_seeds_text(pair: Pair) -> str:
    """The number of seeds as text."""
    return f"over {MOST_SEEDS}" if pair.seeds_needed is None else str(pair.seeds_needed)


def rank_text(rank: tuple[int, int]) -> str:
    """A range of ranks."""
    return f"{rank[0]}" if rank[0] == rank[1] else f"{rank[0]}-{rank[1]}"


def difference_text(pair: Pair) -> str:
    """Points with their interval; bold if the difference is significant."""
    metric = METRICS[pair.metric]
    value, low, high = (
        f"{number * metric.scale:+.{metric.digits}f}" for number in (pair.estimate.value, *pair.interval)
    )
    text = f"{value} [{low}, {high}]"
    return f"**{text}**" if pair.clear else text
