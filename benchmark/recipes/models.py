"""Typed models of everything that is written in YAML, and of a fully resolved run."""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seed = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """A model that refuses unknown keys and does not change after it was made."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Schedule(Strict):
    """How long and with which optimiser a stage trains. Iteration counts and the learning rate hold at the
    reference batch size; another ``batch_size`` scales the rate linearly and iterations inversely."""

    iterations: int | None = Field(None, gt=0, description="length in iterations; give this or epochs")
    epochs: float | None = Field(None, gt=0, description="length in passes over the training images")
    reference_batch_size: int = Field(16, gt=0, description="images per step that learning_rate is meant for")
    batch_size: int | None = Field(
        None, gt=0, description="images per step over all processes; default: the reference"
    )
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="update rule")
    learning_rate: float = Field(gt=0, description="base learning rate at the reference batch size")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd; ignored by adamw")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay of weights and biases")
    norm_weight_decay: float = Field(0.0, ge=0, description="weight decay of normalisation layers")
    warmup_iterations: int = Field(0, ge=0, description="iterations of linear warm-up")
    warmup_factor: float = Field(0.001, ge=0, le=1, description="fraction of the rate at the first iteration")
    decay: Literal["step", "cosine"] = Field("step", description="how the rate falls after the warm-up")
    steps: list[float] = Field(
        [], description="where decay=step multiplies by gamma, in the unit of the length"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each step")
    clip_norm: float | None = Field(None, gt=0, description="gradients are clipped to this L2 norm")
    precision: Literal["fp32", "bf16-mixed"] = Field("fp32", description="arithmetic of forward and backward")
    checkpoint_every: int = Field(1000, gt=0, description="iterations between checkpoints for resuming")

    @model_validator(mode="after")
    def _one_length(self) -> "Schedule":
        if (self.iterations is None) == (self.epochs is None):
            raise ValueError("give exactly one of iterations and epochs")
        return self


class Sampler(Strict):
    """Which training images a stage sees how often."""

    kind: Literal[
        "uniform",
        "repeat_factor",
        "repeat_factor_ceiling",
        "repeat_factor_plus_one",
        "class_balanced",
        "category_first",
    ] = Field(
        "uniform",
        description="uniform shuffling; repeat factors rounded by chance anew in every epoch, rounded up, or "
        "rounded up and one more; draws weighted by the rarest category of an image, 1 / (image frequency); "
        "a category drawn uniformly, then an image that contains it",
    )
    threshold: float = Field(
        0.001, gt=0, le=1, description="image frequency below which a category is repeated"
    )
    exponent: float = Field(
        0.0,
        ge=0,
        le=1,
        description="category_first draws in proportion to min(instances, 100)^exponent; 0: all alike",
    )


class AnnotationFilter(Strict):
    """Which training annotations a stage sees; all categories stay in the label space."""

    max_instance_count: int = Field(
        gt=0, description="only categories with at most so many training instances, and images with them"
    )


class Meta(Strict):
    """A step of the method before every real step of a classifier's training, with images of its own."""

    function: str = Field(pattern=r"^[\w.]+:\w+$", description="module:Class of the step")
    sampler: Sampler = Field(description="sampler of its images; as many as the training batch has")
    resample_rois: bool = Field(
        False, description="draw the RoIs of the real step anew, at the price of another pass of the detector"
    )


