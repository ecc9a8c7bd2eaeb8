"""Mask R-CNN as mmdetection 1, mmdetection 2 and detectron2 have it: names, shapes and arithmetic.

In both mmdetections also as a cascade of three heads, ``cascade``, and as a hybrid task cascade with its
semantic branch, ``htc``; these regress boxes for all categories alike.

Written from the frameworks' conventions and from nothing of this project: the state dicts that the tests of
importing start from, and what these weights are to detect. One image at a time, a narrow ResNet-50 with FPN.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = (3, 4, 6, 3)
CHANNELS, WIDTH, BASE = 16, 32, 8  # of the pyramid, of the box head, of the first layer's bottlenecks
STRIDES = (4, 8, 16, 32, 64)
PROPOSALS = 30
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
STUFF = 183  # categories of the semantic branch
RGB_MEAN = torch.tensor([123.675, 116.28, 103.53])
RGB_STD = torch.tensor([58.395, 57.12, 57.375])


BOX_HEADS = {"mask_rcnn": 1, "cascade": 3, "htc": 3}


def names(framework: str, form: str = "mask_rcnn") -> dict[str, str]:
    """The framework's names of the parts outside the backbone; ``@0`` after those of a cascade's heads."""
    if framework == "detectron2":
        return {
            **{f"lateral{i}": f"backbone.fpn_lateral{i + 2}" for i in range(4)},
            **{f"output{i}": f"backbone.fpn_output{i + 2}" for i in range(4)},
            "rpn": "proposal_generator.rpn_head.conv",
            "objectness": "proposal_generator.rpn_head.objectness_logits",
            "anchor_deltas": "proposal_generator.rpn_head.anchor_deltas",
            "fc1": "roi_heads.box_head.fc1",
            "fc2": "roi_heads.box_head.fc2",
            "classes": "roi_heads.box_predictor.cls_score",
            "deltas": "roi_heads.box_predictor.bbox_pred",
            **{f"mask{i}": f"roi_heads.mask_head.mask_fcn{i + 1}" for i in range(4)},
            "deconv": "roi_heads.mask_head.deconv",
            "mask": "roi_heads.mask_head.predictor",
        }
    roi = "" if framework == "mmdet_v1" else "roi_head."
    found = {
        **{f"lateral{i}": f"neck.lateral_convs.{i}.conv" for i in range(4)},
        **{f"output{i}": f"neck.fpn_convs.{i}.conv" for i in range(4)},
        "rpn": "rpn_head.rpn_conv",
        "objectness": "rpn_head.rpn_cls",
        "anchor_deltas": "rpn_head.rpn_reg",
        **{f"semantic_lateral{i}": f"{roi}semantic_head.lateral_convs.{i}.conv" for i in range(5)},
        **{f"semantic{i}": f"{roi}semantic_head.convs.{i}.conv" for i in range(4)},
        "embedding": f"{roi}semantic_head.conv_embedding.conv",
        "stuff": f"{roi}semantic_head.conv_logits",
    }
    for head in range(BOX_HEADS[form]):
        end, number = ("", "") if form == "mask_rcnn" else (f"@{head}", f".{head}")
        found |= {
            f"fc1{end}": f"{roi}bbox_head{number}.shared_fcs.0",
            f"fc2{end}": f"{roi}bbox_head{number}.shared_fcs.1",
            f"classes{end}": f"{roi}bbox_head{number}.fc_cls",
            f"deltas{end}": f"{roi}bbox_head{number}.fc_reg",
            **{f"mask{i}{end}": f"{roi}mask_head{number}.convs.{i}.conv" for i in range(4)},
            f"flow{end}": f"{roi}mask_head{number}.conv_res.conv",
            f"deconv{end}": f"{roi}mask_head{number}.upsample",
            f"mask{end}": f"{roi}mask_head{number}.conv_logits",
        }
    return found


def norm_name(framework: str, convolution: str) -> str:
    """The batch norm behind a convolution of the backbone."""
    if framework == "detectron2":
        return f"{convolution}.norm"
    if convolution.endswith("downsample.0"):
        return convolution.removesuffix("0") + "1"
    return convolution.replace("conv", "bn")


def blocks(framework: str) -> list[tuple[str, str | None]]:
    """Names of the residual blocks and of their shortcuts' convolutions, from the first residual layer on."""
    found: list[tuple[str, str | None]] = []
    for layer, count in enumerate(BLOCKS):
        for number in range(count):
            if framework == "detectron2":
                block = f"backbone.bottom_up.res{layer + 2}.{number}"
                shortcut = f"{block}.shortcut"
            else:
                block = f"backbone.layer{layer + 1}.{number}"
                shortcut = f"{block}.downsample.0"
            found.append((block, shortcut if number == 0 else None))
    return found


