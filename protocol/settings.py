"""The settings of a run and of a node: one tree each, parsed once at the door.

Flower hands over flat dictionaries of scalars (``context.run_config``, ``context.node_config``)
whose keys are kebab-case, tables joined by dots: ``scarlet.cache-duration``. The defaults here and
those under ``[tool.flwr.app.config]`` in ``pyproject.toml`` are the same; a test holds them so.
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
    """Mark a setting that is read only where another one has one of some values.

    Parameters
    ----------
    key
        Of the other setting.
    values
        With which it is read.
    """
    return {"only with": [key, *values]}


class DataSettings(Table):
    """Where the samples come from, how they are read and how they are split (table ``data``)."""

    source: DataSource = Field(
        "digits",
        description="`digits`, a path, a Hugging Face hub id (`#test` names another split than `train`), or "
        "`nodes`: every node holds its own; or a reference to a source of your own",
    )
    test_source: OptionalSource = Field("", description="the server's test data; empty: cut from the source")
    image: str = Field(
        "", description="column of images or of their files' paths; empty: found by its type, or by its name"
    )
    text: str = Field("", description="column of texts; empty: found by its name")
    label: str = Field("", description="column of classes; empty: found by its type or name")
    site: str = Field("", description="column that says where a row comes from (`natural` split)")
    group: str = Field("", description="column, as `patient`, whose rows alike are never divided")
    features: Names = Field("", description="columns of a table to learn from; empty: all that are left")
    categorical: Names = Field("", description="columns of numbers that are codes: `cp,thal`")
    classes: str = Field(
        "",
        description="the classes: how many, or their labels, with a bar between labels of one class; empty: "
        "as found",
    )
    channels: Literal[0, 1, 3] = Field(0, description="1: grey, 3: colour; 0: as the images are")
    image_size: CountOrZero = Field(
        0, description="pixels a side, to which images are resized; 0: as they are"
    )
    normalisation: Literal["public", "none"] = Field(
        "public",
        description="images by the public pool's mean and deviation, or from 0 to 1, as digits are anyway",
    )
    max_samples: CountOrZero = Field(0, description="how many of its samples to use, from the first; 0: all")
    max_bad: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.01, description="share of images that may be unreadable; they are skipped and named in the log"
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
        description="how private data is split over clients; `dirichlet` gives equal sizes, `linear` and "
        "`exponential` unequal ones, `natural` whole sites or groups",
    )
    alpha: Positive = Field(
        0.1,
        description="Dirichlet concentration; smaller is more skewed",
        json_schema_extra=only_with("data.split", "dirichlet", "dirichlet-unequal"),
    )
    classes_per_client: Count = Field(
        2,
        description="classes a client holds (pathological)",
        json_schema_extra=only_with("data.split", "pathological"),
    )
    shards_per_client: Count = Field(
        2, description="shards a client holds (shards)", json_schema_extra=only_with("data.split", "shards")
    )
    client_test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="share of a client's samples kept for its own test"
    )
    server_test_size: CountOrZero = Field(
        300, description="samples kept for the server's test; 0: all of `data.test-source`"
    )
    withheld_size: CountOrZero = Field(
        0, description='samples withheld from training (`scalefl.calibration = "withheld"`)'
    )
    metric: ThingName = Field(
        "none",
        description="a figure beside accuracy: area under the ROC curve, quadratic weighted κ of ordered "
        "classes, by which submodels are then graded, or one of your own",
    )

    @model_validator(mode="after")
    def _server_test_has_its_samples(self) -> Self:
        if self.server_test_size == 0 and not self.test_source and self.source != NODES:
            raise ValueError(
                "data.server-test-size = 0: only data.test-source can be used whole, it is empty"
            )
        return self


class TextSettings(Table):
    """How texts become tokens (table ``text``)."""

    vocabulary: Annotated[int, Field(ge=64)] = Field(
        4096,
        description="pieces of the vocabulary that is found on the public pool, if nothing is pretrained",
    )
    length: Annotated[int, Field(ge=4)] = Field(64, description="tokens of a text; longer ones are cut")


class PublicSettings(Table):
    """The public, unlabelled pool P (table ``public``)."""

    source: OptionalSource = Field(
        "", description="its own data, labels unused; empty: cut from `data.source`"
    )
    size: Count = Field(600, description="samples in the public pool P")
    subset_size: Count = Field(200, description="samples of P drawn each round, m")

    @model_validator(mode="after")
    def _subset_fits(self) -> Self:
        if self.subset_size > self.size:
            raise ValueError(
                f"public.subset-size = {self.subset_size}: must be at most public.size = {self.size}"
            )
        return self


class TrainSettings(Table):
    """Local training on private data (table ``train``)."""

    epochs: Count = Field(5, description="local epochs a round")
    batch_size: Count = Field(50, description="samples a step; networks with batch norms need two")
    loss: ThingName = Field("cross-entropy", description="the loss of logits against classes")
    optimizer: ThingName = Field("sgd", description="optimizer; its state lasts for a client's round")
    learning_rate: Positive = Field(0.1, description="learning rate")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="momentum of SGD")
    weight_decay: NonNegative = Field(0.0, description="weight decay")
    augmentation: Literal["none", "shift", "crop-flip"] = Field(
        "none", description="random change of training images, a whole batch at a time"
    )
    milestones: Milestones = Field("", description="rounds after which the learning rate drops: `100,200`")
    decay: Fraction = Field(
        1.0, description="factor of the learning rate at each milestone; without milestones, each round"
    )


class DistillationSettings(Table):
    """Learning from soft labels, and how these travel (table ``distillation``)."""

    epochs: Count = Field(5, description="epochs over the round's soft labels")
    batch_size: Annotated[int, Field(ge=2)] = Field(50, description="samples a step")
    optimizer: ThingName = Field("sgd", description="optimizer")
    learning_rate: Positive = Field(0.1, description="learning rate")
    labels: ThingName = Field("float16", description="encoding of soft labels on the wire")
    indices: Literal["derived", "explicit"] = Field(
        "derived", description="positions follow from the seed, or are sent along"
    )
    final_exchange: bool = Field(
        False, description="a last exchange that brings the last labels to the clients"
    )


class AggregationSettings(Table):
    """How the server merges what clients send (table ``aggregation``)."""

    labels: ThingName = Field("mean", description="how clients' predictions become one label a sample")
    weights: ThingName = Field("mean", description="how clients' weights become the network's")


class ScarletSettings(Table):
    """SCARLET's own parameters (table ``scarlet``)."""

    beta: Positive = Field(2.0, description="Enhanced ERA's exponent; above 1 sharpens")
    cache_duration: CountOrZero = Field(20, description="rounds D for which a label stays fresh")
    expiry: Literal["refresh", "evict"] = Field(
        "refresh", description="what a label that is too old becomes: replaced, or forgotten"
    )