class Stage(Strict):
    """One step from checkpoint to checkpoint."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="folder name of the stage")
    from_: str | None = Field(
        None,
        alias="from",
        description="take the finished checkpoint of this method (METHOD or METHOD+VARIANT)",
    )
    kind: Literal["train", "fit", "transform"] = Field(
        "train", description="train: gradients; fit: one pass over the data without; transform: weights only"
    )
    trainable: Literal["all", "classifier"] = Field(
        "all", description="which parameters train; the rest is frozen"
    )
    reset: Literal["classifier"] | None = Field(None, description="what starts from a fresh initialisation")
    schedule: Schedule | None = Field(None, description="length and optimiser of a train stage")
    sampler: Sampler | None = Field(None, description="image sampler; default: the method's")
    meta: Meta | None = Field(None, description="step before every real one, where the classifier trains")
    annotations: AnnotationFilter | None = Field(
        None, description="a part of the training annotations; default: all"
    )
    rois: str | None = Field(
        None,
        pattern=r"^[\w.]+:\w+$",
        description="module:function that chooses among the sampled RoIs of a step, given the category that "
        "each image was drawn for (sampler category_first), where the classifier trains",
    )
    function: str | None = Field(None, description="module:function of a fit or transform stage")
    options: dict[str, Any] = Field({}, description="keyword arguments of that function")

    @model_validator(mode="after")
    def _complete(self) -> "Stage":
        if self.from_ is None:
            if self.kind == "train" and self.schedule is None:
                raise ValueError(f"train stage '{self.name}' needs a schedule")
            if self.kind != "train" and self.function is None:
                raise ValueError(f"{self.kind} stage '{self.name}' needs a function")
        if self.meta is not None and (self.kind, self.trainable) != ("train", "classifier"):
            raise ValueError(f"stage '{self.name}' has a meta step: it must train the classifier only")
        if self.rois is not None and (self.kind, self.trainable) != ("train", "classifier"):
            raise ValueError(f"stage '{self.name}' chooses RoIs: it must train the classifier only")
        return self


class TestSettings(Strict):
    """LVIS test protocol."""

    __test__ = False  # not a test class for pytest

    score_threshold: float = Field(1e-4, ge=0, lt=1, description="keep scores strictly above")
    nms_threshold: float = Field(
        0.5, gt=0, le=1, description="IoU of the per-category non-maximum suppression"
    )
    max_detections: int = Field(300, gt=0, description="highest scores kept in an image over all categories")
    mask_threshold: float = Field(0.5, gt=0, lt=1, description="probability from which a pixel is foreground")


class Paper(Strict):
    """Where a method or a dataset was published."""

    title: str = Field("", description="full title")
    authors: list[str] = Field([], description="full names in the order of the paper, surname last")
    venue: str = Field("", description="venue and year")
    arxiv: str | None = Field(None, description="arXiv number")
    note: str = Field("", description="what in the paper this is, where it is not its subject")


class Variant(Strict):
    """Differences from a method's main form; keys have the method's meaning and are merged over it."""

    title: str | None = Field(None, description="name in tables")
    classifier: str | None = Field(None, description="module:Class that replaces the classifier")
    options: dict[str, Any] = Field({}, description="classifier options that change")
    detector: dict[str, Any] = Field({}, description="detector settings that change")
    stages: list[Stage] | None = Field(None, description="replaces the list of stages")
    sampler: Sampler | None = Field(None, description="replaces the image sampler")
    test: dict[str, Any] = Field({}, description="test settings that change")


class Method(Strict):
    """The manifest ``method.yaml`` of a plug-in."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="name in recipes; equals the folder's name")
    title: str = Field(description="name in tables")
    paper: Paper = Field(Paper(), description="publication")
    classifier: str = Field(pattern=r"^[\w.]+:\w+$", description="module:Class of the classifier")
    options: dict[str, Any] = Field({}, description="keyword arguments of the classifier")
    detector: dict[str, Any] = Field({}, description="detector settings that the method prescribes")
    stages: list[Stage] = Field(
        min_length=1, description="steps from initial weights to the final checkpoint"
    )
    sampler: Sampler = Field(Sampler(), description="image sampler of the train stages")
    test: TestSettings = Field(TestSettings(), description="test settings")
    variants: dict[str, Variant] = Field({}, description="named differences, e.g. ablations")


HUB_COCO_BACKBONES = ("resnet50",)
"""Backbones of the Faster and Mask R-CNN for which torchvision publishes COCO weights."""


