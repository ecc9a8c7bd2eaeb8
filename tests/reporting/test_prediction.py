"""Agreement of the order of methods here with that of published tables."""

from dataclasses import replace
from pathlib import Path

import pytest
from reporting.results_tree import made_up_experiment

from benchmark.recipes import ExperimentRow
from benchmark.recipes.project import project_root
from benchmark.reporting.answers import REPORTED
from benchmark.reporting.collect import RowResult, RunResult
from benchmark.reporting.prediction import Agreement, Published, agreements

PUBLISHED = """paper,row,label,method,detector,dataset,init_from,metric,value,tolerance
one,a,A,softmax,d,lvis,,segm/AP,20.0,
one,b,B,rfs,d,lvis,,segm/AP,23.0,
one,c,C,bags,d,lvis,,segm/AP,24.0,
one,c2,C at half length,bags,d,lvis,,segm/AP,21.0,
one,c,C,bags,d,lvis,,bbox/AP,1.0,
two,a,A,softmax,e,coco,,bbox/AP,40.0,
two,d,D,eqlv2,e,coco,,bbox/AP,45.0,
two,b,B,rfs,e,coco,,bbox/AP,41.0,
"""


@pytest.fixture
def template(tmp_path: Path) -> ExperimentRow:
    return made_up_experiment(tmp_path).rows[0]


def rows_of(template: ExperimentRow, values: dict[str, float]) -> list[RowResult]:
    rows = []
    for name, value in values.items():
        run = RunResult(template.runs[0], "done", None, {"segm": {"AP": value}}, 1.0, 1.0)
        row = template.entry.model_copy(update={"id": name})
        rows.append(RowResult(replace(template, entry=row), [run]))
    return rows


def found(template: ExperimentRow, folder: Path, values: dict[str, float]) -> list[Agreement]:
    (folder / "reported.csv").write_text(PUBLISHED)
    return agreements(rows_of(template, values), Published(folder / "reported.csv"))


def test_tau_is_of_the_gains_over_the_baseline_of_each_table(template: ExperimentRow, tmp_path: Path) -> None:
    """Published gains: softmax 0, rfs 2 (3 and 1), bags 4 (its better row, of masks), eqlv2 5."""
    same = found(template, tmp_path, {"softmax": 0.1, "rfs": 0.2, "bags": 0.3, "eqlv2": 0.4, "own": 0.9})
    assert [(item.metric, item.tau, item.high, len(item.methods)) for item in same] == [("AP", 1.0, 1.0, 4)]
    (opposite,) = found(template, tmp_path, {"softmax": 0.4, "rfs": 0.3, "bags": 0.2, "eqlv2": 0.1})
    assert (opposite.tau, opposite.low) == (-1.0, -1.0)
    (one_swapped,) = found(template, tmp_path, {"softmax": 0.1, "rfs": 0.2, "bags": 0.4, "eqlv2": 0.3})
    assert one_swapped.tau == pytest.approx(4 / 6)  # five pairs agree, one does not
    assert one_swapped.low < one_swapped.tau < one_swapped.high


def test_nothing_is_said_of_few_methods_or_equal_numbers(template: ExperimentRow, tmp_path: Path) -> None:
    assert found(template, tmp_path, {"softmax": 0.1, "rfs": 0.2, "bags": 0.3}) == []
    assert found(template, tmp_path, {"softmax": 0.0, "rfs": 0.0, "bags": 0.0, "eqlv2": 0.0}) == []


def test_a_row_stands_for_what_it_answers_to_or_is_named_after(template: ExperimentRow) -> None:
    published = Published(project_root() / REPORTED)
    (row,) = rows_of(template, {"mine": 0.1})
    assert published.method(row) == "softmax"  # its method
    answering = template.entry.model_copy(update={"id": "mine", "reported": "eqlv2/rfs"})
    assert published.method(replace(row, resolved=replace(row.resolved, entry=answering))) == "rfs"
    (rfs,) = rows_of(template, {"rfs": 0.1})
    assert published.method(rfs) == "rfs"
    variant = replace(row.runs[0], run=row.runs[0].run.model_copy(update={"variant": "rfs_exact"}))
    assert published.method(replace(row, runs=[variant])) is None