class DsflSettings(Table):
    """DS-FL's own parameter (table ``dsfl``)."""

    temperature: Positive = Field(0.1, description="ERA's temperature T; below 1 sharpens")


class LevelsSettings(Table):
    """The submodels of an elastic network, and who gets which (table ``levels``)."""

    plan: Literal["preset", "parameters", "flops"] = Field(
        "preset", description="the network's own levels, or a search by cost for `levels.budgets`"
    )
    budgets: Budgets = Field(
        "0.125,0.25,0.5,1", description="each level's share of the whole network's cost (search)"
    )
    widths: Widths = Field("", description="each level's width instead of the plan's: `0.5,0.75,1`")
    exits: Exits = Field("", description="each level's last block instead of the plan's: `4,6,8`")
    shares: Shares = Field(
        "0.25,0.25,0.25,0.25", description="share of the simulated clients at each level, smallest first"
    )

    @model_validator(mode="after")
    def _explicit_levels_are_whole(self) -> Self:
        widths, exits = numbers(self.widths), numbers(self.exits)
        if len(widths) != len(exits):
            raise ValueError(
                f'levels.widths = "{self.widths}", levels.exits = "{self.exits}": must name as many levels'
            )
        return self


class ScaleflSettings(Table):
    """How submodels learn and are merged (table ``scalefl``)."""

    loss: Literal["paper", "official", "mutual"] = Field(
        "mutual",
        description="what exits learn from: the last one as in the paper, the same as in the released code, "
        "or all others as in DepthFL",
    )
    distillation: NonNegative = Field(
        0.1, description="weight β of what exits learn from each other, beside the classes"
    )
    temperature: Positive = Field(3.0, description="temperature τ at which exits are compared")
    start: Annotated[float, Field(ge=0, le=1)] = Field(
        0.25, description="share of the rounds before exits learn from each other"
    )
    classes: Literal["own", "plain", "masked", "balanced"] = Field(
        "own",
        description="what the loss makes of a client's shares of the classes: nothing, passes over those "
        "it has not, or adjusts the logits by all; `own` is as the strategy does by itself",
    )
    exit_weights: Literal["linear", "equal", "full"] = Field(
        "full",
        description="weights of l exits' losses with `scalefl.loss` `paper`: j/(l(l+1)) as there, 1/(2l), or "
        "1 each",
        json_schema_extra=only_with("scalefl.loss", "paper"),
    )
    weighting: Literal["clients", "examples"] = Field(
        "clients", description="weights of the mean of submodels: one a client, or its number of samples"
    )
    calibration: Literal["public", "withheld", "none"] = Field(
        "public",
        description="where the server's norm statistics come from; `none`: the server scores nothing",
    )