class Detector(Strict):
    """Architecture, backbone and their sizes. Defaults are those of the full-size models."""

    architecture: Literal["faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "htc"] = Field(
        description="boxes, or boxes and masks, from one stage or from a cascade of three"
    )
    backbone: Literal["resnet18", "resnet50", "resnet101", "resnext101_64x4d"] = Field(description="trunk")
    init: Literal["none", "imagenet", "coco"] = Field("imagenet", description="initial weights")
    weights: str | None = Field(None, description="local file with these weights; default: torchvision's hub")
    width: float = Field(
        1.0, gt=0, le=1, description="channel multiplier of the residual stages (resnet18 only)"
    )
    deformable: bool = Field(
        False, description="deformable 3x3 convolutions in the upper three residual stages (not resnet18)"
    )
    norm: Literal["frozen", "frozen_statistics", "batch"] = Field(
        "frozen",
        description="batch norm: all frozen, scale and shift trained on frozen statistics, or all trained",
    )
    trainable_layers: int = Field(
        3, ge=0, le=5, description="residual stages that train, counted from the top"
    )
    fpn_channels: int = Field(256, gt=0, description="channels of the feature pyramid")
    box_head_width: int = Field(1024, gt=0, description="width of the two fully connected layers")
    mask_channels: int = Field(256, gt=0, description="channels of the mask head")
    mask_layers: int = Field(4, gt=0, description="convolutions of the mask head")
    class_agnostic_boxes: bool = Field(False, description="one box regressor for all categories")
    class_agnostic_masks: bool = Field(False, description="one mask channel for all categories")
    box_regressor_init: Literal["normal", "uniform"] = Field(
        "normal",
        description="weights N(0, 0.001) and bias 0, or PyTorch's default for a linear layer",
    )
    mask_predictor: Literal["plain", "normed"] = Field(
        "plain", description="last mask layer: 1x1 convolution, or scaled cosines of features and filters"
    )
    mask_temperature: float = Field(20.0, gt=0, description="scale of the cosines of a normed mask predictor")
    semantic_branch: bool = Field(
        False, description="htc: also segment stuff; needs the stuff maps of the training images"
    )
    anchor_sizes: list[int] = Field(
        [32, 64, 128, 256, 512], min_length=5, max_length=5, description="pixels, per level"
    )
    rpn_samples: int = Field(256, gt=0, description="anchors sampled per image")
    rpn_train_proposals: int = Field(
        2000, gt=0, description="proposals kept in training, per level and in total"
    )
    rpn_test_proposals: int = Field(
        1000, gt=0, description="proposals kept in testing, per level and in total"
    )
    roi_samples: int = Field(512, gt=0, description="RoIs sampled per image")
    roi_positive_fraction: float = Field(0.25, gt=0, le=1, description="at most this fraction is foreground")
    roi_background_min_iou: float = Field(
        0.0, ge=0, lt=0.5, description="background RoIs overlap some ground truth at least so much"
    )
    smooth_l1_beta: float = Field(1.0, ge=0, description="transition point of the box loss; 0 is L1")
    train_short_edges: list[int] = Field(
        [800], min_length=1, description="short side is drawn from these, pixels"
    )
    short_edge_sampling: Literal["choice", "range"] = Field(
        "choice", description="one of train_short_edges, or any whole number from the first to the last"
    )
    test_short_edge: int = Field(800, gt=0, description="short side in testing, pixels")
    long_edge: int = Field(1333, gt=0, description="upper bound of the long side, pixels")
    train_long_edge: int | None = Field(
        None, gt=0, description="upper bound of the long side in training; default: long_edge"
    )
    flip_probability: float = Field(0.5, ge=0, le=1, description="horizontal flips in training")
    coordinates: Literal["torchvision", "mmdet_v1", "aligned"] = Field(
        "torchvision",
        description="where anchors, RoI samples and pixels lie: as in torchvision; as in mmdetection 1; or "
        "aligned, as in detectron2 and in mmdetection from 2 on",
    )
    stride_in_1x1: bool = Field(
        False,
        description="a bottleneck halves the size in its first convolution, as in the ResNets of Caffe and "
        "MSRA, instead of in its 3x3",
    )

    @property
    def masks(self) -> bool:
        """Whether it segments."""
        return self.architecture in ("mask_rcnn", "cascade_mask_rcnn", "htc")

    @property
    def stages(self) -> int:
        """Box heads, each with a classifier of its own, that refine each other's boxes."""
        return 1 if self.architecture in ("faster_rcnn", "mask_rcnn") else 3

    @model_validator(mode="after")
    def _possible(self) -> "Detector":
        if self.deformable and self.backbone == "resnet18":
            raise ValueError("resnet18 has no deformable form: its blocks lack the 3x3 bottleneck")
        if self.architecture == "htc" and self.mask_channels != self.fpn_channels:
            raise ValueError("htc adds mask features to pyramid features: mask_channels must be fpn_channels")
        if self.semantic_branch and self.architecture != "htc":
            raise ValueError(f"{self.architecture} has no semantic branch")
        return self


class Split(Strict):
    """One split of a dataset."""

    annotations: str = Field(description="LVIS-format file, relative to the data folder")
    images: str = Field(description="image folder, relative to the data folder")
    stuff_maps: str | None = Field(
        None,
        description="folder with a PNG for every image that has the stuff category of each pixel (255: none)",
    )


class Synthetic(Strict):
    """Size and seed of the generated dataset; same values, same bytes."""

    train_images: int = Field(600, gt=0, description="training images")
    val_images: int = Field(200, gt=0, description="validation images")
    image_size: int = Field(160, ge=64, description="side in pixels")
    categories: int = Field(40, ge=3, le=200, description="number of categories")
    seed: int = Field(0, ge=0, description="seed of every draw")


class Archive(Strict):
    """A zip archive on the web."""

    url: str = Field(pattern=r"^https?://", description="address")
    name: str | None = Field(None, description="file name; default: the last part of the address")
    bytes: int | None = Field(None, gt=0, description="size; default: not known")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="checksum; default: not known")

    @property
    def file_name(self) -> str:
        """The name that it is kept under."""
        return self.name or self.url.rsplit("/", 1)[-1]


class Subsample(Strict):
    """How COCO-LT's training file is made where the authors' own is not at hand."""

    source: str = Field(description="COCO's training file, relative to the data folder")
    counts: str = Field(description="table of class statistics to draw down to, beside the dataset's file")
    official: str = Field(
        description="the authors' file, used where it is there; relative to the data folder"
    )
    seed: Seed = Field(0, description="seed of the draw")


