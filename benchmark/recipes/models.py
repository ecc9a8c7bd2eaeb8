"""Typed models of all YAML files, and of a fully resolved run."""

from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.schedules import expanded
from benchmark.recipes.strict import Strict

Seed = Annotated[int, Field(ge=0)]


class Schedule(Strict):
    """Length and optimiser of a training. Iteration counts and the learning rate are for the reference batch
    size; another ``batch_size`` scales the rate linearly and the iterations inversely."""

    iterations: int | None = Field(None, gt=0, description="length in iterations; give this or epochs")
    epochs: float | None = Field(None, gt=0, description="length in passes over the training images")
    reference_batch_size: int = Field(
        16, gt=0, description="images per step for which learning_rate is given"
    )
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
    decay: Literal["step", "cosine"] = Field(
        "step", description="decay of the learning rate after the warm-up"
    )
    steps: list[float] = Field(
        [], description="times at which decay=step multiplies by gamma, in the unit of the length"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each step")
    clip_norm: float | None = Field(None, gt=0, description="L2 norm to which gradients are clipped")
    precision: Literal["fp32", "tf32", "bf16-mixed"] = Field(
        "fp32",
        description="arithmetic of forward and backward passes; tf32: float32 products on a GPU are rounded "
        "to TF32",
    )
    checkpoint_every: int = Field(1000, gt=0, description="iterations between checkpoints for resuming")

    @model_validator(mode="after")
    def _one_length(self) -> "Schedule":
        if (self.iterations is None) == (self.epochs is None):
            raise ValueError("give exactly one of iterations and epochs")
        return self

    @property
    def images_per_step(self) -> int:
        """Images per step over all processes."""
        return self.batch_size or self.reference_batch_size


class Sampler(Strict):
    """How often each training image occurs in a stage."""

    kind: str = Field(
        "uniform",
        pattern=r"^(uniform|repeat_factor|repeat_factor_ceiling|repeat_factor_plus_one|[\w.]+:\w+)$",
        description="`uniform` shuffling; repeat factors rounded at random in every epoch "
        "(`repeat_factor`), rounded up (`repeat_factor_ceiling`), or rounded up plus one "
        "(`repeat_factor_plus_one`); or module:function of a method, which makes a stream of images "
        "from the labels of all images",
    )
    threshold: float = Field(
        0.001, gt=0, le=1, description="image frequency below which the images of a category are repeated"
    )
    options: dict[str, Any] = Field({}, description="keyword arguments of a function")

    @model_validator(mode="after")
    def _options_of_functions(self) -> "Sampler":
        if self.options and ":" not in self.kind:
            raise ValueError(f"options are those of a function; sampler '{self.kind}' has none")
        return self


class AnnotationFilter(Strict):
    """Which training annotations a stage uses; all categories stay in the label space."""

    max_instance_count: int = Field(
        gt=0,
        description="use only categories with at most this number of training instances, and images "
        "with them",
    )


class Meta(Strict):
    """A step of the method, with its own images, before every real step of a classifier's training."""

    function: str = Field(pattern=r"^[\w.]+:\w+$", description="module:Class of the step")
    sampler: Sampler = Field(description="sampler of its images; as many as the training batch has")
    resample_rois: bool = Field(
        False, description="sample the RoIs of the real step again, which costs another pass of the detector"
    )


def _or_a_name(schema: dict[str, Any]) -> None:
    """The two short forms of a schedule, which are expanded before validation."""
    like = {"type": "object", "properties": {"like": {"type": "string"}}, "required": ["like"]}
    schema["anyOf"] = [{"type": "string"}, like, *schema["anyOf"]]


class Stage(Strict):
    """One step of a recipe, from checkpoint to checkpoint."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="folder name of the stage")
    from_: str | None = Field(
        None,
        alias="from",
        description="take the finished checkpoint of this method (METHOD or METHOD+VARIANT)",
    )
    kind: Literal["train", "fit", "transform"] = Field(
        "train",
        description="train: with gradients; fit: a pass over the data without gradients; "
        "transform: only weights",
    )
    trainable: Literal["all", "classifier"] = Field(
        "all", description="which parameters train; the rest is frozen"
    )
    reset: Literal["classifier"] | None = Field(None, description="part that is initialised again")
    schedule: Schedule | None = Field(
        None,
        description="length and optimiser of a train stage: a name in workflows/schedules.yaml, such a name "
        "as `like` with changed keys, or all keys",
        json_schema_extra=_or_a_name,
    )
    sampler: Sampler | None = Field(None, description="image sampler; default: the method's")
    meta: Meta | None = Field(
        None, description="step before every real step, for stages that train the classifier only"
    )
    images_per_worker: int | None = Field(
        None,
        gt=0,
        description="images of each worker in the release: losses and their draws are computed for this "
        "number of images and then averaged, for any number of processes; default: the whole batch",
    )
    cascade_weights: list[float] | None = Field(
        None,
        min_length=3,
        max_length=3,
        description="loss weights of a cascade's heads; default: 1, 0.5, 0.25, or 1 each in cascades of "
        "detectron2's kind",
    )
    annotations: AnnotationFilter | None = Field(
        None, description="a part of the training annotations; default: all"
    )
    rois: str | None = Field(
        None,
        pattern=r"^[\w.]+:\w+$",
        description="module:function that chooses among the sampled RoIs of a step by the category that "
        "each image was drawn for; for stages that train the classifier only, with samplers that draw "
        "images for categories",
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
    max_detections: int = Field(
        300,
        gt=0,
        description="number of detections kept in an image over all categories, highest scores first",
    )
    mask_threshold: float = Field(0.5, gt=0, lt=1, description="probability from which a pixel is foreground")


class Paper(Strict):
    """Publication of a method or a dataset."""

    title: str = Field("", description="full title")
    authors: list[str] = Field([], description="full names in the order of the paper, surname last")
    venue: str = Field("", description="venue and year")
    arxiv: str | None = Field(None, description="arXiv number")
    note: str = Field("", description="part of the paper, if the method is not its subject")


class Deviation(Strict):
    """A difference of a row from the training behind its published number. It is not part of any key, because
    results do not depend on it."""

    what: str = Field(min_length=1, description="what differs, e.g. the initial weights")
    upstream: str = Field(min_length=1, description="how it was for the published number")
    here: str = Field(min_length=1, description="how it is here")
    effect: list[float] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="lowest and highest change of our number in points of AP; default: unknown",
    )
    source: str = Field(min_length=1, description="source of the effect: measured, a paper, a guess")

    @model_validator(mode="after")
    def _from_low_to_high(self) -> "Deviation":
        if self.effect is not None and self.effect[0] > self.effect[1]:
            raise ValueError(f"effect goes from the lower to the higher number, not {self.effect}")
        return self


class Variant(Strict):
    """Differences from a method's main form; keys have the method's meaning and are merged over it."""

    title: str | None = Field(None, description="name in tables")
    classifier: str | None = Field(None, description="module:Class that replaces the classifier")
    options: dict[str, Any] = Field({}, description="changed options of the classifier")
    detector: dict[str, Any] = Field({}, description="changed settings of the detector")
    stages: list[Stage] | None = Field(None, description="replaces the list of stages")
    sampler: Sampler | None = Field(None, description="replaces the image sampler")
    test: dict[str, Any] = Field({}, description="changed test settings")
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
        description="tables that the classifier reads from the dataset's intermediate files, each passed as "
        "the keyword argument of that name; the option edges defines the groups",
    )
    detector: dict[str, Any] = Field({}, description="detector settings that the method requires")
    stages: list[Stage] = Field(
        min_length=1, description="steps from initial weights to the final checkpoint"
    )
    sampler: Sampler = Field(Sampler(), description="image sampler of the train stages")
    own_loss: bool = Field(
        True,
        description="false for plain softmax: if all parameters train, the method counts as baseline, or as "
        "a sampler if the images are not simply shuffled",
    )
    test: TestSettings = Field(TestSettings(), description="test settings")
    deviations: list[Deviation] = Field(
        [], description="deviations of every row of the method that has a published number"
    )
    variants: dict[str, Variant] = Field({}, description="named differences, e.g. ablations")


class Split(Strict):
    """One split of a dataset."""

    annotations: str = Field(description="LVIS-format file, relative to the data folder")
    images: str = Field(description="image folder, relative to the data folder")
    stuff_maps: str | None = Field(
        None,
        description="folder with a PNG for every image, with the stuff category of each pixel (255: none)",
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
    other_than: int | None = Field(
        None, gt=0, description="has none of the categories that a dataset with so many categories has"
    )

    @model_validator(mode="after")
    def _as_many_as_counted(self) -> "Synthetic":
        if self.counts is None and self.categories + (self.other_than or 0) > 200:
            raise ValueError("more than 200 categories, with those of other_than, need counts: lvis_v1")
        if self.counts is not None and self.other_than:
            raise ValueError("counts lvis_v1 are of all categories, so there is no other_than")
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
        """The name of the stored file."""
        return self.name or self.url.rsplit("/", 1)[-1]


class Subsample(Strict):
    """How COCO-LT's training file is made if the authors' own file is not available."""

    source: str = Field(description="COCO's training file, relative to the data folder")
    counts: str = Field(
        description="table of class statistics with the counts to draw, beside the dataset's file"
    )
    official: str = Field(description="the authors' file, used if it exists; relative to the data folder")
    seed: Seed = Field(0, description="seed of the draw")


class DataFile(Strict):
    """An annotation file (``.json``) or a folder of images that the dataset needs."""

    path: str = Field(pattern=r"^[\w.][\w./-]*$", description="path relative to the data folder")
    images: int | None = Field(None, gt=0, description="image records or image files; default: not known")
    annotations: int | None = Field(None, gt=0, description="annotation records; default: not known")
    archive: Archive | None = Field(None, description="where it can be downloaded")
    subsample: Subsample | None = Field(None, description="how it is rebuilt")


class Subset(Strict):
    """How a dataset is drawn from another one; same values and same source, same bytes."""

    of: str = Field(description="the dataset, by the name of its file beside this one or in the project")
    train_images: int = Field(gt=0, description="training images")
    val_images: int = Field(gt=0, description="validation images")
    categories: int | None = Field(
        None,
        gt=0,
        description="number of categories to keep, spread evenly over the frequencies; default: all",
    )
    keep: list[str] = Field([], description="only these categories, by name or id; default: all")
    drop: list[str] = Field([], description="without these categories, by name or id")
    seed: Seed = Field(0, description="seed of the draw")


class Dataset(Strict):
    """A dataset: the files of its splits, or how it is generated."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_.]*$", description="name in recipes; equals the file's name")
    title: str = Field(description="name in tables")
    categories: int = Field(gt=0, description="number of categories; checked against the annotations")
    synthetic: Synthetic | None = Field(None, description="generate the dataset with these sizes")
    train: Split | None = Field(None, description="training split; its counts define the frequency groups")
    val: Split | None = Field(None, description="validation split")
    subset: Subset | None = Field(
        None, description="longtail data prepare draws both splits from another dataset"
    )
    vocabulary: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="hash of the categories' ids and names, checked by longtail data prepare",
    )
    files: list[DataFile] = Field([], description="files that longtail data prepare gets and checks")
    paper: Paper = Field(Paper(), description="publication to cite")
    _whole: "Dataset | None" = PrivateAttr(None)

    @property
    def whole(self) -> "Dataset | None":
        """The dataset that a subset is drawn from, if this one was read from its file."""
        return self._whole

    def drawn_from(self, whole: "Dataset") -> "Dataset":
        """This subset, knowing the whole."""
        known = self.model_copy()
        known._whole = whole
        return known

    def is_of_stuff(self, file: DataFile) -> bool:
        """Whether a file belongs to the stuff maps, which only detectors with a semantic branch need."""
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
        """Whether ``longtail data prepare`` can get its files; otherwise the user provides them."""
        return self.subset is not None or bool(self.files)


