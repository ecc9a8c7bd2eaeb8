"""Norms of the classifier's weight vectors, which tau-normalisation and similar methods change."""

import csv
import io
from pathlib import Path

import torch

from benchmark.detectors.build import build_classifier
from benchmark.detectors.checkpoints import CheckpointError, load
from benchmark.files import write_text
from benchmark.recipes.models import Run
from benchmark.statistics import ClassStatistics, read_tables

PREFIX = "classifiers."


@torch.no_grad()
def write_weight_norms(
    run: Run, statistics_file: Path, checkpoint: Path, output: Path, intermediates: Path | None = None
) -> int:
    """Write the L2 norm of every category's weight vector as CSV with the columns ``id`` and ``norm``.

    The norm is that of the vector behind the test score (``Classifier.category_weights``), averaged over the
    heads of a cascade. The table has no rows if the method does not have one vector per category.
    ``intermediates`` is the folder of the tables that the method reads.

    Returns the number of rows. Raises ``CheckpointError`` if the checkpoint is not of this recipe.
    """
    statistics = ClassStatistics.read(statistics_file)
    state = load(checkpoint)["model"]
    tables = read_tables(intermediates, run.intermediates, statistics)
    heads = sorted({name.split(".")[1] for name in state if name.startswith(PREFIX)}, key=int)
    if not heads:
        raise CheckpointError("the checkpoint holds no classifier", where=checkpoint)
    norms = []
    for head in heads:
        classifier = build_classifier(run, statistics, tables)
        start = f"{PREFIX}{head}."
        try:
            classifier.load_state_dict(
                {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
            )
        except RuntimeError as error:
            raise CheckpointError(
                f"the checkpoint does not fit method {run.method}",
                where=checkpoint,
                found=" ".join(str(error).split()),
                remedy="give the checkpoint of the recipe's last stage",
            ) from None
        weights = classifier.category_weights()
        if weights is not None:
            norms.append(weights.flatten(1).double().norm(dim=1))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", "norm"])
    mean = torch.stack(norms).mean(dim=0).tolist() if norms else []
    table.writerows(
        (int(id_), f"{norm:.6g}") for id_, norm in zip(statistics.category_ids, mean, strict=False)
    )
    write_text(output, text.getvalue())
    return len(mean)
