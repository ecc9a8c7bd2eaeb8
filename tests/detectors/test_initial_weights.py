"""Initial weights of any framework load into any back end; weights that fit only in part are refused."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import released
import torch
from tiny_detectors import BACKENDS, FORMS, detector
from torch import Tensor
from torchvision.models import resnet18
from torchvision.models.detection import maskrcnn_resnet50_fpn

from benchmark.detectors import initial_weights
from benchmark.detectors.checkpoints import is_counter
from benchmark.detectors.initial_weights import load_initial_weights
from benchmark.detectors.layouts import DETECTRON2, MMDET, MMDET_V1, trunk_name
from benchmark.detectors.two_stage import TwoStageDetector
from benchmark.errors import BenchmarkError, MissingDependencyError

each_backend = pytest.mark.parametrize("backend", BACKENDS)
RESNET50 = {"backbone": "resnet50", "norm": "frozen"}


def from_file(backend: str, init: str, path: Path, **changes: Any) -> TwoStageDetector:
    return detector(backend, init=init, weights={init: str(path)}, **changes)


def trunk_of(model: TwoStageDetector) -> dict[str, Tensor]:
    named = {trunk_name(name): value for name, value in model.state_dict().items() if not is_counter(name)}
    return {name: value for name, value in named.items() if name is not None}


@each_backend
def test_imagenet_weights_of_torchvision_fill_the_trunk(backend: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    published = resnet18()
    torch.save(published.state_dict(), tmp_path / "resnet18.pth")
    model = from_file(backend, "imagenet", tmp_path / "resnet18.pth", width=1.0)
    load_initial_weights(model)
    found = trunk_of(model)
    wanted = {
        name: value
        for name, value in published.state_dict().items()
        if not name.startswith("fc.") and not is_counter(name)
    }
    assert found.keys() == wanted.keys()
    assert all(value.equal(wanted[name]) for name, value in found.items())
    assert model.initial_weights == {
        "initial_weights": str(tmp_path / "resnet18.pth"),
        "initial_weights_share": 1.0,
    }


def as_detectron2(name: str) -> str:
    """``layer1.0.bn2.weight`` is ``res2.0.conv2.norm.weight`` there."""
    return str(DETECTRON2.theirs(f"backbone.body.{name}", "torchvision")).removeprefix("backbone.bottom_up.")


def as_caffe2(name: str) -> str:
    """``res2.0.conv1.norm.weight`` is ``res2_0_branch2a_bn_s`` there."""
    name = name.replace("stem.conv1.norm", "res.conv1.bn").replace("stem.", "")
    for theirs, ours in (("1", "shortcut"), ("2a", "conv1"), ("2b", "conv2"), ("2c", "conv3")):
        name = name.replace(f".{ours}", f".branch{theirs}") if name.startswith("res") else name
    name = name.replace("res.branch2a", "res.conv1").replace(".norm", ".bn")
    ends = {"bn.weight": "bn.s", "bn.bias": "bn.b", "weight": "w"}
    end = next(item for item in ends if name.endswith(item))
    return (name.removesuffix(end) + ends[end]).replace(".", "_")


@pytest.mark.parametrize("form", ["caffe2", "detectron2"])
@each_backend
def test_imagenet_weights_of_msra_fill_the_trunk(backend: str, form: str, tmp_path: Path) -> None:
    """R-50.pkl of detectron2's model zoo, or Caffe2's: without statistics, so that norms scale and shift."""
    path = tmp_path / "R-50.pkl"
    msra = {"pixels": "caffe", "stride_in_1x1": True, **RESNET50}
    model = from_file(backend, "imagenet", path, **msra)
    arrays = {
        as_detectron2(name): np.asarray(value) + 1
        for name, value in trunk_of(model).items()
        if "running" not in name
    }
    content: dict[str, Any] = {as_caffe2(name): value for name, value in arrays.items()}
    content |= {"fc1000_w": np.zeros((10, 10), np.float32)}
    if form == "detectron2":
        content = {"model": arrays, "__author__": "somebody", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=2))
    load_initial_weights(model)
    found = trunk_of(model)
    for name, value in found.items():
        if name.endswith("running_mean"):
            assert not value.any()
        elif name.endswith("running_var"):
            torch.testing.assert_close(value, torch.full_like(value, 1 - 1e-5))
        else:
            assert value.equal(torch.tensor(arrays[as_detectron2(name)])), name
    assert model.initial_weights["initial_weights_share"] == 1
    for wrong in ({"pixels": "torchvision"}, {"stride_in_1x1": False}):
        other = from_file(backend, "imagenet", path, **(msra | wrong))
        with pytest.raises(BenchmarkError, match="another input, or their stride"):
            load_initial_weights(other)


def test_msra_weights_compute_what_they_did_at_home(tmp_path: Path) -> None:
    """The first layers of a Caffe model get B, G, R from 0 to 255 and are followed by scale and shift."""
    path = tmp_path / "R-50.pkl"
    model = from_file("torchvision", "imagenet", path, pixels="caffe", stride_in_1x1=True, **RESNET50)
    torch.manual_seed(0)
    arrays = {
        as_detectron2(name): torch.randn(value.shape).numpy()
        for name, value in trunk_of(model).items()
        if "running" not in name
    }
    path.write_bytes(pickle.dumps({"model": arrays}))
    load_initial_weights(model)
    image = torch.rand(3, 32, 32)
    mean = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    x = torch.nn.functional.conv2d(
        (255 * image.flip(0) - mean)[None], torch.tensor(arrays["stem.conv1.weight"]), stride=2, padding=3
    )
    scale, shift = (
        torch.tensor(arrays[f"stem.conv1.norm.{end}"])[:, None, None] for end in ("weight", "bias")
    )
    seen: list[Tensor] = []
    model.backbone.body.bn1.register_forward_hook(lambda *arguments: seen.append(arguments[2].clone()))  # type: ignore
    model.eval().predict([image], [(32, 32)])
    torch.testing.assert_close(seen[0], x * scale + shift, rtol=1e-4, atol=1e-1)
    bottleneck = model.backbone.body.layer2[0]  # type: ignore[union-attr, index]
    assert (bottleneck.conv1.stride, bottleneck.conv2.stride) == ((2, 2), (1, 1))


def test_coco_weights_in_torchvisions_published_layout_are_read(tmp_path: Path) -> None:
    """The file on the hub has the names of 2019; layers for its 91 classes are not taken."""
    published = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = published.state_dict()
    old = {
        name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        .replace("roi_heads.mask_head.0.0.", "roi_heads.mask_head.mask_fcn1.")
        .replace("_blocks.2.0.", "_blocks.2."): value
        for name, value in state.items()
    }
    torch.save(old, tmp_path / "coco.pth")
    sizes = {
        "width": 1.0,
        "fpn_channels": 256,
        "box_head_width": 1024,
        "mask_channels": 256,
        "mask_layers": 4,
    }
    model = from_file("torchvision", "coco", tmp_path / "coco.pth", **sizes, **RESNET50)
    load_initial_weights(model)
    own = model.state_dict()
    different = {name for name, value in own.items() if name not in state or not value.equal(state[name])}
    assert {name.rsplit(".", 1)[0] for name in different} == {
        "classifiers.0.linear",
        "roi_heads.box_regressor",
        "roi_heads.mask_predictor.mask_fcn_logits",
    }
    assert model.initial_weights["initial_weights_share"] == 1


LAYOUTS = {"mmdet": MMDET, "mmdet_v1": MMDET_V1, "detectron2": DETECTRON2}


@pytest.mark.parametrize("form", ["mask_rcnn", "cascade_mask_rcnn", "htc with stuff"])
@pytest.mark.parametrize("layout", LAYOUTS)
@each_backend
def test_coco_weights_of_the_model_zoos_are_read(
    backend: str, layout: str, form: str, tmp_path: Path
) -> None:
    """All but what is of COCO's categories. Also of MMDetection 1 (rows 17, 21 and 23 of the BAGS table).

    There the offsets of deformable convolutions have other names.
    """
    if ("htc" in form and backend != "mmdet") or {backend, layout} in (
        {"mmdet", "detectron2"},
        {"detectron2", "mmdet_v1"},
    ):
        pytest.skip("the back end has no such form, or takes no such files")
    changes = RESNET50 | FORMS[form] | ({"deformable": True} if backend == "mmdet" else {})
    changes |= {"pixels": "caffe", "stride_in_1x1": True} if layout == "detectron2" else {}
    path = tmp_path / "coco.pth"
    donor = from_file(backend, "coco", path, **changes)
    naming = f"{backend} cascade" if donor.settings.box_head_count > 1 else backend
    state = {}
    for name, value in donor.state_dict().items():
        theirs = LAYOUTS[layout].theirs(name, naming)
        assert theirs is not None
        if layout == "mmdet_v1":
            theirs = theirs.replace(".conv2.conv_offset.", ".conv2_offset.")
        classes = re.search("fc_cls|cls_score|conv_logits|predictor|fc_reg|bbox_pred", theirs)
        if classes and "semantic" not in theirs and len(value) not in (1, 4):
            value = torch.zeros(80 * len(value), *value.shape[1:])
        state[theirs] = value + 1
    torch.save({"meta": {"epoch": 12}, "state_dict": state}, path)
    torch.manual_seed(9)
    model = from_file(backend, "coco", path, **changes)
    load_initial_weights(model)
    before, after = donor.state_dict(), model.state_dict()
    taken = {name for name in after if after[name].equal(before[name] + 1)}
    others = {
        re.sub(r"\.\d\.|\.(weight|bias)$", ".", name) for name in after.keys() - taken if not is_counter(name)
    }
    last = (
        "classifiers",
        "mask_predictor.mask_fcn",
        "conv_logits",
        "predictor.",
        "regressor",
        "fc_reg",
        "bbox_pred",
    )
    assert all(any(part in name for part in last) for name in others), others
    assert any("classifiers" in name for name in others)
    assert model.initial_weights["initial_weights_share"] == 1


@each_backend
def test_weights_that_fit_in_part_are_refused(backend: str, tmp_path: Path) -> None:
    """A trunk's weights for a whole detector, another depth, and a file of something else."""
    path = tmp_path / "weights.pth"
    torch.save(resnet18().state_dict(), path)
    for init, changes, named in (
        ("coco", {"width": 1.0}, r"coco weights fill \d+%"),
        ("imagenet", {"width": 0.5}, r"imagenet weights fill \d+%"),
        ("imagenet", RESNET50, r"imagenet weights fill \d+%"),
    ):
        model = from_file(backend, init, path, **changes)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(BenchmarkError, match=named):
            load_initial_weights(model)
        assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    torch.save({"something": torch.zeros(3)}, path)
    with pytest.raises(BenchmarkError, match="fill 0%"):
        load_initial_weights(from_file(backend, "imagenet", path))


