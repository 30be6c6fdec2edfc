"""The settings of a run and of a node: one tree each, checked once when they are read.

Flower hands over flat dictionaries of scalars (``context.run_config``, ``context.node_config``)
whose keys are kebab-case, tables joined by dots: ``scarlet.cache-duration``. The defaults here and
those under ``[tool.flwr.app.config]`` in ``pyproject.toml`` are the same; a test checks it.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from protocol.references import checkpoint_in
from protocol.tables import OpenTable, Table
from protocol.values import (
    NODES,
    AbsolutePath,
    Budgets,
    Checkpoint,
    ClientName,
    Count,
    CountOrZero,
    DataSource,
    Device,
    Exits,
    Fraction,
    Level,
    Milestones,
    ModelName,
    ModelNames,
    Names,
    NonNegative,
    OptionalSource,
    OwnSource,
    Positive,
    ResumePlace,
    Shares,
    ThingName,
    ThingNames,
    Widths,
    numbers,
)

T = TypeVar("T", bound=Table)


def only_with(key: str, *values: str) -> dict[str, Any]:
    """Mark a setting that is read only if another setting has one of the given values.

    Parameters
    ----------
    key
        Key of the other setting.
    values
        Its values with which the marked setting is read.
    """
    return {"only with": [key, *values]}


class DataSettings(Table):
    """Where the samples come from, how they are read and how they are split (table ``data``)."""

    source: DataSource = Field(
        "digits",
        description="`digits`, a path, a Hugging Face hub id (`#test` selects a split other than `train`), "
        "`nodes` "
        "(every node holds its own data), or a reference to a source of your own",
    )
    test_source: OptionalSource = Field(
        "", description="the server's test data; empty: split off from `data.source`"
    )
    image: str = Field(
        "", description="column of images or of paths to image files; empty: found by its type or name"
    )
    text: str = Field("", description="column of texts; empty: found by its name")
    label: str = Field("", description="column of class labels; empty: found by its type or name")
    site: str = Field("", description="column that names the site a row comes from (`natural` split)")
    group: str = Field(
        "",
        description="column, such as `patient`: rows with the same value always stay together, on one client "
        "and in one of training and test",
    )
    features: Names = Field("", description="feature columns of a table; empty: all remaining columns")
    categorical: Names = Field("", description="numeric columns to treat as categories: `cp,thal`")
    classes: str = Field(
        "",
        description="the number of classes, or their labels, with a bar between labels that mean one class; "
        "empty: the labels found in the data",
    )
    channels: Literal[0, 1, 3] = Field(
        0, description="channels of the images: 1 is grey, 3 is colour; 0: as in the data"
    )
    image_size: CountOrZero = Field(
        0, description="side in pixels to which images are resized; 0: no resizing"
    )
    normalisation: Literal["public", "none"] = Field(
        "public",
        description="images are standardised by the public pool's mean and standard deviation, or only "
        "scaled "
        "to 0..1; `digits` are always scaled to 0..1",
    )
    max_samples: CountOrZero = Field(0, description="number of samples to use, from the first on; 0: all")
    max_bad: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.01, description="largest share of unreadable images; they are skipped and named in the log"
    )
    split: Literal[
        "iid",
        "dirichlet",
        "dirichlet-unequal",
        "pathological",
        "shards",
        "linear",
        "exponential",
        "natural",
    ] = Field(
        "dirichlet",
        description="how private data is split over clients; `dirichlet` gives clients equally many samples, "
        "`linear` and `exponential` unequally many, `natural` whole sites or groups",
    )
    alpha: Positive = Field(
        0.1,
        description="concentration of the Dirichlet distribution; smaller values give more skewed classes",
        json_schema_extra=only_with("data.split", "dirichlet", "dirichlet-unequal"),
    )
    classes_per_client: Count = Field(
        2,
        description="classes that each client holds (`pathological` split)",
        json_schema_extra=only_with("data.split", "pathological"),
    )
    shards_per_client: Count = Field(
        2,
        description="shards that each client holds (`shards` split)",
        json_schema_extra=only_with("data.split", "shards"),
    )
    client_test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="share of each client's samples that is held out for its own test"
    )
    server_test_size: CountOrZero = Field(
        300, description="samples held out for the server's test; 0: all of `data.test-source`"
    )
    withheld_size: CountOrZero = Field(
        0, description='samples withheld from training for `scalefl.calibration = "withheld"`'
    )
    metric: ThingName = Field(
        "none",
        description="a metric beside accuracy: area under the ROC curve; quadratic weighted κ for ordered "
        "classes, with grades for each submodel; or one of your own",
    )

    @model_validator(mode="after")
    def _server_test_has_its_samples(self) -> Self:
        if self.server_test_size == 0 and not self.test_source and self.source != NODES:
            raise ValueError(
                "data.server-test-size = 0: means all of data.test-source, but data.test-source is empty"
            )
        return self


class TextSettings(Table):
    """How texts become tokens (table ``text``)."""

    vocabulary: Annotated[int, Field(ge=64)] = Field(
        4096,
        description="size of the WordPiece vocabulary built from the public pool where `pretrained` is empty",
    )
    length: Annotated[int, Field(ge=4)] = Field(
        64, description="most tokens of a text; longer texts are truncated"
    )


class PublicSettings(Table):
    """The public, unlabelled pool P (table ``public``)."""

    source: OptionalSource = Field(
        "", description="data of the public pool, labels unused; empty: split off from `data.source`"
    )
    size: Count = Field(600, description="samples in the public pool P")
    subset_size: Count = Field(200, description="samples of P drawn each round (m)")

    @model_validator(mode="after")
    def _subset_fits(self) -> Self:
        if self.subset_size > self.size:
            raise ValueError(
                f"public.subset-size = {self.subset_size}: must be at most public.size = {self.size}"
            )
        return self


class TrainSettings(Table):
    """Local training on private data (table ``train``)."""

    epochs: Count = Field(5, description="local epochs per round")
    batch_size: Count = Field(50, description="samples per step; networks with batch norm need at least 2")
    loss: ThingName = Field("cross-entropy", description="training loss on labelled samples")
    optimizer: ThingName = Field("sgd", description="optimizer; its state is reset each round")
    learning_rate: Positive = Field(0.1, description="learning rate")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="momentum of SGD", json_schema_extra=only_with("train.optimizer", "sgd")
    )
    weight_decay: NonNegative = Field(0.0, description="weight decay")
    augmentation: Literal["none", "shift", "crop-flip"] = Field(
        "none", description="random augmentation of training images"
    )
    milestones: Milestones = Field(
        "", description="rounds after which the learning rate is multiplied by `train.decay`: `100,200`"
    )
    decay: Fraction = Field(
        1.0,
        description="factor on the learning rate after each milestone, or after each round if there are none",
    )


class DistillationSettings(Table):
    """Learning from soft labels, and how they are encoded in messages (table ``distillation``)."""

    epochs: Count = Field(5, description="epochs per round over the soft labels")
    batch_size: Annotated[int, Field(ge=2)] = Field(50, description="samples per step")
    optimizer: ThingName = Field("sgd", description="optimizer")
    learning_rate: Positive = Field(0.1, description="learning rate")
    labels: ThingName = Field("float16", description="encoding of soft labels on the wire")
    indices: Literal["derived", "explicit"] = Field(
        "derived", description="whether the samples' positions are derived from the seed, or sent"
    )
    final_exchange: bool = Field(
        False, description="one more exchange after the last round, which sends clients the final labels"
    )


class AggregationSettings(Table):
    """How the server merges what clients send (table ``aggregation``)."""

    labels: ThingName = Field(
        "mean", description="how clients' predictions are merged into one soft label per sample"
    )
    weights: ThingName = Field(
        "mean", description="how clients' weights are merged into the server's network"
    )


class ScarletSettings(Table):
    """SCARLET's own parameters (table ``scarlet``)."""

    beta: Positive = Field(2.0, description="exponent β of Enhanced ERA; above 1 sharpens the labels")
    cache_duration: CountOrZero = Field(20, description="rounds for which a cached label is reused (D)")
    expiry: Literal["refresh", "evict"] = Field(
        "refresh", description="whether an expired label is replaced, or removed from the cache"
    )


