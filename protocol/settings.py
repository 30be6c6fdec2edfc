"""The settings of a run and of a node: one tree each, parsed once at the door.

Flower hands over flat dictionaries of scalars (``context.run_config``, ``context.node_config``)
whose keys are kebab-case, tables joined by dots: ``scarlet.cache-duration``. The defaults here and
those under ``[tool.flwr.app.config]`` in ``pyproject.toml`` are the same; a test holds them so.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from protocol.errors import SettingsError

ModelName = Literal["cnn", "resnet20", "resnet32", "resnet18"]
MODEL_NAMES: tuple[str, ...] = get_args(ModelName)

_CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _is_absolute(path: str) -> bool:
    return os.path.isabs(os.path.expanduser(path))  # Path.expanduser raises for an unknown ~user


def _absolute(path: str) -> str:
    if path and not _is_absolute(path):
        raise ValueError(
            "must be an absolute path or start with ~: a relative one would depend on the folder "
            "in which the SuperLink happened to be started"
        )
    return path


def _place_to_resume(place: str) -> str:
    if place not in ("", "auto") and not _is_absolute(place):
        raise ValueError('must be "", "auto" or an absolute path (~ is allowed)')
    return place


def _client_name(name: str) -> str:
    if name and not _CLIENT_NAME.fullmatch(name):
        raise ValueError(
            "must begin with a letter or a digit and hold only letters, digits, dots, dashes and "
            "underscores, 64 at most: it names a folder"
        )
    return name


def _model_names(names: str) -> str:
    for name in split_names(names):
        if name not in MODEL_NAMES:
            raise ValueError(f"{name!r} is not a model: allowed are {', '.join(MODEL_NAMES)}")
    return names


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
ResumePlace = Annotated[str, AfterValidator(_place_to_resume)]
ClientName = Annotated[str, AfterValidator(_client_name)]
ModelNames = Annotated[str, AfterValidator(_model_names)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class _Table(BaseModel):
    """A table of settings: frozen, strict about types, refusing keys it does not know."""

    model_config = ConfigDict(
        alias_generator=_kebab, extra="forbid", frozen=True, populate_by_name=True, strict=True
    )


class DataSettings(_Table):
    """Where the samples come from and how they are split (table ``data``)."""

    source: Literal["digits"] = Field("digits", description="data set")
    split: Literal["iid", "dirichlet", "dirichlet-unequal", "pathological"] = Field(
        "dirichlet",
        description="how private data is split over clients; `dirichlet` gives equal sizes",
    )
    alpha: Positive = Field(0.1, description="Dirichlet concentration; smaller is more skewed")
    classes_per_client: Count = Field(2, description="classes a client holds (pathological)")
    client_test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="share of a client's samples kept for its own test"
    )
    server_test_size: Count = Field(300, description="samples kept for the server's test")


class PublicSettings(_Table):
    """The public, unlabelled pool P (table ``public``)."""

    size: Count = Field(600, description="samples in the public pool P")
    subset_size: Count = Field(200, description="samples of P drawn each round, m")

    @model_validator(mode="after")
    def _subset_fits(self) -> Self:
        if self.subset_size > self.size:
            raise ValueError(
                f"public.subset-size = {self.subset_size}: must be at most public.size = {self.size}"
            )
        return self


class TrainSettings(_Table):
    """Local training on private data (table ``train``)."""

    epochs: Count = Field(5, description="local epochs a round")
    batch_size: Annotated[int, Field(ge=2)] = Field(50, description="samples a step")
    learning_rate: Positive = Field(0.1, description="SGD learning rate")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="SGD momentum")
    weight_decay: NonNegative = Field(0.0, description="SGD weight decay")
    augmentation: Literal["none", "shift", "crop-flip"] = Field(
        "none", description="random change of training images, a whole batch at a time"
    )


class DistillationSettings(_Table):
    """Learning from soft labels, and how these travel (table ``distillation``)."""

    epochs: Count = Field(5, description="epochs over the round's soft labels")
    batch_size: Annotated[int, Field(ge=2)] = Field(50, description="samples a step")
    learning_rate: Positive = Field(0.1, description="SGD learning rate")
    labels: Literal["float32", "float16", "uint8"] = Field(
        "float16", description="encoding of a probability on the wire"
    )
    indices: Literal["derived", "explicit"] = Field(
        "derived", description="positions follow from the seed, or are sent along"
    )
    final_exchange: bool = Field(
        False, description="a last exchange that brings the last labels to the clients"
    )


class ScarletSettings(_Table):
    """SCARLET's own parameters (table ``scarlet``)."""

    beta: Positive = Field(2.0, description="Enhanced ERA's exponent; above 1 sharpens")
    cache_duration: CountOrZero = Field(20, description="rounds D for which a label stays fresh")
    expiry: Literal["refresh", "evict"] = Field(
        "refresh", description="what a label that is too old becomes: replaced, or forgotten"
    )


class DsflSettings(_Table):
    """DS-FL's own parameter (table ``dsfl``)."""

    temperature: Positive = Field(0.1, description="ERA's temperature T; below 1 sharpens")


class EarlyStoppingSettings(_Table):
    """When to stop before the last round (table ``early-stopping``)."""

    patience: CountOrZero = Field(0, description="rounds without improvement; 0 never stops early")
    metric: Literal["server-accuracy", "clients-accuracy"] = Field(
        "clients-accuracy", description="the accuracy that must improve"
    )