class LoraSettings(Table):
    """The adapters with which a pretrained network learns (table ``lora``; Hu et al. 2022)."""

    rank: Count = Field(64, description="rank of the largest level; a level has its width's share of it")
    scale: Positive = Field(2.0, description="α/r, alike for all ranks")
    targets: Names = Field("q_proj,v_proj", description="layers of the decoder that have adapters")
    merge: Literal["count", "zero-pad", "svd", "stack"] = Field(
        "count",
        description="how adapters of unequal rank become one: each value's mean over those that have it; "
        "with zeros for those that have not (HetLoRA); the mean of the products, cut by its singular values "
        "(FlexLoRA); or that mean whole (FLoRA)",
    )


class VlmSettings(Table):
    """What a vision-language model is asked (table ``vlm``)."""

    prompt: str = Field(
        "What is the Kellgren-Lawrence grade of this knee?", description="asked with every image"
    )
    answers: str = Field(
        "KL {}", description="what answers the classes: their numbers in a template, or answers with commas"
    )
    quantisation: Literal["none", "4bit"] = Field(
        "none", description="how the frozen base is held; `4bit` needs bitsandbytes and a GPU"
    )


class EarlyStoppingSettings(Table):
    """When to stop before the last round (table ``early-stopping``)."""

    patience: CountOrZero = Field(0, description="rounds without improvement; 0 never stops early")
    metric: Literal["server-accuracy", "clients-accuracy"] = Field(
        "clients-accuracy", description="the accuracy that must improve"
    )


class RunSettings(Table):
    """Everything that defines a run."""

    strategy: ThingName = Field("scarlet", description="the method")
    seed: CountOrZero = Field(0, description="every random draw follows from it")
    num_rounds: Annotated[int, Field(ge=1, lt=999_999)] = Field(50, description="rounds")
    evaluate_every: Count = Field(1, description="rounds from one evaluation at the server to the next")
    fraction_train: Fraction = Field(1.0, description="share of the free clients asked each round")
    min_nodes: Count = Field(2, description="clients that must be known before a round starts")
    min_replies: CountOrZero = Field(1, description="accepted replies a round needs (quorum)")
    round_timeout: Positive = Field(600.0, description="seconds a round waits for replies")
    wait_for_nodes: Positive = Field(120.0, description="seconds to wait for `min-nodes` clients")
    model: ModelName = Field(
        "cnn",
        description="network of the server, and of clients not told otherwise; or one of a library, as "
        "`torchvision:mobilenet_v3_small`, `timm:…`, `transformers:/srv/vit`",
    )
    models: ModelNames = Field(
        "", description="networks assigned round-robin over simulated clients: `cnn,resnet20`"
    )
    pretrained: Checkpoint = Field(
        "",
        description="checkpoint with whose weights the network begins, a file, a folder or a hub id; "
        "empty: random weights",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where tensors live")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="of the arithmetic; weights stay float32; a node that lacks it takes `fp32`"
    )
    output_dir: AbsolutePath = Field("~/motley/runs", description="where run folders go")
    resume: ResumePlace = Field("", description="`auto`, or the path of a run folder to go on with")
    uplink: ThingNames = Field(
        "", description="transforms of what clients send, as noise or clipping, applied in this order"
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
        """Return the settings of a thing in ``custom/``, as its own table types them.

        Parameters
        ----------
        table
            With its ``place``, as ``custom.fedprox``.

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
    """What a node says of itself in its ``--node-config``."""

    client_name: ClientName = Field("", description="the node's lasting name; required on a real node")
    data_path: OwnSource = Field("", description='the node\'s own data (`data.source = "nodes"`)')
    public_path: OwnSource = Field("", description="where `public.source` lies on this node")
    partition_id: CountOrZero | None = Field(None, description="which part of the source is its own")
    num_partitions: Count | None = Field(None, description="parts the source is split into")
    model: ModelName | None = Field(None, description="the network or estimator this node trains")
    model_path: AbsolutePath = Field(
        "", description="where `pretrained`, or the checkpoint `model` names, lies here"
    )
    level: Level | None = Field(
        None, description="level of the elastic network this node carries, or `auto`: as the budgets allow"
    )
    memory_budget: Positive | None = Field(
        None, description='GB that training may take; default: what is free now (`level = "auto"`)'
    )
    seconds_per_round_budget: Positive | None = Field(
        None, description='seconds that a round\'s training may take; default: no limit (`level = "auto"`)'
    )
    state_dir: AbsolutePath = Field("", description="where the node keeps its model and its cache")
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
        """Whether this is a node of a simulation, which Flower tells its partition and no name."""
        return not self.client_name

    @property
    def name(self) -> str:
        """The client's stable identity: its name, or its partition in a simulation."""
        return self.client_name or f"client-{self.partition_id:04d}"