class DsflSettings(Table):
    """DS-FL's own parameter (table ``dsfl``)."""

    temperature: Positive = Field(0.1, description="temperature T of ERA; below 1 sharpens the labels")


class LevelsSettings(Table):
    """The submodels of an elastic network, and the share of clients for each (table ``levels``)."""

    plan: Literal["preset", "parameters", "flops"] = Field(
        "preset",
        description="the network's own levels, or a search for levels that fit `levels.budgets`, with "
        "parameters or MACs (`flops`) as their cost",
    )
    budgets: Budgets = Field(
        "0.125,0.25,0.5,1",
        description="cost of each level as a share of the whole network's, for the search",
        json_schema_extra=only_with("levels.plan", "parameters", "flops"),
    )
    widths: Widths = Field("", description="width of each level in place of the plan's: `0.5,0.75,1`")
    exits: Exits = Field("", description="last block of each level in place of the plan's: `4,6,8`")
    shares: Shares = Field(
        "0.25,0.25,0.25,0.25",
        description="share of the simulated clients at each level, smallest level first",
    )

    @model_validator(mode="after")
    def _explicit_levels_are_whole(self) -> Self:
        widths, exits = numbers(self.widths), numbers(self.exits)
        if len(widths) != len(exits):
            raise ValueError(
                f'levels.widths = "{self.widths}", levels.exits = "{self.exits}": must have one value per '
                f"level each"
            )
        return self


