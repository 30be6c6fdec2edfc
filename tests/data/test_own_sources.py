"""Data of the user's own code: what a function may return, and what becomes of it."""

import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import data.images
from data.arrays import Arrays, stacked
from data.federation import (
    load_client_data,
    load_own_data,
    load_public_pool,
    load_server_test,
    load_shared,
    load_withheld,
)
from data.images import Images
from data.sources import load_source
from data.tables import Table
from data.texts import Texts
from protocol.errors import DataError, SettingsError
from protocol.settings import DataSettings, NodeSettings, PublicSettings, RunSettings
from tests.support.packages import user_package

SOURCES = """
    from typing import ClassVar

    import datasets
    import numpy as np
    import pandas as pd
    import torch
    from PIL import Image
    from torch.utils.data import Dataset, IterableDataset, TensorDataset

    from protocol.tables import Table

    ROWS = 60
    VALUES = np.random.default_rng(0).normal(size=(ROWS, 8, 2)).astype(np.float32)
    PIXELS = np.random.default_rng(0).integers(0, 256, (ROWS, 5, 4), dtype=np.uint8)
    CALLS = []


    class Items(Dataset):
        def __init__(self, items, classes=None):
            self.items = items
            if classes:
                self.classes = classes

        def __len__(self):
            return len(self.items)

        def __getitem__(self, row):
            CALLS.append(row)
            return self.items[row]


    class Shift(Table):
        place: ClassVar[str] = "custom.shift"
        by: float = 0.0


    class Series(Dataset):
        def __init__(self, settings, split="train"):
            self.offset = settings.of(Shift).by + (100 if split == "test" else 0)

        def __len__(self):
            return ROWS

        def __getitem__(self, row):
            return torch.from_numpy(VALUES[row]) + self.offset, row % 3


    def items_of(inputs):
        return Items([(one, row % 3) for row, one in enumerate(inputs)])


    def series():
        return items_of(torch.from_numpy(VALUES))


    def doubles():
        return items_of(VALUES.astype(np.float64))


    def halves():
        return items_of(torch.from_numpy(VALUES).to(torch.bfloat16))


    def tensors():
        return TensorDataset(torch.from_numpy(VALUES), torch.arange(ROWS) % 3)


    def numbers():
        rows = VALUES[:, :, 0].copy()
        rows[7, 0] = np.nan
        return items_of(rows)


    def texts():
        return Items([(f"text number {row}", "yes" if row % 2 else "no") for row in range(ROWS)])


    def pictures():
        return items_of([Image.fromarray(one) for one in PIXELS])


    def modes():
        grey = Image.fromarray(PIXELS[0])
        wanted = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
        return Items([(grey.convert(mode), row % 2) for row, mode in enumerate(wanted)])


    def bytes_of_grey():
        return items_of(torch.from_numpy(PIXELS)[:, None])


    def bytes_in_colour():
        return items_of(np.stack([PIXELS, PIXELS // 2, PIXELS // 3], axis=1))


    def named():
        return Items([(VALUES[row], row % 3) for row in range(ROWS)], classes=["cat", "dog", "fox"])


    def inputs_alone():
        return Items(list(VALUES))


    def frame():
        return pd.DataFrame(
            {
                "age": np.arange(ROWS, dtype=float),
                "sex": pd.Categorical(["m", "f"] * (ROWS // 2)),
                "site": [f"site {row // 2 % 4}" for row in range(ROWS)],
                "patient": np.arange(ROWS) // 2,
                "label": np.arange(ROWS) % 3,
            },
            index=np.arange(ROWS)[::-1],
        )


    def frame_of_series():
        table = frame()[["site", "patient", "label"]]
        return table.assign(series=list(VALUES))


    def frame_of_pictures():
        return pd.DataFrame(
            {"image": [Image.fromarray(one) for one in PIXELS], "label": np.arange(ROWS) % 3}
        )


    def table():
        return datasets.Dataset.from_pandas(frame(), preserve_index=False)


    def table_of_series():
        features = datasets.Features(
            {"series": datasets.Array2D((8, 2), "float32"), "label": datasets.ClassLabel(names=list("abc"))}
        )
        return datasets.Dataset.from_dict(
            {"series": VALUES, "label": np.arange(ROWS) % 3}, features=features
        )


    def formatted():
        return table().with_format("torch")


    def splits():
        return datasets.DatasetDict({"train": table(), "test": table().select(range(10))})


    def told(split):
        CALLS.append(split)
        return frame()
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Yield what makes a reference of a name in the user's module."""
    with user_package(tmp_path_factory.mktemp("own"), {"sources": SOURCES}) as package:
        yield lambda name: f"{package}.sources:{name}"