def stem(framework: str) -> str:
    return "backbone.bottom_up.stem.conv1" if framework == "detectron2" else "backbone.conv1"


def released_state(
    framework: str, categories: int, logits: int, *, agnostic: bool = False, form: str = "mask_rcnn"
) -> dict[str, Tensor]:
    """A full state dict with random numbers that keep activations in a sane range.

    ``logits`` are the rows of the classifier. mmdetection 1 has box deltas and masks of background too.
    """
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}
    part = names(framework, form)

    def layer(name: str, *shape: int, bias: bool = True, scale: float = 1.0) -> None:
        fan_in = math.prod(shape[1:])
        state[f"{name}.weight"] = torch.randn(*shape) * scale * math.sqrt(2 / fan_in)
        if bias:
            state[f"{name}.bias"] = torch.randn(shape[0]) * 0.1

    def convolution(name: str, *shape: int, gain: float = 1.0) -> None:
        layer(name, *shape, bias=False)
        norm = norm_name(framework, name)
        state[f"{norm}.weight"] = gain * (1 + 0.1 * torch.randn(shape[0]))
        state[f"{norm}.bias"] = 0.1 * torch.randn(shape[0])
        state[f"{norm}.running_mean"] = 0.1 * torch.randn(shape[0])
        state[f"{norm}.running_var"] = 1 + 0.2 * torch.rand(shape[0])
        if framework != "detectron2":
            state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    convolution(stem(framework), 64, 3, 7, 7)
    if framework == "detectron2":
        state[f"{stem(framework)}.weight"] /= 58  # pixels up to 255
    ins = 64
    for (block, shortcut), width in zip(
        blocks(framework), [BASE * 2**level for level in range(4) for _ in range(BLOCKS[level])], strict=True
    ):
        convolution(f"{block}.conv1", width, ins, 1, 1)
        convolution(f"{block}.conv2", width, width, 3, 3)
        convolution(f"{block}.conv3", 4 * width, width, 1, 1, gain=0.3)
        if shortcut:
            convolution(shortcut, 4 * width, ins, 1, 1)
        ins = 4 * width
    for level in range(4):
        layer(part[f"lateral{level}"], CHANNELS, 4 * BASE * 2**level, 1, 1)
        layer(part[f"output{level}"], CHANNELS, CHANNELS, 3, 3)
    layer(part["rpn"], CHANNELS, CHANNELS, 3, 3)
    layer(part["objectness"], 3, CHANNELS, 1, 1, scale=0.1)  # mmdetection sorts by sigmoids: none may be 1
    layer(part["anchor_deltas"], 12, CHANNELS, 1, 1, scale=0.05)
    rows = 1 if agnostic else categories + (framework == "mmdet_v1")
    for head in range(BOX_HEADS[form]):
        end = "" if form == "mask_rcnn" else f"@{head}"
        layer(part[f"fc1{end}"], WIDTH, CHANNELS * 49)
        layer(part[f"fc2{end}"], WIDTH, WIDTH)
        layer(part[f"classes{end}"], logits, WIDTH, scale=0.1)
        layer(part[f"deltas{end}"], 4 * (rows if form == "mask_rcnn" else 1), WIDTH, scale=0.2)
        for number in range(4):
            layer(part[f"mask{number}{end}"], CHANNELS, CHANNELS, 3, 3)
        layer(part[f"deconv{end}"], CHANNELS, CHANNELS, 2, 2)
        layer(part[f"mask{end}"], rows, CHANNELS, 1, 1)
        if form == "htc" and (head > 0 or framework == "mmdet_v1"):
            layer(part[f"flow{end}"], CHANNELS, CHANNELS, 1, 1)
    if form == "htc":
        for level in range(5):
            layer(part[f"semantic_lateral{level}"], CHANNELS, CHANNELS, 1, 1)
        for number in range(4):
            layer(part[f"semantic{number}"], CHANNELS, CHANNELS, 3, 3)
        layer(part["embedding"], CHANNELS, CHANNELS, 1, 1)
        layer(part["stuff"], STUFF, CHANNELS, 1, 1)
    if framework == "detectron2":
        state["pixel_mean"], state["pixel_std"] = RGB_MEAN.flip(0).view(3, 1, 1), torch.ones(3, 1, 1)
        for level in range(5):
            state[f"proposal_generator.anchor_generator.cell_anchors.{level}"] = torch.zeros(3, 4)
    return state


