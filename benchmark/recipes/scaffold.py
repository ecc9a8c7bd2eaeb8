"""Templates of a new method, and of a working folder for an installed project."""

import re
from pathlib import Path
from string import Template

from benchmark.files import write_text
from benchmark.recipes.loading import RecipeError
from benchmark.recipes.plugins import MANIFEST
from benchmark.recipes.project import project_root

_METHOD = {
    MANIFEST: """\
name: $name
title: $title
# paper: {title: Its title, authors: [First Author, Second One], venue: Conference 2030, arxiv: "0000.00000"}
classifier: $module:$class_name
options: {temperature: 1.0}
stages:
  - {name: base, from: softmax}  # the finished softmax model, trained once
  - name: retrain
    trainable: classifier
    reset: classifier
    schedule: {epochs: 12, steps: [8, 11], reference_batch_size: 16, learning_rate: 0.01}
test: {score_threshold: 0.001}
""",
    "__init__.py": '''\
"""$title."""
''',
    "classifier.py": '''\
"""$title: one line about what is new; cite the paper or the released file."""

import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import LinearClassifier
from benchmark.statistics import ClassStatistics


class $class_name(LinearClassifier):
    """Softmax cross entropy with a temperature: logits (N, C + 1), background last.

    Args:
        temperature: logits are divided by it.
    """

    def __init__(self, in_features: int, statistics: ClassStatistics, temperature: float = 1.0) -> None:
        super().__init__(in_features, statistics, width=statistics.num_classes + 1)
        self.temperature = temperature

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_n CE(z_n / temperature, y_n)."""
        loss = F.cross_entropy(logits / self.temperature, labels, reduction="sum")
        return {"loss_cls": loss / max(len(labels), 1)}

    def scores(self, logits: Tensor) -> Tensor:
        """softmax(z_n / temperature)."""
        return (logits / self.temperature).softmax(dim=1)
''',
    "README.md": """\
# $title

**Idea.** What the method does about rare categories, in two sentences.

**As implemented.** The equations of `classifier.py`, with the symbols of the paper.

| option | default | meaning |
| --- | --- | --- |
| `temperature` | 1.0 | logits are divided by it |

**Differences from the released code.** None known.

**Reported.** The published numbers, or none.
""",
    "test_$name.py": '''\
"""What must hold for $title beyond the conformance suite."""

import numpy as np
import torch

from benchmark.statistics import ClassStatistics

from .classifier import $class_name


def test_a_high_temperature_makes_all_scores_alike() -> None:
    counts = np.array([1, 10, 100])
    statistics = ClassStatistics(np.arange(1, 4), ("a", "b", "c"), ("r", "r", "c"), counts, counts)
    scores = $class_name(4, statistics, temperature=1e6).scores(torch.randn(5, 4))
    torch.testing.assert_close(scores, torch.full((5, 4), 0.25), atol=1e-4, rtol=0)
''',
}

_PROJECT = {
    "Snakefile": """\
# The workflow of Longtail Bench, with the experiments, data sets, detectors and methods of this folder:
#   snakemake --workflow-profile workflows/profiles/local --config experiment=first
from benchmark.recipes.project import project_root


include: str(project_root() / "Snakefile")


# An included workflow has no default target.
rule everything:
    default_target: True
    input:
        rules.all.input,
""",
    "workflows/experiments/first.yaml": """\
# One row is one line of the results table; longtail list methods|detectors|datasets shows what it may name.
name: first
title: A first experiment
budget: smoke    # minutes on two cores; without a budget every method has its paper's schedule
rows:
  - {id: softmax, method: softmax, detector: torchvision/tiny_mask_rcnn, dataset: synthetic}
  - {id: bags, method: bags, detector: torchvision/tiny_mask_rcnn, dataset: synthetic}
""",
    "methods/README.md": """\
# Methods of this folder

`longtail new-method NAME` writes a working method here. Experiments name it like those of the project.
""",
    ".gitignore": """\
/data/
/results/
/.snakemake/
""",
    "README.md": """\
# $title

A working folder for Longtail Bench. Run `longtail` and `snakemake` in it.

| folder | content |
| --- | --- |
| `workflows/experiments/` | one file for each results table; `first.yaml` is the first |
| `workflows/datasets/`, `workflows/detectors/`, `workflows/budgets/` | your own ones |
| `workflows/profiles/` | run jobs on this machine or with Slurm |
| `methods/` | your own methods: `longtail new-method NAME` |
| `data/`, `results/` | data and results; `LONGTAIL_DATA` names another data folder |

```
longtail plan first        # jobs, hours, disk space and missing files
snakemake --workflow-profile workflows/profiles/local --config experiment=first -n    # remove -n to run it
longtail status first
```

The datasets, detectors, methods and published numbers of the project itself are in the installed package.
""",
}
_PROFILES = ("local", "slurm")


def new_project(folder: Path) -> list[Path]:
    """Write a working folder and return its files: workflow, an experiment, profiles, a place for methods.

    Raises ``RecipeError`` and writes nothing if the folder already has one of the files.
    """
    texts = {
        folder / name: Template(text).substitute(title=folder.resolve().name)
        for name, text in _PROJECT.items()
    }
    profiles = Path("workflows", "profiles")
    for name in _PROFILES:
        path = profiles / name / "profile.yaml"
        texts[folder / path] = (project_root() / path).read_text()
    taken = [path for path in texts if path.exists()]
    if taken:
        raise RecipeError(
            "there is a project already",
            where=folder,
            found=taken[0],
            remedy="choose a new or an empty folder",
        )
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def new_method(name: str, folder: Path) -> list[Path]:
    """Write the folder ``folder/name`` of a working method and return its files.

    Raises ``RecipeError`` for a name that is invalid or already used.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise RecipeError(
            "a method's name is made of lower-case letters, digits and underscores",
            found=name,
            expected="e.g. my_loss",
        )
    target = folder / name
    if target.exists():
        raise RecipeError(
            "there is something of this name already", where=target, remedy="choose another name"
        )
    words = {
        "name": name,
        "title": name.replace("_", " ").capitalize(),
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "module": f"{folder.name}.{name}.classifier",
    }
    files = []
    for file, text in _METHOD.items():
        path = target / Template(file).substitute(words)
        write_text(path, Template(text).substitute(words))
        files.append(path)
    return files