@pytest.fixture
def write(tmp_path):
    """Return what makes a user's module of a function's body, and refers to the function."""
    opened = []

    def of(body, head="def mine():"):
        lines = ["import numpy as np, pandas as pd, torch, datasets", "from PIL import Image"]
        lines += ["from torch.utils.data import Dataset, IterableDataset", PAIRS, head, f"    {body}"]
        package = user_package(tmp_path, {"sources": "\n".join(lines)})
        opened.append(package)
        return f"{package.__enter__()}.sources:mine"

    yield of
    for package in reversed(opened):
        package.__exit__(None, None, None)


PAIRS = """
class Pairs(Dataset):
    def __init__(self, items):
        self.items = items
    def __len__(self):
        return len(self.items)
    def __getitem__(self, row):
        return self.items[row]
"""


def load(reference, run=None, labelled=True, keys=(), max_samples=0, **settings):
    chosen = DataSettings(source=reference, **settings)
    return load_source(
        "data.source",
        reference,
        chosen,
        labelled=labelled,
        keys=keys,
        max_samples=max_samples,
        run=run or RunSettings(data=chosen),
    )


def module_of(reference):
    return sys.modules[reference.split(":")[0]]


def run_settings(reference, seed=0, public_source="", public_size=20, custom=None, **data):
    data = {"split": "iid", "server_test_size": 10, **data}
    return RunSettings(
        seed=seed,
        data=DataSettings(source=reference, **data),
        public=PublicSettings(source=public_source, size=public_size, subset_size=1),
        custom=custom or {},
    )


def everything(inputs):
    return inputs[torch.arange(len(inputs))]


# --- a torch Dataset -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["series", "doubles", "tensors"])
def test_floats_of_two_dimensions_become_arrays_as_they_are(name, own):
    source = load(own(name))
    values = module_of(own(name)).VALUES
    assert isinstance(source.content, Arrays)
    assert np.array_equal(source.content.values, values)
    assert source.content.values.dtype == np.float32
    assert source.classes.names == ("0", "1", "2")
    assert source.labels.tolist() == [row % 3 for row in range(60)]


def test_halves_become_float32(own):
    values = load(own("halves")).content.values
    assert values.dtype == np.float32
    assert np.allclose(values, module_of(own("halves")).VALUES, rtol=0.01)


def test_floats_of_one_dimension_become_a_table_with_gaps(own):
    source = load(own("numbers"))
    assert isinstance(source.content, Table)
    assert list(source.content.frame) == [f"x{place}" for place in range(8)]
    assert source.content.frame["x0"].isna().tolist() == [row == 7 for row in range(60)]


def test_codes_among_numbers_are_named_by_their_place(own):
    form = load_shared(run_settings(own("numbers"), categorical="x3")).form
    assert form.categorical == ("x3",)


def test_texts_become_texts(own):
    source = load(own("texts"))
    assert isinstance(source.content, Texts)
    assert source.content.texts[:2] == ("text number 0", "text number 1")
    assert source.classes.names == ("no", "yes")