class Reference:
    """What the weights detect under the rules of their framework.

    Boxes of mmdetection 1 end in their last pixel, so that widths are x2 - x1 + 1; ``continuous`` gives them
    as all others have them.
    """

    def __init__(
        self,
        state: dict[str, Tensor],
        framework: str,
        *,
        agnostic: bool = False,
        form: str = "mask_rcnn",
    ) -> None:
        self.state, self.framework, self.agnostic, self.form = state, framework, agnostic, form
        self.part = names(framework, form)
        self.ends = [""] if form == "mask_rcnn" else ["@0", "@1", "@2"]
        self.one = 1.0 if framework == "mmdet_v1" else 0.0

    def continuous(self, boxes: Tensor) -> Tensor:
        return boxes + boxes.new_tensor([0, 0, self.one, self.one])

    def linear(self, part: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{self.part[part]}.weight"], self.state[f"{self.part[part]}.bias"])

    def convolve(self, part: str, x: Tensor) -> Tensor:
        weight = self.state[f"{self.part[part]}.weight"]
        return F.conv2d(x, weight, self.state[f"{self.part[part]}.bias"], padding=weight.shape[-1] // 2)

    def _normed(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        norm = norm_name(self.framework, name)
        values = [self.state[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *values, eps=1e-5)

    def features(self, image: Tensor) -> list[Tensor]:
        """Five levels of an RGB image (3, H, W) with values up to 255."""
        if self.framework == "detectron2":
            x = image.flip(0) - self.state["pixel_mean"]
        else:
            x = (image - RGB_MEAN[:, None, None]) / RGB_STD[:, None, None]
        x = F.pad(x, (0, -x.shape[2] % 32, 0, -x.shape[1] % 32))[None]
        x = F.max_pool2d(self._normed(stem(self.framework), x, stride=2).relu(), 3, 2, 1)
        ends, found = [sum(BLOCKS[: i + 1]) for i in range(4)], []
        for number, (block, shortcut) in enumerate(blocks(self.framework), start=1):
            stride = 2 if shortcut and number > 1 else 1
            first = self.framework == "detectron2"  # MSRA's models have the stride in the first convolution
            y = self._normed(f"{block}.conv1", x, stride if first else 1).relu()
            y = self._normed(f"{block}.conv2", y, 1 if first else stride).relu()
            y = self._normed(f"{block}.conv3", y)
            x = (y + (self._normed(shortcut, x, stride) if shortcut else x)).relu()
            if number in ends:
                found.append(x)
        inner = [self.convolve(f"lateral{level}", x) for level, x in enumerate(found)]
        for level in (2, 1, 0):
            inner[level] = inner[level] + F.interpolate(inner[level + 1], scale_factor=2, mode="nearest")
        levels = [self.convolve(f"output{level}", x) for level, x in enumerate(inner)]
        return [*levels, F.max_pool2d(levels[-1], 1, 2)]

    def anchors(self, level: int, height: int, width: int) -> Tensor:
        """(height * width * 3, 4)."""
        stride, found = STRIDES[level], []
        for y in range(height):
            for x in range(width):
                for ratio in (0.5, 1.0, 2.0):
                    h = 8 * stride * math.sqrt(ratio)
                    w = 8 * stride / math.sqrt(ratio)
                    if self.framework == "mmdet_v1":
                        middle = 0.5 * (stride - 1)
                        box = [middle - 0.5 * (w - 1), middle - 0.5 * (h - 1)]
                        box += [middle + 0.5 * (w - 1), middle + 0.5 * (h - 1)]
                        box = [float(round(side)) for side in box]
                    else:
                        box = [-w / 2, -h / 2, w / 2, h / 2]
                    found.append([box[0] + x * stride, box[1] + y * stride])
                    found[-1] += [box[2] + x * stride, box[3] + y * stride]
        return torch.tensor(found)

    def decode(self, boxes: Tensor, deltas: Tensor, size: tuple[int, int]) -> Tensor:
        w, h = boxes[:, 2] - boxes[:, 0] + self.one, boxes[:, 3] - boxes[:, 1] + self.one
        x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        limit = math.log(1000 / 16)
        x, y = x + w * deltas[:, 0], y + h * deltas[:, 1]
        w, h = w * deltas[:, 2].clamp(-limit, limit).exp(), h * deltas[:, 3].clamp(-limit, limit).exp()
        half = 0.5 * self.one
        sides = [x - w / 2 + half, y - h / 2 + half, x + w / 2 - half, y + h / 2 - half]
        last = [size[1] - self.one, size[0] - self.one] * 2
        return torch.stack([s.clamp(0, m) for s, m in zip(sides, last, strict=True)], dim=1)

    def suppress(self, boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
        kept: list[int] = []
        area = (boxes[:, 2] - boxes[:, 0] + self.one) * (boxes[:, 3] - boxes[:, 1] + self.one)
        for index in scores.argsort(descending=True).tolist():
            best = boxes[kept]
            w = torch.minimum(best[:, 2], boxes[index, 2]) - torch.maximum(best[:, 0], boxes[index, 0])
            h = torch.minimum(best[:, 3], boxes[index, 3]) - torch.maximum(best[:, 1], boxes[index, 1])
            common = (w + self.one).clamp(min=0) * (h + self.one).clamp(min=0)
            if not bool((common > threshold * (area[kept] + area[index] - common)).any()):
                kept.append(index)
        return kept

    def proposals(self, levels: list[Tensor], size: tuple[int, int]) -> Tensor:
        boxes, scores = [], []
        for number, x in enumerate(levels):
            hidden = self.convolve("rpn", x).relu()
            score = self.convolve("objectness", hidden)[0].permute(1, 2, 0).reshape(-1)
            deltas = self.convolve("anchor_deltas", hidden)[0].permute(1, 2, 0).reshape(-1, 4)
            best = score.topk(min(PROPOSALS, len(score))).indices
            found = self.decode(self.anchors(number, *x.shape[2:])[best], deltas[best], size)
            solid = (found[:, 2:] - found[:, :2] + self.one > 0).all(dim=1)  # in mmdetection 1 all are
            found, score = found[solid], score[best][solid]
            kept = self.suppress(found, score, 0.7)
            boxes.append(found[kept])
            scores.append(score[kept])
        best = torch.cat(scores).argsort(descending=True)[:PROPOSALS]
        return torch.cat(boxes)[best]

    def pool(self, levels: list[Tensor], boxes: Tensor, side: int) -> Tensor:
        found = []
        for box in boxes:
            w, h = box[2] - box[0] + self.one, box[3] - box[1] + self.one
            level = min(max(math.floor(math.log2(math.sqrt(w * h) / 56 + 1e-6)), 0), 3)
            found.append(self._align(levels[level], STRIDES[level], box, side))
        return torch.stack(found)

    def _align(self, feature: Tensor, stride: int, box: Tensor, side: int) -> Tensor:
        w, h = box[2] - box[0] + self.one, box[3] - box[1] + self.one
        shift = 0.0 if self.framework == "mmdet_v1" else 0.5
        samples = [2, 2] if self.framework == "mmdet_v1" else [0, 0]
        grid = []
        for axis, length in ((0, w / stride), (1, h / stride)):
            count = samples[axis] or max(1, math.ceil(length / side))
            points = (torch.arange(side * count) + 0.5) * length / (side * count)
            grid.append((box[axis] / stride - shift + points, count))
        return _sampled(feature[0], *grid, side)

    def semantic(self, levels: list[Tensor]) -> Tensor | None:
        """Features of stride 8 that an HTC adds to those of RoIs."""
        if self.form != "htc":
            return None
        x = self.convolve("semantic_lateral1", levels[1]).relu()
        for level in (0, 2, 3, 4):
            found = F.interpolate(levels[level], size=x.shape[-2:], mode="bilinear", align_corners=True)
            x = x + self.convolve(f"semantic_lateral{level}", found).relu()
        for number in range(4):
            x = self.convolve(f"semantic{number}", x).relu()
        return self.convolve("embedding", x).relu()

    def pool_all(self, levels: list[Tensor], semantic: Tensor | None, boxes: Tensor, side: int) -> Tensor:
        pooled = self.pool(levels, boxes, side)
        if semantic is None:
            return pooled
        wide = torch.stack([self._align(semantic, 8, box, 14) for box in boxes])
        return pooled + F.adaptive_avg_pool2d(wide, side)

    def detect(
        self, image: Tensor, original: tuple[int, int], scores_of: Any, threshold: float, most: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes, labels (categories from 0), scores, and probabilities of masks, best first.

        ``scores_of`` turns logits, the mean over a cascade's heads, and pooled features of every head into
        scores of the categories.
        """
        size = (image.shape[1], image.shape[2])
        levels = self.features(image)
        semantic = self.semantic(levels)
        rois = self.proposals(levels, size)
        logits, pooled = [], []
        for end, stds in zip(self.ends, STDS, strict=False):
            pooled.append(self.pool_all(levels, semantic, rois, 7))
            hidden = self.linear(f"fc2{end}", self.linear(f"fc1{end}", pooled[-1].flatten(1)).relu()).relu()
            logits.append(self.linear(f"classes{end}", hidden))
            deltas = self.linear(f"deltas{end}", hidden)
            deltas = deltas * torch.tensor(stds).repeat(deltas.shape[1] // 4)
            if end != self.ends[-1]:
                rois = self.decode(rois, deltas, size)
        scores = scores_of(torch.stack(logits).mean(0), [features.flatten(1) for features in pooled])
        found = []
        for label in range(scores.shape[1]):
            column = 0 if deltas.shape[1] == 4 else label + (self.framework == "mmdet_v1")
            boxes = self.decode(rois, deltas[:, 4 * column : 4 * column + 4], size)
            # the frameworks keep empty boxes, this project does not: none can be right
            solid = (boxes[:, 2:] - boxes[:, :2] + self.one > 0.01).all(dim=1)
            above = (solid & (scores[:, label] > threshold)).nonzero().squeeze(1)
            for index in self.suppress(boxes[above], scores[above, label], 0.5):
                found.append((scores[above[index], label].item(), label, boxes[above[index]]))
        found = sorted(found, key=lambda item: -item[0])[:most]
        boxes = torch.stack([box for _, _, box in found])
        labels = torch.tensor([label for _, label, _ in found])
        factors = torch.tensor([original[1] / size[1], original[0] / size[0]] * 2)
        return (
            self.continuous(boxes * factors),
            labels,
            torch.tensor([score for score, _, _ in found]),
            self.masks(self.pool_all(levels, semantic, boxes, 14), labels),
        )

    def masks(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """Probabilities (n, M, M) of the labels' channels, the mean over a cascade's heads."""
        columns = labels * 0 if self.agnostic else labels + (self.framework == "mmdet_v1")
        found, before = [], None
        for end in self.ends:
            x = pooled if before is None else pooled + self.convolve(f"flow{end}", before).relu()
            for number in range(4):
                x = self.convolve(f"mask{number}{end}", x).relu()
            before = x if self.form == "htc" else None
            weight, bias = (self.state[f"{self.part[f'deconv{end}']}.{key}"] for key in ("weight", "bias"))
            x = self.convolve(f"mask{end}", F.conv_transpose2d(x, weight, bias, stride=2).relu())
            found.append(x[torch.arange(len(x)), columns].sigmoid())
        return torch.stack(found).mean(0)


def _sampled(feature: Tensor, x: tuple[Tensor, int], y: tuple[Tensor, int], side: int) -> Tensor:
    """Bilinear samples of (C, H, W) at positions in pixels of their middles, averaged to (C, side, side)."""

    def matrix(points: Tensor, length: int) -> Tensor:
        points = points.clamp(0, length - 1)
        low = points.floor().long()
        rows = torch.zeros(len(points), length)
        rows[torch.arange(len(points)), low] += 1 - (points - low)
        rows[torch.arange(len(points)), (low + 1).clamp(max=length - 1)] += points - low
        return rows

    columns = matrix(x[0], feature.shape[2]).reshape(side, x[1], -1).mean(1)
    rows = matrix(y[0], feature.shape[1]).reshape(side, y[1], -1).mean(1)
    return torch.einsum("iy,cyx,jx->cij", rows, feature, columns)