class ScaleflSettings(Table):
    """How submodels learn and are merged (table ``scalefl``)."""

    loss: Literal["paper", "official", "mutual"] = Field(
        "mutual",
        description="self-distillation: exits learn from the last one as in the paper, from the last one as "
        "in "
        "the released code, or from all others as in DepthFL",
    )
    distillation: NonNegative = Field(
        0.1, description="weight β of the distillation between exits, beside the loss on the classes"
    )
    temperature: Positive = Field(3.0, description="temperature τ of the distillation between exits")
    start: Annotated[float, Field(ge=0, le=1)] = Field(
        0.25, description="share of the rounds after which distillation between exits begins"
    )
    classes: Literal["own", "plain", "masked", "balanced"] = Field(
        "own",
        description="how the loss treats a client's class imbalance: `plain` ignores it, `masked` leaves out "
        "classes the client lacks, `balanced` adjusts logits by class frequency; `own`: the strategy's "
        "default",
    )
    exit_weights: Literal["linear", "equal", "full"] = Field(
        "full",
        description='weights of the losses of l exits with `scalefl.loss = "paper"`: j/(l(l+1)) as in the '
        "paper, 1/(2l), or 1 each",
        json_schema_extra=only_with("scalefl.loss", "paper"),
    )
    weighting: Literal["clients", "examples"] = Field(
        "clients", description="weight of a client's submodel in the mean: 1, or its number of samples"
    )
    calibration: Literal["public", "withheld", "none"] = Field(
        "public",
        description="samples from which the server computes batch-norm statistics; `none`: it computes none, "
        "and "
        "does not score networks with batch norm",
    )