class RunSettings(_Table):
    """Everything that defines a run."""

    strategy: Literal["scarlet", "dsfl", "fedavg", "individual"] = Field("scarlet", description="the method")
    seed: CountOrZero = Field(0, description="every random draw follows from it")
    num_rounds: Annotated[int, Field(ge=1, lt=999_999)] = Field(50, description="rounds")
    fraction_train: Fraction = Field(1.0, description="share of the free clients asked each round")
    min_nodes: Count = Field(2, description="clients that must be known before a round starts")
    min_replies: CountOrZero = Field(1, description="accepted replies a round needs (quorum)")
    round_timeout: Positive = Field(600.0, description="seconds a round waits for replies")
    wait_for_nodes: Positive = Field(120.0, description="seconds to wait for `min-nodes` clients")
    model: ModelName = Field("cnn", description="network of the server, and of clients not told otherwise")
    models: ModelNames = Field("", description="networks dealt out over clients in turn: `cnn,resnet20`")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where tensors live")
    output_dir: AbsolutePath = Field("~/motley/runs", description="where run folders go")
    resume: ResumePlace = Field("", description="`auto`, or the path of a run folder to go on with")
    data: DataSettings = DataSettings()
    public: PublicSettings = PublicSettings()
    train: TrainSettings = TrainSettings()
    distillation: DistillationSettings = DistillationSettings()
    scarlet: ScarletSettings = ScarletSettings()
    dsfl: DsflSettings = DsflSettings()
    early_stopping: EarlyStoppingSettings = EarlyStoppingSettings()

    @model_validator(mode="after")
    def _weights_need_one_architecture(self) -> Self:
        others = set(split_names(self.models)) - {self.model}
        if self.strategy == "fedavg" and others:
            raise ValueError(
                f'models = "{self.models}": strategy fedavg averages weights, so every client must '
                f'run model = "{self.model}"'
            )
        return self

    @model_validator(mode="after")
    def _early_stopping_has_its_figure(self) -> Self:
        stopping = self.early_stopping
        if self.strategy == "individual" and stopping.patience and stopping.metric == "server-accuracy":
            raise ValueError(
                'early-stopping.metric = "server-accuracy": strategy individual has no server model; '
                'allowed is "clients-accuracy"'
            )
        return self

    @property
    def output_path(self) -> Path:
        """``output-dir`` with ``~`` expanded."""
        return Path(self.output_dir).expanduser()

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """Read Flower's flat ``run_config``.

        Raises
        ------
        SettingsError
            Naming each wrong key, its value and what is allowed.
        """
        return _parse(cls, config)

    def flat(self) -> dict[str, Any]:
        """Return the settings as Flower writes them: kebab-case keys, tables joined by dots."""
        return _flatten(self.model_dump(by_alias=True))


class NodeSettings(_Table):
    """What a node says of itself in its ``--node-config``."""

    client_name: ClientName = Field("", description="the node's lasting name; required on a real node")
    partition_id: CountOrZero | None = Field(None, description="which part of the source is its own")
    num_partitions: Count | None = Field(None, description="parts the source is split into")
    model: ModelName | None = Field(None, description="the network this node trains")
    state_dir: AbsolutePath = Field("", description="where the node keeps its model and its cache")
    device: Literal["auto", "cpu", "cuda"] | None = Field(None, description="overrides the run's device")
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

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """Read Flower's flat ``node_config``.

        Raises
        ------
        SettingsError
            Naming each wrong key, its value and what is allowed.
        """
        return _parse(cls, config)


def split_names(names: str) -> list[str]:
    """Split ``"a, b,c"`` into its names, without blanks."""
    return [name.strip() for name in names.split(",") if name.strip()]


_T = TypeVar("_T", bound=_Table)


def _parse(table: type[_T], config: Mapping[str, Any]) -> _T:
    try:
        return table.model_validate(_unflatten(config), by_alias=True, by_name=False)
    except ValidationError as error:
        raise _refusal(_explain(table, fault) for fault in error.errors()) from None


def _refusal(lines: Iterable[str]) -> SettingsError:
    return SettingsError("wrong settings\n" + "\n".join(f"  {line}" for line in lines))


def _explain(table: type[_Table], fault: ErrorDetails) -> str:
    """Say of a fault which key, which value and what is allowed."""
    *tables, last = (str(part) for part in fault["loc"] or ("",))
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error" and isinstance(fault["input"], dict):
        return message  # of a whole table: it names the keys itself
    if fault["type"] == "extra_forbidden":
        message = f"there is no such setting; there are {_known_keys(table, tables)}"
    elif fault["type"] == "model_type":
        message = f"this is a table, whose settings are {_known_keys(table, [*tables, last])}"
    return f"{'.'.join([*tables, last])} = {_shown(fault['input'])}: {message}"


def _known_keys(table: type[_Table], tables: Sequence[str]) -> str:
    """List the keys of the table at a place in the tree, with that place."""
    place: Any = table
    for name in tables:
        place = next(field.annotation for field in place.model_fields.values() if field.alias == name)
    return ", ".join(".".join([*tables, field.alias]) for field in place.model_fields.values())


def _shown(value: object) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *tables, last = key.split(".")
        table = tree
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise _refusal([f"{key} = {_shown(value)}: {name} = {_shown(table)} is no table"])
        table[last] = value
    return tree


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