@pytest.mark.parametrize("name", ["pictures", "bytes_of_grey", "frame_of_pictures"])
def test_grey_pictures_and_bytes_of_one_channel_become_images(name, own):
    source = load(own(name))
    assert isinstance(source.content, Images)
    assert np.array_equal(source.content.pixels[:, 0], module_of(own(name)).PIXELS)


def test_bytes_of_three_channels_become_images_in_colour(own):
    pixels = module_of(own("series")).PIXELS
    found = load(own("bytes_in_colour")).content.pixels
    assert np.array_equal(found, np.stack([pixels, pixels // 2, pixels // 3], axis=1))


def test_pictures_of_every_mode_of_8_bits_are_converted(own):
    source = load(own("modes"), channels=3)
    assert source.content.shape == (3, 5, 4)
    assert source.content.kept.tolist() == list(range(8))


def test_pictures_are_resized_as_those_of_files(own):
    assert load(own("pictures"), image_size=16, channels=3).content.shape == (3, 16, 16)


def test_the_names_of_a_torch_datasets_classes_are_its_classes(own):
    source = load(own("named"))
    assert source.classes.names == ("cat", "dog", "fox")
    assert source.labels.tolist() == [row % 3 for row in range(60)]


def test_labels_that_are_the_names_of_a_torch_datasets_classes_keep_their_order(write):
    body = "found = Pairs([(torch.zeros(2, 2), name) for name in ('low', 'high', 'mid')])"
    reference = write(f"{body}\n    found.classes = ['low', 'mid', 'high']\n    return found")
    source = load(reference)
    assert source.classes.names == ("low", "mid", "high")
    assert source.labels.tolist() == [0, 2, 1]


def test_numbers_keep_their_precision(write):
    source = load(write("return Pairs([(np.array([1e9 + row, 0.5]), row % 2) for row in range(4)])"))
    assert source.content.frame["x0"].tolist() == [1e9, 1e9 + 1, 1e9 + 2, 1e9 + 3]


def test_the_example_source_holds_a_third_of_each_class():
    source = load("custom.sources:SensorSeries")
    assert source.content.values.shape == (1200, 64, 2)
    assert source.classes.names == ("slow", "fast", "square")
    assert torch.bincount(source.labels).tolist() == [400, 400, 400]


def test_declared_classes_order_those_of_a_torch_dataset(own):
    source = load(own("named"), classes="fox,cat|dog")
    assert source.labels[:3].tolist() == [1, 1, 0]


def test_a_pool_may_be_inputs_alone(own):
    source = load(own("inputs_alone"), labelled=False)
    assert np.array_equal(source.content.values, module_of(own("series")).VALUES)
    assert source.targets is None


def test_only_as_many_rows_as_asked_are_read_and_each_once(own):
    calls = module_of(own("series")).CALLS
    calls.clear()
    assert len(load(own("series"), max_samples=7)) == 7
    assert calls == list(range(7))


# --- a Dataset of datasets, a DataFrame ----------------------------------------------------------


@pytest.mark.parametrize("name", ["frame", "table", "formatted", "splits"])
def test_a_table_is_read_as_one_of_a_file(name, own):
    source = load(own(name), keys=("site", "group"), site="site", group="patient")
    assert list(source.content.frame) == ["age", "sex"]
    assert source.content.frame["age"].tolist() == list(range(60))
    assert source.sites.names == tuple(f"site {number}" for number in range(4))
    assert [source.groups.names[one] for one in source.groups.numbers] == [str(row // 2) for row in range(60)]
    assert source.labels.tolist() == [row % 3 for row in range(60)]


@pytest.mark.parametrize("name", ["frame_of_series", "table_of_series"])
def test_a_column_of_arrays_is_what_is_learned_from(name, own):
    named = {"site": "site", "group": "patient"} if name == "frame_of_series" else {}
    source = load(own(name), keys=("site", "group") if named else (), **named)
    assert np.array_equal(source.content.values, module_of(own(name)).VALUES)
    assert (source.groups is not None) == bool(named)


def test_a_table_may_name_files_by_their_paths(write, tmp_path):
    from PIL import Image

    Image.new("L", (3, 2), 7).save(tmp_path / "a.png")
    body = f"return pd.DataFrame({{'file': ['{tmp_path}/a.png'] * 2, 'label': [0, 1]}})"
    assert load(write(body)).content.pixels.unique().tolist() == [7]


def test_images_in_a_table_may_have_captions_for_labels(write):
    body = "return pd.DataFrame({'image': [Image.new('L', (3, 2))] * 2, 'caption': ['grade 0', 'It is 1.']})"
    assert load(write(body), classes="0,1").labels.tolist() == [0, 1]


# --- how it is called ----------------------------------------------------------------------------


def test_it_is_called_with_the_runs_settings_and_reads_its_own_table(own):
    run = run_settings(own("Series"), custom={"shift": {"by": 2.5}})
    source = load(own("Series"), run)
    assert np.array_equal(source.content.values, module_of(own("Series")).VALUES + np.float32(2.5))


def test_a_wrong_setting_of_its_own_is_refused_as_any(own):
    run = run_settings(own("Series"), custom={"shift": {"by": "far"}})
    with pytest.raises(SettingsError, match=r'custom\.shift\.by = "far"'):
        load(own("Series"), run)


def test_what_stands_after_the_sign_is_handed_on_as_split(own):
    values = load(own("Series") + "#test").content.values
    assert np.array_equal(values, module_of(own("Series")).VALUES + np.float32(100))


def test_a_function_whose_split_has_no_default_is_asked_for_train(own):
    calls = module_of(own("told")).CALLS
    calls.clear()
    load(own("told"))
    load(own("told") + "#late")
    assert calls == ["train", "late"]


def test_a_split_is_one_of_those_returned(own):
    assert len(load(own("splits") + "#test")) == 10
    with pytest.raises(DataError, match="name a split after #, for example #train; there are train, test"):
        load(own("splits") + "#dev")


@pytest.mark.parametrize("name", ["series", "frame"])
def test_a_split_that_nothing_takes_is_refused(name, own):
    with pytest.raises(DataError, match=r"so (no split|none) can be named after #"):
        load(own(name) + "#test")


def test_a_function_sees_another_runs_settings_anew(own):
    pools = [
        load_public_pool(run_settings(own("Series"), custom={"shift": {"by": by}})).digest
        for by in (0.0, 1.0)
    ]
    assert pools[0] != pools[1]


# --- it is a source like any other ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["series", "frame_of_series"])
def test_each_row_is_in_one_part_and_comes_as_it_is(name, own):
    named = {"site": "site", "group": "patient"} if name == "frame_of_series" else {}
    run = run_settings(own(name), withheld_size=6, **named)
    clients = [load_client_data(run, client, 2) for client in range(2)]
    parts = [load_public_pool(run).inputs, load_server_test(run).inputs, load_withheld(run).inputs]
    parts += [samples.inputs for client in clients for samples in (client.train, client.test)]
    found = torch.cat([everything(part) for part in parts]).numpy()
    values = module_of(own(name)).VALUES
    assert sorted(one.tobytes() for one in found) == sorted(one.tobytes() for one in values)
    assert {part.kind for part in parts} == {"arrays"}
    assert clients[0].train.input_shape == (8, 2)


def test_parts_and_batches_of_arrays_are_arrays_still(own):
    inputs = load_public_pool(run_settings(own("series"))).inputs
    part = inputs.take(torch.tensor([3, 1])).to("cpu")
    assert part.kind == "arrays"
    assert torch.equal(everything(part), inputs[torch.tensor([3, 1])])


def test_the_record_of_the_data_says_that_arrays_come_as_they_are(own):
    facts = load_shared(run_settings(own("series"))).facts()
    assert facts["input"] == {"shape": [8, 2], "values": "as the source returns them"}


def test_groups_of_a_users_table_are_never_divided(own):
    run = run_settings(own("frame_of_series"), features="series", group="patient")
    clients = [load_client_data(run, client, 2) for client in range(2)]
    parts = [load_public_pool(run).inputs, load_server_test(run).inputs]
    parts += [samples.inputs for client in clients for samples in (client.train, client.test)]
    row_of = {one.tobytes(): row for row, one in enumerate(module_of(own("series")).VALUES)}
    patients = [{row_of[one.numpy().tobytes()] // 2 for one in everything(part)} for part in parts]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 30


def test_sites_of_a_users_table_are_whole_clients(own):
    run = run_settings(own("frame"), site="site", split="natural", public_size=10)
    sizes = [len(load_client_data(run, client, 4).train) for client in range(4)]
    assert load_shared(run).source.sites.names == ("site 0", "site 1", "site 2", "site 3")
    assert all(4 <= size <= 16 for size in sizes)


def test_test_data_and_pool_may_be_references_too(own):
    run = run_settings(
        own("series"),
        public_source=own("inputs_alone"),
        test_source=own("Series") + "#test",
        server_test_size=0,
        custom={"shift": {"by": 1.0}},
    )
    test = everything(load_server_test(run).inputs)
    assert torch.equal(test.sum(), (torch.from_numpy(module_of(own("series")).VALUES) + 101).sum())
    assert len(load_public_pool(run)) == 20
    assert len(load_client_data(run, 0, 1).train) == 48


def test_a_nodes_own_data_and_pool_may_be_references(own):
    node = NodeSettings.parse(
        {"client-name": "north", "data-path": own("Series") + "#test", "public-path": own("inputs_alone")}
    )
    run = RunSettings(
        data=DataSettings(source="nodes", classes="3", server_test_size=0),
        public=PublicSettings(source="/elsewhere/pool.parquet", size=20, subset_size=1),
    )
    mine = load_own_data(run, node.data_path, node.public_path, node.name)
    assert len(mine.train) + len(mine.test) == 60
    assert everything(mine.train.inputs).min() > 90


def test_a_relative_path_of_a_node_is_no_reference():
    with pytest.raises(
        SettingsError, match=r"data-path = .*absolute path .* reference custom\.module:attribute"
    ):
        NodeSettings.parse({"client-name": "north", "data-path": "mine:rows"})


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ("told", "holds arrays, the public pool a table: both must be of "),
        ("doubled", r"has arrays of \(8, 2\), the public pool has \(4, 2\)"),
    ],
)
def test_arrays_of_another_kind_or_shape_than_the_pools_are_refused(pool, message, own, write):
    other = own(pool) if pool == "told" else write("return Pairs([torch.zeros(4, 2)] * 20)")
    run = run_settings(own("series"), public_source=other)
    with pytest.raises(DataError, match=message):
        load_client_data(run, 0, 2)


# --- the same on every machine -------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_find_the_same_pool(own):
    """As nodes do, each of which calls the function itself."""
    program = (
        "import sys; from protocol.references import open_package\n"
        "from protocol.settings import *; from data import load_public_pool\n"
        "open_package(sys.argv[1].split('.')[0])\n"
        "for source in sys.argv[1:]:\n"
        "    run = RunSettings(data=DataSettings(source=source, split='iid', server_test_size=10),\n"
        "                      public=PublicSettings(size=20, subset_size=1))\n"
        "    print(load_public_pool(run).digest)\n"
    )
    names = [own(name) for name in ("series", "numbers", "texts", "pictures", "table_of_series")]
    here = [load_public_pool(run_settings(name)).digest for name in names]
    folder = Path(module_of(names[0]).__file__).parents[1]
    repository = Path(data.images.__file__).parents[1]
    there = subprocess.run(
        [sys.executable, "-c", program, *names],
        cwd=repository,
        env={"PYTHONPATH": f"{repository}:{folder}", "XDG_CACHE_HOME": str(folder / "cache"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.split() == here


@pytest.mark.parametrize("name", ["series", "pictures", "frame"])
def test_the_digest_of_a_pool_changes_with_a_value_of_it(name, own, monkeypatch):
    run = run_settings(own(name))
    before = load_public_pool(run).digest
    module = module_of(own(name))
    monkeypatch.setattr(module, "VALUES", module.VALUES + np.float32(1))
    monkeypatch.setattr(module, "PIXELS", module.PIXELS ^ 1)
    monkeypatch.setattr(module, "ROWS", 58)
    forget()
    assert load_public_pool(run).digest != before
    monkeypatch.undo()
    forget()
    assert load_public_pool(run).digest == before


def forget():
    """Forget what is loaded, as a new process would."""
    from data import federation

    load_source.cache_clear()
    federation._shared.cache_clear()


@pytest.mark.parametrize("name", ["pictures", "frame_of_pictures"])
def test_images_are_prepared_again_if_one_of_them_is_another(name, own, monkeypatch):
    """A table's own fingerprint need not change with what a user's code puts into it."""
    module = module_of(own(name))
    first = load(own(name)).content.pixels.clone()
    changed = module.PIXELS.copy()
    changed[40] = 255 - changed[40]
    monkeypatch.setattr(module, "PIXELS", changed)
    monkeypatch.setattr(datasets.fingerprint, "generate_fingerprint", lambda dataset: "always the same")
    load_source.cache_clear()
    second = load(own(name)).content.pixels
    assert [row for row in range(60) if not torch.equal(first[row], second[row])] == [40]


@pytest.mark.parametrize("name", ["pictures", "frame_of_pictures", "bytes_in_colour"])
def test_images_that_are_the_same_are_prepared_once(name, own, monkeypatch):
    first = load(own(name)).content.pixels
    load_source.cache_clear()
    monkeypatch.setattr(data.images, "_write", lambda *_: pytest.fail("prepared again"))
    assert torch.equal(load(own(name)).content.pixels, first)


def test_the_same_images_in_another_table_are_known_again(write, monkeypatch):
    """As where a table is made anew by a function that ``datasets`` cannot hash."""
    body = (
        "return datasets.Dataset.from_dict({'image': [Image.new('L', (3, 2), row) for row in range(4)], "
        "'label': [0, 1, 0, 1]}, info=datasets.DatasetInfo(description='%s'))"
    )
    first, second = write(body % "one"), write(body % "other")
    pixels = load(first).content.pixels
    monkeypatch.setattr(data.images, "_write", lambda *_: pytest.fail("prepared again"))
    assert torch.equal(load(second).content.pixels, pixels)


# --- what is refused -----------------------------------------------------------------------------

ALLOWED = r"a datasets\.Dataset, a pandas DataFrame, or a torch Dataset of \(input, label\) pairs"
WRONG = {
    "nothing": ("return None", rf"returned a value of type NoneType; allowed are {ALLOWED}"),
    "a list": ("return [1, 2]", rf"returned a value of type list; allowed are {ALLOWED}"),
    "an exception": (
        "raise FileNotFoundError('/srv/x.mat is not there')",
        r'data\.source = ".*:mine": raised FileNotFoundError: /srv/x\.mat is not there',
    ),
    "an empty table": ("return pd.DataFrame({'age': [], 'label': []})", "holds no rows"),
    "an empty torch Dataset": ("return Pairs([])", "holds no rows"),
    "no length": (
        "return Pairs(3)",
        "a torch Dataset must have a length: TypeError: object of type 'int' has no len",
    ),
    "an exception at a row": ("return Pairs({0: (torch.zeros(2, 2), 0), 2: 0})", "row 1: KeyError: 1"),
    "a triple": (
        "return Pairs([(1, 2, 3)])",
        r"row 0: is a tuple of length 3; an item must be a pair \(input, label\)",
    ),
    "an input alone": ("return Pairs([torch.zeros(2)])", r"row 0: is a Tensor; an item must be a pair"),
    "integers of 16 bits": (
        "return Pairs([(torch.zeros(5, 2, dtype=torch.int16), 0)])",
        r"row 0: the input is int16 of shape \(5, 2\)",
    ),
    "integers": (
        "return Pairs([(torch.zeros(5, dtype=torch.int64), 0)])",
        r"row 0: the input is int64 of shape \(5,\); allowed are images \(PIL, or uint8 of shape \(channels",
    ),
    "channels last": ("return Pairs([(np.zeros((4, 4, 3), np.uint8), 0)])", r"uint8 of shape \(4, 4, 3\)"),
    "one number": ("return Pairs([(np.float32(3), 0)])", "row 0: the input is a float32; allowed are"),
    "no numbers": ("return Pairs([(np.zeros((0, 2)), 0)])", r"row 0: the input is float64 of shape \(0, 2\)"),
    "an object": ("return Pairs([({'a': 1}, 0)])", "row 0: the input is a dict; allowed are"),
    "pixels of 16 bits": (
        "return Pairs([(Image.new('I', (2, 2)), 0)])",
        r"row 0: an image's pixels are I; they must have 8 bits: scale them to 0\.\.255",
    ),
    "two kinds": (
        "return Pairs([(torch.zeros(2, 2), 0), ('a text', 1)])",
        "row 1: is a text, the first one is an array",
    ),
    "two shapes": (
        "return Pairs([(torch.zeros(64, 2), 0), (torch.zeros(64, 2), 1), (torch.zeros(63, 2), 1)])",
        r"row 2: has the shape \(63, 2\), the first one \(64, 2\); all must have the same shape",
    ),
    "two lengths": (
        "return Pairs([(torch.zeros(3), 0), (torch.zeros(4), 1)])",
        r"row 1: has the shape \(4,\), the first one \(3,\); all must have the same shape",
    ),
    "not a number": (
        "return Pairs([(torch.zeros(3, 2), 0), (torch.tensor([[0, 1], [0, np.nan]]).repeat(2, 1)[:3], 1)])",
        r"row 1: has the shape \(3, 2\) and holds nan at \[1, 1\]; all numbers must be finite",
    ),
    "too large for float32": (
        "return Pairs([(np.full((1, 2), 1e300), 0), (np.zeros((1, 2)), 1)])",
        r"row 0: has the shape \(1, 2\) and holds inf at \[0, 0\]",
    ),
    "a label of several numbers": (
        "return Pairs([(torch.zeros(2, 2), torch.tensor([0, 1]))])",
        r"row 0: the label is a ndarray of shape \(2,\); it must be one number or a text",
    ),
    "a label that is an object": (
        "return Pairs([(torch.zeros(2, 2), {'a': 1})])",
        "row 0: the label is a dict; it must be one number or a text",
    ),
    "labels of two kinds": (
        "return Pairs([(torch.zeros(2, 2), 0), (torch.zeros(2, 2), 'a')])",
        "row 1: the label is 'a', the first one is 0; labels must be all numbers or all texts",
    ),
    "one label": ("return Pairs([(torch.zeros(2, 2), 4)] * 3)", "column 'label' holds only the label '4'"),
    "names without text": ("return pd.DataFrame(np.zeros((3, 2)))", r"they are \[0, 1\]"),
    "cells of two kinds": (
        "return pd.DataFrame({'age': [1, 'a'], 'label': [0, 1]})",
        "the DataFrame cannot be converted to a table: ",
    ),
    "a transform": (
        "return datasets.Dataset.from_dict({'a': [1], 'label': [0]}).with_transform(lambda rows: rows)",
        "the Dataset has a transform, .* apply it with map",
    ),
    "a stream": (
        "return datasets.Dataset.from_dict({'a': [1], 'label': [0]}).to_iterable_dataset()",
        rf"returned a value of type IterableDataset; allowed are {ALLOWED}",
    ),
    "gaps among arrays": (
        "return pd.DataFrame({'series': [[1.0, 2.0], None], 'label': [0, 1]})",
        "column 'series', row 1: holds no array; all must be arrays of the same shape",
    ),
}


@pytest.mark.parametrize(("body", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_data_is_refused_by_its_reference(body, message, write):
    reference = write(body)
    with pytest.raises(DataError, match=message) as raised:
        load(reference)
    assert f'data.source = "{reference}"' in str(raised.value)


def test_a_label_that_is_none_of_the_declared_classes_is_refused_by_its_row(own):
    with pytest.raises(DataError, match="row 2: label '2' is none of the 2 classes 0, 1"):
        load(own("series"), classes="2")


@pytest.mark.parametrize(("first", "label"), [("0", "3"), ("0", "-1"), ("0", "0.5"), ("'a'", "'d'")])
def test_a_label_that_a_torch_datasets_classes_do_not_name_is_refused_by_its_row(first, label, write):
    body = f"found = Pairs([(torch.zeros(2, 2), {first}), (torch.zeros(2, 2), {label})])"
    reference = write(f"{body}\n    found.classes = ['a', 'b', 'c']\n    return found")
    with pytest.raises(
        DataError, match=f"row 1: the label is {label}; it must be .* a, b, c, or its number from 0 to 2"
    ):
        load(reference)


def test_a_row_without_a_label_is_refused(write):
    reference = write(
        "return Pairs([(torch.zeros(2, 2), 0), (torch.zeros(2, 2), 1), (torch.zeros(2, 2), None)])"
    )
    with pytest.raises(DataError, match="row 2: column 'label' holds no label"):
        load(reference)


def test_a_function_that_takes_something_else_is_refused(write):
    reference = write("return None", head="def mine(root, settings, download=False):")
    with pytest.raises(
        DataError,
        match="has the parameters root without a default; a source is given settings and split only",
    ):
        load(reference)


def test_an_object_is_refused(write):
    reference = write("pass", head="mine = Pairs([])\ndef other():")
    with pytest.raises(DataError, match="is a Pairs; must be a function or class that returns a datasets"):
        load(reference)


def test_a_column_that_a_torch_dataset_has_not_is_refused(own):
    with pytest.raises(DataError, match=r'data\.label = "died": .* no such column; there are label'):
        load(own("series"), label="died")


def test_a_name_that_is_not_there_is_refused_with_what_there_is(own):
    with pytest.raises(SettingsError, match=r"module .*\.sources defines no serie; it defines .*\bseries\b"):
        load(own("serie"))


# --- properties ----------------------------------------------------------------------------------

FINITE = st.floats(-1e6, 1e6, width=32)
SOME = arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=4), elements=FINITE)


@given(SOME, st.data())
def test_arrays_come_back_as_they_went_in(values, draw):
    order = torch.tensor(draw.draw(st.permutations(range(len(values)))))
    found = Arrays(stacked(list(values), "mine"))
    inputs = found.inputs(order)
    assert found.shape == values.shape[1:] == inputs.shape
    assert np.array_equal(everything(inputs).numpy(), values[order.numpy()])


@given(SOME, st.data())
def test_a_digest_tells_arrays_their_order_and_their_shape_apart(values, draw):
    order = draw.draw(st.permutations(range(len(values))))
    rows, moved = torch.arange(len(values)), torch.tensor(order)
    found = Arrays(values)
    same = values[order].tobytes() == values.tobytes()
    assert (found.digest(moved) == found.digest(rows)) == same
    assert found.digest(moved) == Arrays(values[order].copy()).digest(rows)
    assert Arrays(values[:, None].copy()).digest(rows) != found.digest(rows)