class Pretraining(Strict):
    """A training that detectors without initial weights start from, in place of the COCO weights of the
    papers: it fills everything but the last layers. One training for all rows and seeds of a back end."""

    method: str = Field(description="METHOD or METHOD+VARIANT")
    dataset: str = Field(description="dataset name")
    seed: Seed = Field(0, description="seed of the training")
    schedule: dict[str, Any] = Field({}, description="schedule settings that differ from those of `all`")
    detector: dict[str, Any] = Field(
        {}, description="detector settings of all that start from it, e.g. frozen layers"
    )

    _expanded = field_validator("schedule", mode="before")(expanded)


class Budget(Strict):
    """One schedule for all runs, for example a short one: settings that override those of every stage that
    trains the same part. A budget changes lengths, rates, images and where detectors start, never the code
    path."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="first folder of the runs' paths")
    title: str = Field(
        "", description="the machine and time that it is for, e.g. two cores and eight minutes"
    )
    answers: str | None = Field(
        None,
        description="PAPER in results/reported/reported.csv that has this schedule: rows of that paper are "
        "compared with its numbers; default: rows with this budget are not compared with published "
        "numbers",
    )
    all: dict[str, Any] = Field(
        {},
        description="schedule settings of stages that train all parameters; `like` names a schedule in "
        "workflows/schedules.yaml to start from",
    )
    classifier: dict[str, Any] = Field(
        {}, description="schedule settings of stages that train the classifier"
    )
    sampler: dict[str, Any] = Field(
        {},
        description="settings of repeat-factor samplers, e.g. the threshold; with `kind`, the sampler of "
        "all train stages. A sampler of a method is kept and takes the settings that are among its "
        "options",
    )
    fit: dict[str, Any] = Field(
        {}, description="options of fit stages that have them, e.g. the number of images"
    )
    pretraining: Pretraining | None = Field(
        None, description="where detectors with `init: none` start; default: at random weights"
    )

    _expanded = field_validator("all", "classifier", mode="before")(expanded)


class ReleasedFile(Strict):
    """An intermediate file of a release."""

    file: str = Field(
        pattern=r"^[\w.][\w./-]*$",
        description="path relative to the data folder, with the file name of the release",
    )
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="checksum; default: not checked")


Released = dict[Literal["groups", "group_weights", "class_weights"], ReleasedFile]


class Row(Strict):
    """One row of a results table."""

    id: str = Field(pattern=r"^[\w.-]+$", description="row name, unique in the experiment")
    method: str = Field(description="METHOD or METHOD+VARIANT")
    detector: str = Field(description="BACKEND/PRESET")
    dataset: str = Field(description="dataset name")
    seeds: list[Seed] = Field(
        [0], min_length=1, description="one run for each seed; different numbers from 0"
    )
    reported: str | None = Field(
        None, description="published row that this row reproduces: PAPER/ROW in results/reported/reported.csv"
    )
    deviations: list[Deviation] = Field(
        [],
        description="differences from the training behind the published number, in addition to those of "
        "the method and its bases",
    )

    options: dict[str, Any] = Field(
        {}, description="options of the method that this row changes, for example for other data"
    )
    sweep: dict[str, Annotated[list[Any], Field(json_schema_extra={"minItems": 2})]] = Field(
        {},
        description="two or more values for each option: the row expands to one row for every value, or for "
        "every combination if there are several keys, named `ID,KEY=VALUE`",
    )
    schedule: dict[str, Any] = Field(
        {},
        description="schedule settings of the row's own train stages, over those of the method and the "
        "budget, e.g. `{batch_size: 8}`; `like` names a schedule in workflows/schedules.yaml to start from. "
        "The methods that the row starts from keep theirs",
    )
    released: Released = Field(
        {},
        description="files of the BAGS release that replace our intermediate files: label2binlabel.pt as "
        "groups, bins_cls_weight.pkl as group_weights, one of its cls_weight*.pt as class_weights",
    )

    @model_validator(mode="after")
    def _deviates_from_something(self) -> "Row":
        if self.deviations and self.reported is None:
            raise ValueError("deviations are from a published number: they need the key 'reported'")
        return self

    @model_validator(mode="after")
    def _schedule_of_its_own(self) -> "Row":
        if self.schedule and self.reported is not None:
            raise ValueError(
                "a row with its own schedule has no published number: leave out the key 'reported', or the "
                "key 'schedule' (`--images-at-once` reduces memory with the published schedule)"
            )
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
        description="an experiment, by the name of its file beside this one or in the project, that "
        "provides the keys that this file does not have; with another budget its rows have no published "
        "number",
    )
    without: list[str] = Field([], description="with `like`: ids of rows of that experiment to leave out")
    budget: str | None = Field(None, description="budget for every row; default: the papers' own schedules")
    method_paths: list[str] = Field([], description="folders with further plug-ins, relative to this file")
    dataset_paths: list[str] = Field([], description="folders with further datasets, relative to this file")
    seeds: list[Seed] | None = Field(
        None, min_length=1, description="the seeds of rows that name none; default: 0 alone"
    )
    reference: str | None = Field(
        None,
        description="an experiment with the same rows, whose numbers in results/reference `longtail verify` "
        "compares these with; default: this one",
    )
    group_by: Literal["touches"] | None = Field(
        None,
        description="`touches`: group the rows by what their method changes (baseline, loss, decoupled, "
        "post-hoc, sampler), in the order of this file within a group; default: one list",
    )
    metrics: list[Literal["AP50", "AP75", "bAP", "AP-fixed", "ECE"]] = Field(
        [], description="additional columns of the tables, after AP, APr, APc and APf"
    )
    rows: list[Row] = Field([], description="rows in table order; required without `like`")

    @model_validator(mode="after")
    def _rows_or_like(self) -> "Experiment":
        if not self.rows and self.like is None:
            raise ValueError("an experiment needs the key 'rows', or 'like' for those of another one")
        if self.without and (self.like is None or self.rows):
            raise ValueError("'without' leaves out rows of 'like': it needs 'like' and no 'rows'")
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
    row_schedule: dict[str, Any] = Field({})
    intermediates: list[str] = Field([])
    released: Released = Field({})

    def starts_elsewhere(self, stage: Stage) -> bool:
        """Whether a stage starts from weights for the categories of another dataset."""
        other = self.base is not None and self.base.dataset_name != self.dataset_name
        return other and stage.name == self.stages[0].name