class LoraSettings(Table):
    """The adapters with which a pretrained network learns (table ``lora``; Hu et al. 2022)."""

    rank: Count = Field(
        64, description="rank of the largest level's adapters; a smaller level has its share of it"
    )
    scale: Positive = Field(2.0, description="scaling α/r of the adapters, the same for every rank")
    targets: Names = Field("q_proj,v_proj", description="layers of the decoder that get adapters")
    merge: Literal["count", "zero-pad", "svd", "stack"] = Field(
        "count",
        description="how adapters of unequal rank are averaged: each value over the clients that have it; "
        "the "
        "same with zeros where a client lacks it (HetLoRA); as products B·A, truncated by an SVD (FlexLoRA); "
        "or as products, added whole to the frozen weights (FLoRA)",
    )


class VlmSettings(Table):
    """What a vision-language model is asked (table ``vlm``)."""

    prompt: str = Field(
        "What is the Kellgren-Lawrence grade of this knee?", description="question asked about every image"
    )
    answers: str = Field(
        "KL {}",
        description="answer for each class: a template with `{}` for its number, or a comma-separated list",
    )
    quantisation: Literal["none", "4bit"] = Field(
        "none", description="quantisation of the frozen base model; `4bit` needs bitsandbytes and a GPU"
    )


class EarlyStoppingSettings(Table):
    """When to stop before the last round (table ``early-stopping``)."""

    patience: CountOrZero = Field(
        0, description="rounds without improvement after which the run stops; 0: never"
    )
    metric: Literal["server-accuracy", "clients-accuracy"] = Field(
        "clients-accuracy", description="the accuracy that must improve"
    )


class RunSettings(Table):
    """Everything that defines a run."""

    strategy: ThingName = Field("scarlet", description="the federated learning method")
    seed: CountOrZero = Field(0, description="seed of every random draw")
    num_rounds: Annotated[int, Field(ge=1, lt=999_999)] = Field(50, description="number of rounds")
    evaluate_every: Count = Field(
        1, description="rounds from one evaluation of the server's model to the next"
    )
    fraction_train: Fraction = Field(
        1.0, description="share of the idle clients that are asked to train each round"
    )
    min_nodes: Count = Field(2, description="clients that must have joined before a round starts")
    min_replies: CountOrZero = Field(1, description="accepted replies that a round needs (quorum)")
    round_timeout: Positive = Field(600.0, description="seconds that a round waits for replies")
    wait_for_nodes: Positive = Field(120.0, description="seconds to wait for `min-nodes` clients to join")
    model: ModelName = Field(
        "cnn",
        description="network of the server, and of every client that does not name its own; or one of a "
        "library, such as `torchvision:mobilenet_v3_small`, `timm:…`, `transformers:/srv/vit`",
    )
    models: ModelNames = Field(
        "", description="networks assigned round-robin to simulated clients: `cnn,resnet20`"
    )
    pretrained: Checkpoint = Field(
        "",
        description="checkpoint of the initial weights: a file, a folder or a hub id; empty: random weights",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="device to compute on")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="precision of the computation; weights stay float32; a node that lacks it computes in "
        "`fp32`",
    )
    output_dir: AbsolutePath = Field("~/motley/runs", description="folder in which run folders are created")
    resume: ResumePlace = Field("", description="`auto`, or the path of a run folder to resume")
    uplink: ThingNames = Field(
        "", description="transforms of what clients send, such as clipping or noise, applied in this order"
    )
    data: DataSettings = DataSettings()
    text: TextSettings = TextSettings()
    public: PublicSettings = PublicSettings()
    train: TrainSettings = TrainSettings()
    distillation: DistillationSettings = DistillationSettings()
    aggregation: AggregationSettings = AggregationSettings()
    scarlet: ScarletSettings = ScarletSettings()
    dsfl: DsflSettings = DsflSettings()
    levels: LevelsSettings = LevelsSettings()
    scalefl: ScaleflSettings = ScaleflSettings()
    lora: LoraSettings = LoraSettings()
    vlm: VlmSettings = VlmSettings()
    early_stopping: EarlyStoppingSettings = EarlyStoppingSettings()
    custom: OpenTable = OpenTable()

    @model_validator(mode="after")
    def _calibration_has_its_samples(self) -> Self:
        if self.scalefl.calibration == "withheld" and self.data.withheld_size < 2:
            raise ValueError(
                f'scalefl.calibration = "withheld": needs data.withheld-size of at least 2, '
                f"it is {self.data.withheld_size}"
            )
        return self

    def of(self, table: type[T]) -> T:
        """Return the settings that code in ``custom/`` defines for itself, checked by its own table.

        Parameters
        ----------
        table
            The table's class; its ``place`` says where the settings are, for example ``custom.fedprox``.

        Raises
        ------
        SettingsError
            Naming each wrong key, its value and what is allowed.
        """
        _, *place = table.place.split(".")
        return table.parse(self.custom.at(place))

    @property
    def checkpoint(self) -> str:
        """What names the checkpoint whose tokeniser cuts the run's texts, as it is set; empty: there is none.

        That is ``pretrained``, or ``model`` where it names a checkpoint itself (``transformers:…``).
        """
        return self.pretrained or (self.model if checkpoint_in(self.model) else "")

    @property
    def output_path(self) -> Path:
        """``output-dir`` with ``~`` expanded."""
        return Path(self.output_dir).expanduser()


