"""Typed models of everything that is written in YAML, and of a fully resolved run."""

from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.schedules import expanded
from benchmark.recipes.strict import Strict

Seed = Annotated[int, Field(ge=0)]


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
    precision: Literal["fp32", "tf32", "bf16-mixed"] = Field(
        "fp32",
        description="arithmetic of forward and backward; tf32: float32 products of a GPU rounded to TF32",
    )
    checkpoint_every: int = Field(1000, gt=0, description="iterations between checkpoints for resuming")

    @model_validator(mode="after")
    def _one_length(self) -> "Schedule":
        if (self.iterations is None) == (self.epochs is None):
            raise ValueError("give exactly one of iterations and epochs")
        return self

    @property
    def images_per_step(self) -> int:
        """Over all processes."""
        return self.batch_size or self.reference_batch_size


class Sampler(Strict):
    """Which training images a stage sees how often."""

    kind: str = Field(
        "uniform",
        pattern=r"^(uniform|repeat_factor|repeat_factor_ceiling|repeat_factor_plus_one|[\w.]+:\w+)$",
        description="`uniform` shuffling; repeat factors rounded by chance anew in every epoch "
        "(`repeat_factor`), rounded up (`repeat_factor_ceiling`), or rounded up and one more "
        "(`repeat_factor_plus_one`); or module:function of a method's own, from the labels of all images to "
        "a stream of them",
    )
    threshold: float = Field(
        0.001, gt=0, le=1, description="image frequency below which repeat factors repeat a category"
    )
    options: dict[str, Any] = Field({}, description="keyword arguments of a function")

    @model_validator(mode="after")
    def _options_of_functions(self) -> "Sampler":
        if self.options and ":" not in self.kind:
            raise ValueError(f"options are those of a function; sampler '{self.kind}' has none")
        return self


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


def _or_a_name(schema: dict[str, Any]) -> None:
    """The two short forms of a schedule, which are expanded before it is read."""
    like = {"type": "object", "properties": {"like": {"type": "string"}}, "required": ["like"]}
    schema["anyOf"] = [{"type": "string"}, like, *schema["anyOf"]]


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
    schedule: Schedule | None = Field(
        None,
        description="length and optimiser of a train stage: a name of workflows/schedules.yaml, such a name "
        "as `like` with the keys that differ, or all keys",
        json_schema_extra=_or_a_name,
    )
    sampler: Sampler | None = Field(None, description="image sampler; default: the method's")
    meta: Meta | None = Field(None, description="step before every real one, where the classifier trains")
    images_per_worker: int | None = Field(
        None,
        gt=0,
        description="images of one worker of the release: losses, and what they draw, are of so many images "
        "and then averaged, whatever runs here; default: the whole batch",
    )
    cascade_weights: list[float] | None = Field(
        None,
        min_length=3,
        max_length=3,
        description="of the losses of a cascade's heads; default: 1, 0.5, 0.25; in detectron2's kind 1 each",
    )
    annotations: AnnotationFilter | None = Field(
        None, description="a part of the training annotations; default: all"
    )
    rois: str | None = Field(
        None,
        pattern=r"^[\w.]+:\w+$",
        description="module:function that chooses among the sampled RoIs of a step, given the category that "
        "each image was drawn for, where the classifier trains; for samplers that draw images for categories",
    )
    function: str | None = Field(None, description="module:function of a fit or transform stage")
    options: dict[str, Any] = Field({}, description="keyword arguments of that function")

    _expanded = field_validator("schedule", mode="before")(expanded)

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


class Deviation(Strict):
    """Something in which a row still differs from what made the published number that it answers to. It
    enters no key: what is made does not depend on what is said about it."""

    what: str = Field(min_length=1, description="the thing that differs, e.g. the initial weights")
    upstream: str = Field(min_length=1, description="how it was for the published number")
    here: str = Field(min_length=1, description="how it is here")
    effect: list[float] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="points of AP, from and to, by which it may move our number; default: unknown",
    )
    source: str = Field(min_length=1, description="where that effect is from: measured, a paper, a guess")

    @model_validator(mode="after")
    def _from_low_to_high(self) -> "Deviation":
        if self.effect is not None and self.effect[0] > self.effect[1]:
            raise ValueError(f"effect goes from the lower to the higher number, not {self.effect}")
        return self


class Variant(Strict):
    """Differences from a method's main form; keys have the method's meaning and are merged over it."""

    title: str | None = Field(None, description="name in tables")
    classifier: str | None = Field(None, description="module:Class that replaces the classifier")
    options: dict[str, Any] = Field({}, description="classifier options that change")
    detector: dict[str, Any] = Field({}, description="detector settings that change")
    stages: list[Stage] | None = Field(None, description="replaces the list of stages")
    sampler: Sampler | None = Field(None, description="replaces the image sampler")
    test: dict[str, Any] = Field({}, description="test settings that change")
    deviations: list[Deviation] | None = Field(None, description="replaces the method's deviations")


