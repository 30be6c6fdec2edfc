import pickle
import time
from contextlib import suppress
from pathlib import Path

import datasets
import numpy as np
import pytest
import torchvision.datasets
from datasets import Dataset, DatasetDict
from scipy.io import savemat

from data.reading import read_rows
from protocol.errors import DataError
from tests.data.on_disk import COLOUR, GREY, LABELS, csv, idx, image_folder, parquet

WHERE = 'data.source = "/x"'


def read(source):
    return read_rows(str(source), WHERE)


def column(source, name="a"):
    return read(source).table[name][:]


# --- files ---------------------------------------------------------------------------------------


def test_a_parquet_file_is_read(tmp_path):
    assert column(parquet(tmp_path, a=[3, 1, 2])) == [3, 1, 2]


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_a_csv_file_is_read_packed_or_not(name, tmp_path):
    rows = read(csv(tmp_path, "a,b\n1,x\n,y\n3,z\n", name))
    assert rows.table["a"][:] == [1.0, None, 3.0]
    assert rows.table["b"][:] == ["x", "y", "z"]


@pytest.mark.parametrize("name", ["table.json", "table.jsonl"])
def test_a_json_file_is_read(name, tmp_path):
    lines = ['{"a": 1, "b": "x"}', '{"a": 2, "b": "y"}']
    (tmp_path / name).write_text("\n".join(lines) if name.endswith("l") else f"[{','.join(lines)}]")
    rows = read(tmp_path / name)
    assert (rows.table["a"][:], rows.table["b"][:], rows.folder) == ([1, 2], ["x", "y"], tmp_path)
    with pytest.raises(DataError, match="has no splits, so none can be named after #"):
        read(f"{tmp_path / name}#test")


@pytest.mark.parametrize("of_a_folder", [True, False])
def test_a_csv_file_may_have_gaps_and_fractions_after_many_whole_numbers(of_a_folder, tmp_path):
    path = csv(tmp_path, "a,b\n" + "1,2\n" * 20_000 + ",2\n0.5,2\n")
    cells = column(tmp_path if of_a_folder else path)
    assert len(cells) == 20_002
    assert cells[-3:] == [1.0, None, 0.5]


def test_names_of_files_are_relative_to_the_folder_of_the_table(tmp_path):
    assert read(parquet(tmp_path, a=[1])).folder == tmp_path
    assert read(tmp_path).folder == tmp_path


def test_a_path_may_begin_with_the_home(tmp_path, monkeypatch):
    parquet(tmp_path, a=[1])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert column("~/table.parquet") == [1]


def test_the_file_is_read_again_when_it_changed(tmp_path):
    parquet(tmp_path, a=[1])
    before = read(tmp_path / "table.parquet").table
    parquet(tmp_path, a=[2])
    after = read(tmp_path / "table.parquet").table
    assert (before["a"][:], after["a"][:]) == ([1], [2])
    assert before._fingerprint != after._fingerprint


# --- folders and splits --------------------------------------------------------------------------


def test_a_folder_that_datasets_saved_is_read(tmp_path):
    Dataset.from_dict({"a": [3, 1]}).save_to_disk(tmp_path / "saved")
    assert column(tmp_path / "saved") == [3, 1]


def splits(folder, *names):
    parts = {name: Dataset.from_dict({"a": [number]}) for number, name in enumerate(names)}
    DatasetDict(parts).save_to_disk(folder)
    return folder


@pytest.mark.parametrize(
    ("names", "asked", "expected"),
    [
        (["test", "train"], "", 1),
        (["test", "train"], "#test", 0),
        (["test", "train"], "#train", 1),
        (["everything"], "", 0),
        (["everything"], "#everything", 0),
    ],
)
def test_the_split_is_the_one_named_else_train_or_the_only_one(names, asked, expected, tmp_path):
    assert column(f"{splits(tmp_path / 'saved', *names)}{asked}") == [expected]


@pytest.mark.parametrize(("names", "asked"), [(["dev", "test"], ""), (["dev", "test"], "#train")])
def test_a_split_that_is_not_there_is_refused_with_those_that_are(names, asked, tmp_path):
    with pytest.raises(DataError, match=r"name a split after #, for example #dev; there are dev, test$"):
        read(f"{splits(tmp_path / 'saved', *names)}{asked}")


