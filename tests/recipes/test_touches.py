"""Every method is in the group of the part that it changes, as its stages show."""

from pathlib import Path
from typing import Any

import pytest
from recipe_files import STAGE, write_experiment, write_method
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.recipes import describe, load_experiment
from benchmark.recipes.models import Method, Variant
from benchmark.recipes.touches import TOUCHED, touched

GROUPS = {
    "softmax": "baseline",
    "softmax+softmax_x2": "baseline",  # longer
    "softmax+mmdet_cosine_x2": "baseline",
    "softmax+mmdet_rfs": "sampler",
    "softmax+finetune_tail": "sampler",  # images of rare categories alone
    "irfs": "sampler",
    "sigmoid": "loss",  # and repeat factors
    "gol": "loss",
    "focal": "loss",  # of all parameters, on a finished model
    "focal+focal_cls": "decoupled",
    "bags": "decoupled",
    "bags+train_all": "loss",
    "crt_lws+lws": "decoupled",
    "simcal": "decoupled",  # after a transformation
    "simcal+t100": "decoupled",  # a test of its own trained model
    "eqlv2+no_objectness": "loss",
    "acsl+cascade_softmax": "decoupled",
    "tau_norm": "post-hoc",
    "norcal": "post-hoc",
    "logit_adjustment": "loss",
    "logit_adjustment+posthoc": "post-hoc",  # of another method's model
}


def test_the_stages_of_the_methods_here_tell_their_groups() -> None:
    found = {entry["name"]: entry["touches"] for entry in describe("methods")}
    assert {name: found[name] for name in GROUPS} == GROUPS
    assert set(found.values()) == set(TOUCHED)


def test_the_list_of_methods_has_a_heading_for_each_group() -> None:
    lines = CliRunner().invoke(app, ["list", "methods"]).output.splitlines()
    assert [line.rstrip(":") for line in lines if not line.startswith(" ")] == list(TOUCHED)
    (gol,) = [number for number, line in enumerate(lines) if line.startswith("  gol ")]
    assert lines.index("loss:") < gol < lines.index("decoupled:")


RETRAIN = {**STAGE, "name": "retrain", "trainable": "classifier"}
FIT = {"name": "fit", "kind": "fit", "function": "a:b"}


@pytest.mark.parametrize(
    ("stages", "group"),
    [
        ([STAGE], "loss"),
        ([STAGE, RETRAIN], "decoupled"),
        ([STAGE, FIT], "post-hoc"),
        ([STAGE, FIT, RETRAIN], "decoupled"),
        ([FIT, STAGE], "loss"),
    ],
)
def test_a_method_without_a_base_is_read_in_the_same_way(stages: list[dict[str, Any]], group: str) -> None:
    method = Method.model_validate({"name": "m", "title": "M", "classifier": "a:B", "stages": stages})
    assert touched(method, Variant()) == group


def test_rows_keep_their_order_in_a_group_and_without_groups(tmp_path: Path) -> None:
    write_method(tmp_path, "mine")
    names = ["irfs", "tau_norm", "mine", "norcal", "bags", "gol", "softmax"]
    rows = [{"id": name, "method": name} for name in names]

    def order(**settings: object) -> list[str]:
        path = write_experiment(tmp_path, *rows, method_paths=["."], **settings)
        return [row.id for row in load_experiment(path).rows]

    assert order() == names
    assert order(group_by="touches") == ["softmax", "mine", "gol", "bags", "tau_norm", "norcal", "irfs"]