class Method(Strict):
    """The manifest ``method.yaml`` of a plug-in."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="name in recipes; equals the folder's name")
    title: str = Field(description="name in tables")
    paper: Paper = Field(Paper(), description="publication")
    classifier: str = Field(pattern=r"^[\w.]+:\w+$", description="module:Class of the classifier")
    options: dict[str, Any] = Field({}, description="keyword arguments of the classifier")
    intermediates: list[Literal["groups", "class_weights"]] = Field(
        [],
        description="tables that the classifier reads from the dataset's intermediate files, each as the "
        "keyword argument of that name; groups are those between the option edges",
    )
    detector: dict[str, Any] = Field({}, description="detector settings that the method prescribes")
    stages: list[Stage] = Field(
        min_length=1, description="steps from initial weights to the final checkpoint"
    )
    sampler: Sampler = Field(Sampler(), description="image sampler of the train stages")
    own_loss: bool = Field(
        True,
        description="false for plain softmax: where all parameters train, its rows are the baseline, or of a "
        "sampler if the images are not simply shuffled",
    )
    test: TestSettings = Field(TestSettings(), description="test settings")
    deviations: list[Deviation] = Field(
        [], description="from the release, in every row of the method that answers to a published number"
    )
    variants: dict[str, Variant] = Field({}, description="named differences, e.g. ablations")


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
    categories: int = Field(40, ge=3, le=1203, description="number of categories; at most 200 without counts")
    seed: int = Field(0, ge=0, description="seed of every draw")
    counts: Literal["lvis_v1"] | None = Field(
        None,
        description="lvis_v1: its 1203 categories with their counts, scaled by the number of images, "
        "its federated lists and crowds; default: the shape of its tail alone",
    )

    @model_validator(mode="after")
    def _as_many_as_counted(self) -> "Synthetic":
        if self.counts is None and self.categories > 200:
            raise ValueError("more than 200 categories need counts: lvis_v1")
        if self.counts is not None and self.categories != 1203:
            raise ValueError("counts lvis_v1 are of 1203 categories")
        return self


class Archive(Strict):
    """A file on the web."""

    url: str = Field(pattern=r"^https?://", description="address")
    name: str | None = Field(None, description="file name; default: the last part of the address")
    bytes: int | None = Field(None, gt=0, description="size; default: not known")
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{8,64}$", description="checksum, or its first digits; default: not known"
    )

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


class Subset(Strict):
    """How a dataset is drawn from another one; same values and same source, same bytes."""

    of: str = Field(description="the dataset, by the name of its file beside this one or in the project")
    train_images: int = Field(gt=0, description="training images")
    val_images: int = Field(gt=0, description="validation images")
    categories: int | None = Field(
        None, gt=0, description="how many are kept, evenly over their frequencies; default: all"
    )
    keep: list[str] = Field([], description="only these categories, by name or id; default: all")
    drop: list[str] = Field([], description="without these categories, by name or id")
    seed: Seed = Field(0, description="seed of the draw")


class Dataset(Strict):
    """A dataset: where its splits lie, or how it is generated."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_.]*$", description="name in recipes; equals the file's name")
    title: str = Field(description="name in tables")
    categories: int = Field(gt=0, description="number of categories; checked against the annotations")
    synthetic: Synthetic | None = Field(None, description="generate the dataset with these sizes")
    train: Split | None = Field(None, description="training split; its counts define frequency")
    val: Split | None = Field(None, description="validation split")
    subset: Subset | None = Field(None, description="longtail data prepare draws both splits from another")
    vocabulary: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="hash of the categories' ids and names, checked by longtail data prepare",
    )
    files: list[DataFile] = Field([], description="what longtail data prepare gets and checks")
    paper: Paper = Field(Paper(), description="publication to cite")
    _whole: "Dataset | None" = PrivateAttr(None)

    @property
    def whole(self) -> "Dataset | None":
        """The dataset that a subset is drawn from, where this one was read from its file."""
        return self._whole

    def drawn_from(self, whole: "Dataset") -> "Dataset":
        """This subset, knowing the whole."""
        known = self.model_copy()
        known._whole = whole
        return known

    def is_of_stuff(self, file: DataFile) -> bool:
        """Whether a file is of the stuff maps, which only detectors with a semantic branch need."""
        folder = self.train.stuff_maps if self.train is not None else None
        return folder is not None and f"{file.path}/".startswith(f"{folder}/")

    @model_validator(mode="after")
    def _source(self) -> "Dataset":
        if (self.synthetic is None) != (self.train is not None and self.val is not None):
            raise ValueError("give either synthetic, or both train and val")
        if self.subset is not None and (self.synthetic is not None or self.files):
            raise ValueError("a subset is drawn: it has neither synthetic nor files")
        return self

    @property
    def is_preparable(self) -> bool:
        """Whether ``longtail data prepare`` knows where its files come from; else they are the user's own."""
        return self.subset is not None or bool(self.files)