def test_a_split_of_what_has_none_is_refused(tmp_path):
    Dataset.from_dict({"a": [1]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="has no splits, so none can be named after #"):
        read(f"{tmp_path / 'saved'}#train")


def test_a_folder_of_files_named_after_splits_has_these(tmp_path):
    parquet(tmp_path, "train.parquet", a=[1])
    parquet(tmp_path, "test.parquet", a=[2])
    assert column(tmp_path) == [1]
    assert column(f"{tmp_path}#test") == [2]


@pytest.mark.parametrize("name", ["dev", "val", "valid", "validation"])
def test_a_split_has_the_name_of_its_file_though_datasets_renames_it(name, tmp_path):
    parquet(tmp_path, "train.parquet", a=[1])
    parquet(tmp_path, f"{name}.parquet", a=[2])
    assert column(f"{tmp_path}#{name}") == [2]
    assert column(f"{tmp_path}#validation") == [2]


def test_a_folder_of_images_has_a_class_a_folder(tmp_path):
    image_folder(tmp_path)
    table = read(tmp_path).table
    assert table.features["label"].names == ["cat", "dog"]
    assert table["label"][:] == [0, 0, 1, 1]


def test_a_folder_of_images_may_be_split_into_train_and_test(tmp_path):
    image_folder(tmp_path / "train", images=3)
    image_folder(tmp_path / "test", images=1)
    assert len(read(tmp_path).table) == 6
    assert read(f"{tmp_path}#test").table["label"][:] == [0, 1]


# --- what is refused -----------------------------------------------------------------------------


def test_a_path_where_nothing_is_is_refused(tmp_path):
    with pytest.raises(DataError, match=r'^data\.source = "/x": this path does not exist$'):
        read(tmp_path / "nothing.parquet")


def test_a_recipes_placeholder_says_where_to_get_the_data():
    with pytest.raises(
        DataError, match=r"a recipe's placeholder; replace it by the path of your copy \(README"
    ):
        read("/path/to/cifar10/train.parquet")


def test_a_file_of_another_kind_is_refused_with_the_kinds_that_are_read(tmp_path):
    (tmp_path / "table.xlsx").write_text("")
    kinds = r"a folder, or a file that ends in \.parquet, \.csv, \.csv\.gz, \.json or \.jsonl$"
    with pytest.raises(DataError, match=kinds):
        read(tmp_path / "table.xlsx")


@pytest.mark.parametrize("name", ["table.parquet", "table.csv", "table.csv.gz"])
@pytest.mark.parametrize("content", [b"", b"\x00\xffno table"], ids=["empty", "broken"])
def test_a_file_that_cannot_be_read_is_refused(name, content, tmp_path):
    if (name, content) == ("table.csv", b"\x00\xffno table"):
        content = b'a,b\n1,2\n1,2,3\n"'
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r'data\.source = "/x": cannot be read: \w+: .'):
        read(tmp_path / name)


def test_a_folder_without_data_is_refused(tmp_path):
    with pytest.raises(DataError, match=r'data\.source = "/x": cannot be read: \w+: .'):
        read(tmp_path)


@pytest.mark.parametrize("write", [lambda folder: parquet(folder, a=[]), lambda folder: csv(folder, "a,b\n")])
def test_a_table_without_rows_is_refused(write, tmp_path):
    with pytest.raises(DataError, match="holds no rows"):
        read(write(tmp_path))