@each_backend
def test_weights_belong_to_their_initialisation(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preset with a COCO file still starts from ImageNet if a row asks for it."""
    asked: list[str] = []
    torch.save(resnet18().state_dict(), tmp_path / "resnet18.pth")

    def fetched(url: str, **_: Any) -> dict[str, Tensor]:
        asked.append(url)
        return dict(resnet18().state_dict())

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetched)
    model = detector(backend, init="imagenet", weights={"coco": "data/weights/coco.pth"}, width=1.0)
    load_initial_weights(model)
    assert len(asked) == 1
    assert "resnet18" in asked[0]
    none = detector(backend, init="none", weights={"coco": "data/weights/coco.pth"})
    load_initial_weights(none)
    assert none.initial_weights == {}


def test_msra_weights_are_fetched_from_detectron2s_zoo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once; the file is read as data."""
    asked: list[str] = []

    def fetched(url: str, place: str) -> None:
        asked.append(url)
        Path(place).write_bytes(pickle.dumps({"model": arrays}))

    model = detector("torchvision", init="imagenet", pixels="caffe", stride_in_1x1=True, **RESNET50)
    arrays = {
        as_detectron2(name): np.asarray(value)
        for name, value in trunk_of(model).items()
        if "running" not in name
    }
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetched)
    for _ in range(2):
        load_initial_weights(model)
    assert asked == [initial_weights.MSRA.format(50)]
    assert model.initial_weights["initial_weights"] == asked[0]


@each_backend
def test_weights_that_cannot_be_had_are_one_clear_error(backend: str, tmp_path: Path) -> None:
    for settings, named in (
        ({"init": "coco"}, "no COCO weights|come from a file"),
        (
            {"init": "imagenet", "weights": {"imagenet": str(tmp_path / "no.pth")}},
            "cannot read the initial weights",
        ),
        ({"init": "imagenet", "pixels": "caffe2"}, "come from a file"),
    ):
        with pytest.raises(MissingDependencyError, match=named):
            load_initial_weights(detector(backend, **settings))


def test_a_file_with_orders_in_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": {"stem.conv1.weight": Path("somewhere")}}))
    model = from_file("torchvision", "imagenet", path)
    with pytest.raises(MissingDependencyError, match="an instruction to import"):
        load_initial_weights(model)


def test_a_released_v1_state_is_complete() -> None:
    """It has the names that the tests of importing use."""
    state = released.released_state("mmdet_v1", 80, 81, form="htc")
    assert {name.partition(".")[0] for name in state} >= {
        "backbone",
        "neck",
        "rpn_head",
        "bbox_head",
        "mask_head",
    }
