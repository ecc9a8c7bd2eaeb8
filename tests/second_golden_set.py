"""Writes another folder of golden cases, with changes that keep every number valid."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from golden_cases import NOT_HELD, OWN

LEFT_OUT = "crt_lws"  # a file that the folder does not have
Case = dict[str, Any]

# Of the kinds whose cases are rows that do not depend on each other's order: what has an entry for each row.
_ROW_KINDS = {
    *("sigmoid_loss", "balanced_sigmoid_loss", "plain_softmax_loss", "gumbel_ce", "class_relative_ce", "eql"),
    *("sigmoid_baseline", "droploss", "activation", "focal_loss", "reweighted_softmax_loss", "ecm_loss"),
    *("equilibrium_loss", "apa_gumbel_droploss"),
    *("ecm_scores", "federated_loss", "federated_softmax_loss", "federated_scores", "eqlv2_scores"),
    *(
        "seesaw_scores",
        "acsl_scores",
        "logit_adjusted_loss",
        "balanced_softmax_ce_loss",
        "logit_adjusted_scores",
    ),
}
_ROWS = {
    *("logits", "labels", "label_weights", "uniform_random", "upstream_grad", "proposal_scores", "scores"),
    *(
        "grad_logits",
        "adjusted_logits",
        "element_weights",
        "scores_with_proposals",
        "scores_without_objectness",
    ),
    *("loss", "grad_as_released_kernel", "test_scores_sigmoid", "test_scores_as_released_softmax"),
    *("gumbel_scores", "class_relative_scores", "eql_sigmoid_scores_with_dummy"),
    *("droploss_gumbel_scores_with_dummy",),
}


def write_second_set(folder: Path) -> None:
    """Write the files: cases in another order and with other names, rows in another order, ids with gaps.

    Every file with several kinds lacks its last kind, and one file is missing.
    """
    for file in sorted(NOT_HELD.keys() - {LEFT_OUT}):
        content = json.loads((OWN / f"{file}.json").read_text())
        kinds = list(dict.fromkeys(case["kind"] for case in content["cases"]))
        kept = kinds[:-1] or kinds
        cases = [_changed(case) for case in reversed(content["cases"]) if case["kind"] in kept]
        for number, case in enumerate(cases):
            case["case"] = f"{number}"
        (folder / f"{file}.json").write_text(json.dumps(content | {"cases": cases}))


def _changed(case: Case) -> Case:
    case = copy.deepcopy(case)
    if case["kind"] in _ROW_KINDS:
        _reverse_rows(case)
    if case["kind"] in _IDS:
        _IDS[case["kind"]](case)
    return case


def _reverse_rows(case: Case) -> None:
    rows = len(case["inputs"]["logits"])
    if any("released_kernel" in key for key in case["expected"]):
        return  # a defect makes the rows depend on each other's order
    for part in (case["inputs"], case["expected"]):
        for key, values in part.items():
            if key in _ROWS and isinstance(values, list) and len(values) == rows:
                part[key] = values[::-1]


def _new_id(old: int) -> int:
    """An id with gaps, in the same order."""
    return 3 * old + 5


def _group_tables(case: Case) -> None:
    inputs, expected = case["inputs"], case["expected"]
    inputs["category_ids_in_file_order"] = [_new_id(id_) for id_ in inputs["category_ids_in_file_order"]]
    expected["group_category_ids"] = [[_new_id(id_) for id_ in ids] for ids in expected["group_category_ids"]]


def _categories_of_images(case: Case) -> None:
    images = case["inputs"]["image_category_ids"]
    case["inputs"]["image_category_ids"] = [[_new_id(id_) for id_ in ids] for ids in images]
    if "category_ids" in case["expected"]:
        case["expected"]["category_ids"] = [_new_id(id_) for id_ in case["expected"]["category_ids"]]


def _images_of_categories(case: Case) -> None:
    for part, key in ((case["inputs"], "images_of_class"), (case["expected"], "class_repeat_factor")):
        part[key] = {str(_new_id(int(id_))): value for id_, value in part[key].items()}


def _evaluation(case: Case) -> None:
    """Ids with gaps, and categories listed the other way round."""
    inputs, expected = case["inputs"], case["expected"]
    for key in ("negative_category_ids_per_image", "not_exhaustive_category_ids_per_image"):
        inputs[key] = [[_new_id(id_) for id_ in ids] for ids in inputs[key]]
    for key, position in (
        ("categories_id_frequency_r0_c1_f2_val_count", 0),
        ("annotations_id_image_category_x_y_w_h_area", 2),
        ("detections_image_category_x_y_w_h_score", 1),
    ):
        for row in inputs[key]:
            row[position] = _new_id(row[position])
    for part, key in (
        (inputs, "categories_id_frequency_r0_c1_f2_val_count"),
        (inputs, "train_instance_counts"),
        (expected, "ap_per_category_in_file_order"),
    ):
        part[key] = part[key][::-1]


_IDS: dict[str, Callable[[Case], None]] = {
    "group_tables": _group_tables,
    "image_repeat_factors": _categories_of_images,
    "ceil_repeat_factors": _categories_of_images,
    "repeat_factor_sampling": _images_of_categories,
    "lvis_evaluation": _evaluation,
}