class Budget(Strict):
    """One schedule for all runs, for example one that they can afford: settings merged over those of every
    stage that trains the same part. A budget changes lengths, rates and images, never the code path."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="first folder of the runs' paths")
    title: str = Field("", description="what it fits, e.g. two cores and eight minutes")
    answers: str | None = Field(
        None,
        description="PAPER of results/reported/reported.csv whose schedule this is: rows that answer to it "
        "are compared with its numbers; default: a budget's rows are compared with none",
    )
    all: dict[str, Any] = Field(
        {},
        description="schedule settings of stages that train all parameters; `like` begins with a schedule of "
        "workflows/schedules.yaml",
    )
    classifier: dict[str, Any] = Field(
        {}, description="schedule settings of stages that train the classifier"
    )
    sampler: dict[str, Any] = Field(
        {},
        description="settings of repeat-factor samplers, e.g. the threshold; with `kind`, the sampler of all "
        "train stages. A method's own sampler stays, and takes the settings that it has as options",
    )
    fit: dict[str, Any] = Field(
        {}, description="options of fit stages that state them, e.g. how many images they look at"
    )

    _expanded = field_validator("all", "classifier", mode="before")(expanded)


class ReleasedFile(Strict):
    """An intermediate file of a release."""

    file: str = Field(
        pattern=r"^[\w.][\w./-]*$", description="path relative to the data folder; its name is the release's"
    )
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="checksum; default: not checked")


Released = dict[Literal["groups", "group_weights", "class_weights"], ReleasedFile]


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
    deviations: list[Deviation] = Field(
        [], description="from what made the published number, besides those of the method and of its bases"
    )

    options: dict[str, Any] = Field(
        {}, description="options of the method that this row changes, for other data for example"
    )
    sweep: dict[str, Annotated[list[Any], Field(json_schema_extra={"minItems": 2})]] = Field(
        {},
        description="values of options, two or more of each: the row stands for one row for every value, or "
        "every combination where there are several keys, named `ID,KEY=VALUE`",
    )
    released: Released = Field(
        {},
        description="files of the BAGS release in the place of our intermediate files: label2binlabel.pt as "
        "groups, bins_cls_weight.pkl as group_weights, one of its cls_weight*.pt as class_weights",
    )

    @model_validator(mode="after")
    def _deviates_from_something(self) -> "Row":
        if self.deviations and self.reported is None:
            raise ValueError("deviations are from a published number: they need the key 'reported'")
        return self

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
    like: str | None = Field(
        None,
        description="an experiment, by the name of its file beside this one or in the project, whose keys "
        "hold here as far as this file does not write them; with another budget its rows answer to no "
        "published number",
    )
    without: list[str] = Field(
        [], description="with `like`: rows of that experiment that are left out, by id"
    )
    budget: str | None = Field(None, description="budget for every row; default: the papers' own schedules")
    method_paths: list[str] = Field([], description="folders with further plug-ins, relative to this file")
    dataset_paths: list[str] = Field([], description="folders with further datasets, relative to this file")
    group_by: Literal["touches"] | None = Field(
        None,
        description="`touches`: rows stand in groups by what their method changes (baseline, loss, "
        "decoupled, post-hoc, sampler), in each in the order of this file; default: one list",
    )
    metrics: list[Literal["AP50", "AP75", "bAP", "AP-fixed", "ECE"]] = Field(
        [], description="further columns of the tables, after AP, APr, APc and APf"
    )
    rows: list[Row] = Field([], description="rows in table order; required but with `like`")

    @model_validator(mode="after")
    def _rows_or_like(self) -> "Experiment":
        if not self.rows and self.like is None:
            raise ValueError("an experiment needs the key 'rows', or 'like' for those of another one")
        if self.without and (self.like is None or self.rows):
            raise ValueError("'without' leaves out rows of 'like', where the file has no 'rows' of its own")
        return self


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
    detector: DetectorSettings
    dataset: Dataset
    stages: list[Stage]
    base: "Run | None"
    test: TestSettings
    plugin_path: str
    row_options: dict[str, Any] = Field({})
    intermediates: list[str] = Field([])
    released: Released = Field({})