# --- the hub -------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch):
    """Let every address be unknown, and collect those that are looked up."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    asked = []

    def refuse(*address, **_):
        asked.append(address[0])
        raise OSError("no network here")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return asked


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing:a#test", "data/train.parquet"])
def test_without_a_network_a_hub_id_fails_soon_and_says_what_to_do(name):
    start = time.monotonic()
    with pytest.raises(DataError) as error:
        read(name)
    assert time.monotonic() - start < 10
    message = str(error.value)
    assert 'data.source = "/x": not a path (it does not begin with / or ~), and cannot be loaded' in message
    assert "does not answer (ConnectError: " in message
    assert "save_to_disk and give the folder's path" in message


def test_without_a_network_the_hub_is_asked_once(no_network):
    with pytest.raises(DataError):
        read("nobody/nothing")
    assert len(no_network) == 1


@pytest.mark.usefixtures("no_network")
def test_datasets_are_as_online_as_before(tmp_path):
    for source in ("nobody/nothing", parquet(tmp_path, a=[1])):
        with suppress(DataError):
            read(source)
        assert datasets.config.HF_HUB_OFFLINE is False


@pytest.mark.usefixtures("no_network")
def test_without_a_network_a_copy_from_the_hub_that_is_cached_is_read():
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "owner___name" / "default" / "0.0.0" / ("0" * 40)
    folder.mkdir(parents=True)
    info = datasets.DatasetInfo(
        builder_name="parquet", dataset_name="name", config_name="default", version="0.0.0",
        features=datasets.Features({"a": datasets.Value("int64")}),
        splits=datasets.SplitDict({"train": datasets.SplitInfo("train", num_examples=2)}),
    )  # fmt: skip
    info.write_to_directory(str(folder))
    with datasets.arrow_writer.ArrowWriter(path=str(folder / "name-train.arrow")) as writer:
        writer.write_table(Dataset.from_dict({"a": [5, 6]}).data.table)
        writer.finalize()
    assert column("owner/name") == [5, 6]


@pytest.mark.parametrize("kind", ["parquet", "csv", "folder", "images"])
def test_to_read_from_the_disk_nobody_is_asked(kind, no_network, tmp_path):
    match kind:
        case "parquet":
            read(parquet(tmp_path, a=[1]))
        case "csv":
            read(csv(tmp_path, "a\n1\n"))
        case "folder":
            parquet(tmp_path, a=[1])
            read(tmp_path)
        case "images":
            image_folder(tmp_path)
            read(tmp_path)
    assert no_network == []


# --- torchvision ---------------------------------------------------------------------------------


def mnist(folder, name="MNIST", images=GREY):
    for part in ("train", "t10k"):
        idx(folder / name / "raw" / f"{part}-images-idx3-ubyte", images if part == "train" else images[:2])
        labels = np.array(LABELS if part == "train" else LABELS[:2], dtype=np.uint8)
        idx(folder / name / "raw" / f"{part}-labels-idx1-ubyte", labels)
    return folder


def cifar10(folder, monkeypatch):
    place = folder / "cifar-10-batches-py"
    place.mkdir()
    pixels = np.arange(2 * 3 * 32 * 32, dtype=np.uint8).reshape(2, 3072)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        (place / name).write_bytes(pickle.dumps({"data": pixels, "labels": [7, 3]}))
    names = [f"name {number}" for number in range(10)]
    (place / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    return pixels.reshape(2, 3, 32, 32).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_folder_of_torchvisions_or_the_one_above_is_read(name, inside, tmp_path):
    mnist(tmp_path, name)
    rows = read(tmp_path / name if inside else tmp_path)
    assert rows.table["label"][:] == LABELS
    assert [rows.content.content(row) for row in range(6)] == [image.tobytes() for image in GREY]


def test_a_split_of_torchvisions_is_read(tmp_path):
    rows = read(f"{mnist(tmp_path)}#test")
    assert rows.table["label"][:] == LABELS[:2]
    assert len(rows.content) == 2


def test_classes_of_torchvisions_have_their_names(tmp_path):
    names = read(mnist(tmp_path, "FashionMNIST")).table.features["label"].names
    assert names[:3] == ["T-shirt/top", "Trouser", "Pullover"]


def test_cifar10_as_torchvision_keeps_it_is_read(tmp_path, monkeypatch):
    pixels = cifar10(tmp_path, monkeypatch)
    rows = read(tmp_path)
    assert rows.table["label"][:] == [7, 3] * 5
    assert rows.table.features["label"].names[7] == "name 7"
    assert np.array_equal(rows.content.decode(rows.content.content(1)), pixels[1])


def test_svhn_as_torchvision_keeps_it_is_read(tmp_path, monkeypatch):
    savemat(tmp_path / "train_32x32.mat", {"X": COLOUR.transpose(1, 2, 3, 0), "y": [[1], [10], [2]] * 2})
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda _: True)
    rows = read(tmp_path)
    assert rows.table["label"][:] == [1, 0, 2] * 2
    assert rows.table.features["label"].names == [str(digit) for digit in range(10)]
    assert np.array_equal(rows.content.decode(rows.content.content(4)), COLOUR[4])


def test_qmnist_as_torchvision_keeps_it_is_read(tmp_path):
    idx(tmp_path / "QMNIST" / "raw" / "qmnist-train-images-idx3-ubyte", GREY)
    labels = np.stack([LABELS, [9] * 6], axis=1).astype(np.int32)
    idx(tmp_path / "QMNIST" / "raw" / "qmnist-train-labels-idx2-int", labels)
    assert read(tmp_path).table["label"][:] == LABELS


def test_the_fingerprint_of_torchvisions_changes_with_split_and_pixels(tmp_path):
    mnist(tmp_path / "a")
    mnist(tmp_path / "b", images=GREY[::-1])
    places = (tmp_path / "a", f"{tmp_path / 'a'}#test", tmp_path / "b")
    prints = [read(place).content.fingerprint for place in places]
    assert len(set(prints)) == 3
    assert read(tmp_path / "a").content.fingerprint == prints[0]


def test_several_of_torchvisions_in_one_folder_are_refused_with_their_names(tmp_path):
    mnist(mnist(tmp_path), "FashionMNIST")
    with pytest.raises(DataError, match="holds several data sets, MNIST, FashionMNIST: give the path of one"):
        read(tmp_path)


def test_another_split_of_torchvisions_is_refused(tmp_path):
    with pytest.raises(DataError, match='split = "dev": allowed are train, test'):
        read(f"{mnist(tmp_path)}#dev")


def test_torchvisions_with_a_file_missing_are_refused(tmp_path):
    (mnist(tmp_path) / "MNIST" / "raw" / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="torchvision cannot read MNIST there: RuntimeError: Dataset"):
        read(tmp_path)


def test_a_folder_of_images_may_have_the_name_of_one_of_torchvisions(tmp_path):
    image_folder(tmp_path / "MNIST")
    assert read(tmp_path / "MNIST").table["label"][:] == [0, 0, 1, 1]