DEFAULTS = RunSettings()


class NodeSettings(Table):
    """The settings of one node, given in its ``--node-config``."""

    client_name: ClientName = Field(
        "", description="name of the client, the same after a restart; required on a real node"
    )
    data_path: OwnSource = Field("", description='the node\'s own data (`data.source = "nodes"`)')
    public_path: OwnSource = Field("", description="where `public.source` lies on this node")
    partition_id: CountOrZero | None = Field(
        None, description="index of this node's part of the data source, from 0"
    )
    num_partitions: Count | None = Field(
        None, description="number of parts that the data source is split into"
    )
    model: ModelName | None = Field(None, description="network or estimator that this node trains")
    model_path: AbsolutePath = Field(
        "", description="where `pretrained`, or the checkpoint that `model` names, lies on this node"
    )
    level: Level | None = Field(
        None,
        description="level of the elastic network that this node trains; `auto`: the largest within its "
        "budgets",
    )
    memory_budget: Positive | None = Field(
        None, description='GB of memory that training may take; default: what is free (`level = "auto"`)'
    )
    seconds_per_round_budget: Positive | None = Field(
        None, description='seconds that training may take in a round; default: no limit (`level = "auto"`)'
    )
    state_dir: AbsolutePath = Field(
        "", description="folder in which the node keeps its model and its cached labels"
    )
    device: Device | None = Field(None, description="`auto`, `cpu`, `cuda` or `cuda:N`; default: the run's")
    gpu_memory: Positive | None = Field(
        None, description="GB of the GPU that this node may take; default: all of it"
    )
    threads: Count | None = Field(None, description="CPU threads; 1 in a simulation, else torch's default")

    @model_validator(mode="after")
    def _partition_is_whole(self) -> Self:
        part, parts = self.partition_id, self.num_partitions
        if part is not None and parts is None:
            raise ValueError(f"partition-id = {part}: needs num-partitions, the number of parts, as well")
        if parts is not None and part is None:
            raise ValueError(f"num-partitions = {parts}: needs partition-id, from 0 to {parts - 1}, as well")
        if part is not None and parts is not None and part >= parts:
            raise ValueError(f"partition-id = {part}: must be below num-partitions = {parts}")
        if not self.client_name and part is None:
            raise ValueError('client-name = "": a real node needs a name that it keeps, e.g. "hospital-a"')
        return self

    @property
    def simulated(self) -> bool:
        """Whether this is a node of a simulation, which Flower gives a partition but no name."""
        return not self.client_name

    @property
    def name(self) -> str:
        """The client's stable identity: its name, or its partition in a simulation."""
        return self.client_name or f"client-{self.partition_id:04d}"