class DataFile(Strict):
    """An annotation file (``.json``) or a folder of images that must be there."""

    path: str = Field(pattern=r"^[\w.][\w./-]*$", description="place relative to the data folder")
    images: int | None = Field(None, gt=0, description="image records or image files; default: not known")
    annotations: int | None = Field(None, gt=0, description="annotation records; default: not known")
    archive: Archive | None = Field(None, description="where it can be fetched")
    subsample: Subsample | None = Field(None, description="how it is rebuilt")


class Dataset(Strict):
    """A dataset: where its splits lie, or how it is generated."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_.]*$", description="name in recipes; equals the file's name")
    title: str = Field(description="name in tables")
    categories: int = Field(gt=0, description="number of categories; checked against the annotations")
    synthetic: Synthetic | None = Field(None, description="generate the dataset with these sizes")
    train: Split | None = Field(None, description="training split; its counts define frequency")
    val: Split | None = Field(None, description="validation split")
    vocabulary: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="hash of the categories' ids and names, checked by longtail data prepare",
    )
    files: list[DataFile] = Field([], description="what longtail data prepare gets and checks")
    paper: Paper = Field(Paper(), description="publication to cite")

    def is_of_stuff(self, file: DataFile) -> bool:
        """Whether a file is of the stuff maps, which only detectors with a semantic branch need."""
        folder = self.train.stuff_maps if self.train is not None else None
        return folder is not None and f"{file.path}/".startswith(f"{folder}/")

    @model_validator(mode="after")
    def _source(self) -> "Dataset":
        if (self.synthetic is None) != (self.train is not None and self.val is not None):
            raise ValueError("give either synthetic, or both train and val")
        return self


class Budget(Strict):
    """How much a run may cost: schedule settings merged over those of every stage that trains the same part.
    A budget shrinks schedules, never the code path."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="first folder of the runs' paths")
    title: str = Field("", description="what it fits, e.g. two cores and eight minutes")
    all: dict[str, Any] = Field({}, description="schedule settings of stages that train all parameters")
    classifier: dict[str, Any] = Field(
        {}, description="schedule settings of stages that train the classifier"
    )
    sampler: dict[str, Any] = Field({}, description="settings of repeat-factor samplers, e.g. the threshold")


class Row(Strict):
    """One row of a results table."""

    id: str = Field(pattern=r"^[\w.-]+$", description="row name, unique in the experiment")
    method: str = Field(description="METHOD or METHOD+VARIANT")
    detector: str = Field(description="BACKEND/PRESET")
    dataset: str = Field(description="dataset name")
    seeds: list[Seed] = Field([0], min_length=1, description="one run for each, from 0, each once")
    reported: str | None = Field(
        None, description="PAPER/ROW of results/reported/reported.csv that it answers to"
    )

    @model_validator(mode="after")
    def _each_seed_once(self) -> "Row":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"a seed stands twice in seeds {self.seeds}: one run would count as several")
        return self


class Experiment(Strict):
    """The rows of one results table."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]*$", description="name of the output folder; equals the file's name"
    )
    title: str = Field(description="heading of the table")
    budget: str | None = Field(None, description="budget for every row; default: the papers' own schedules")
    method_paths: list[str] = Field([], description="folders with further plug-ins, relative to this file")
    dataset_paths: list[str] = Field([], description="folders with further datasets, relative to this file")
    rows: list[Row] = Field(min_length=1, description="rows in table order")


class Run(Strict):
    """A fully resolved recipe: the unit of reproducibility."""

    row: str
    title: str
    method: str
    variant: str | None
    detector_name: str
    dataset_name: str
    budget: str
    seed: int
    classifier: str
    options: dict[str, Any]
    detector: Detector
    dataset: Dataset
    stages: list[Stage]
    base: "Run | None"
    test: TestSettings
    plugin_path: str

    def digest(self, step: str) -> str:
        """16 hexadecimal digits that change exactly when the result of a step may change.

        ``step`` is a stage's name or ``predict``. What comes later (test settings for a training stage) and
        what only labels the run (row, title, where the plug-in lies, papers) does not enter.
        """
        labels = {"row", "title", "plugin_path"}
        content = self.model_dump(
            mode="json",
            exclude={
                **dict.fromkeys(labels | {"base", "stages", "test"}, True),
                "dataset": {"files", "vocabulary", "paper"},  # where files come from, whom to cite
            },
        )
        names = [stage.name for stage in self.stages]
        last = names.index(step) if step in names else len(names) - 1
        content["stages"] = [stage.model_dump(mode="json") for stage in self.stages[: last + 1]]
        if self.base is not None:
            content["base"] = self.base.digest(self.base.stages[-1].name)
        if step == "predict":
            content["test"] = self.test.model_dump(mode="json")
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
