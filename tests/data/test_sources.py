import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from data.classes import Classes
from data.images import Images
from data.sources import load_source
from data.tables import Table
from data.texts import Texts
from protocol.errors import DataError
from protocol.settings import DataSettings
from tests.data.on_disk import (
    COLOUR,
    GREY,
    LABELS,
    NO_IMAGE,
    PNGS,
    csv,
    encoded,
    idx,
    image_folder,
    image_parquet,
    parquet,
)

SITES = ["b", "a", "c", "c", "a", "b"]
PATIENTS = [7, 3, 3, 9, 7, 10]


def load(path, labelled=True, keys=(), image_shape=None, classes=None, max_samples=0, **data):
    settings = DataSettings(**data)
    return load_source("data.source", str(path), settings, image_shape, classes, labelled, keys, max_samples)


def names_of(keys):
    return [keys.names[number] for number in keys.numbers]


# --- digits --------------------------------------------------------------------------------------


def test_digits_are_1797_grey_images_with_ten_classes():
    source = load("digits")
    assert len(source) == 1797
    assert source.content.shape == (1, 8, 8)
    assert source.classes.names == tuple("0123456789")
    assert source.labels.dtype == torch.int64
    assert source.labels.unique().tolist() == list(range(10))


def test_only_the_first_digits_are_taken_if_asked():
    whole, part = load("digits"), load("digits", max_samples=70)
    assert torch.equal(part.content.pixels, whole.content.pixels[:70])
    assert torch.equal(part.labels, whole.labels[:70])


def test_digits_of_a_pool_have_no_labels():
    source = load("digits", labelled=False)
    assert (source.targets, source.classes) == (None, None)


def test_a_source_is_loaded_once_a_process():
    assert load("digits") is load("digits")


# --- images --------------------------------------------------------------------------------------


def test_images_in_a_column_come_with_their_labels(tmp_path):
    source = load(image_parquet(tmp_path))
    assert isinstance(source.content, Images)
    assert torch.equal(source.content.pixels, torch.from_numpy(GREY)[:, None])
    assert source.labels.tolist() == LABELS
    assert source.classes.names == ("0", "1", "2")
    assert source.name == str(tmp_path / "images.parquet")


def test_images_in_a_folder_a_class_come_with_their_labels(tmp_path):
    pngs = image_folder(tmp_path)
    source = load(tmp_path)
    together = image_parquet(tmp_path.parent, pngs, [0, 0, 1, 1], f"{tmp_path.name}.parquet")
    assert torch.equal(source.content.pixels, load(together).content.pixels)
    assert source.content.digest(torch.arange(4)) == load(together).content.digest(torch.arange(4))
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert source.classes.names == ("cat", "dog")


def test_images_as_torchvision_keeps_them_come_with_their_labels(tmp_path):
    idx(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte", GREY)
    idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.array(LABELS, dtype=np.uint8))
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / "MNIST" / "raw" / name).write_bytes(b"")
    source = load(tmp_path, max_samples=5)
    assert torch.equal(source.content.pixels, torch.from_numpy(GREY[:5])[:, None])
    assert source.labels.tolist() == LABELS[:5]
    assert len(source.classes) == 10
    assert load(tmp_path, classes=Classes.declared("10")).labels.tolist() == LABELS


def test_images_in_files_that_a_table_names_come_with_their_labels(tmp_path):
    for row, png in enumerate(PNGS):
        (tmp_path / f"{row}.png").write_bytes(png)
    path = csv(tmp_path, "file,label\n" + "".join(f"{row}.png,{LABELS[row]}\n" for row in range(6)))
    source = load(path, image="file")
    assert torch.equal(source.content.pixels, torch.from_numpy(GREY)[:, None])
    assert source.labels.tolist() == LABELS


def test_an_image_in_a_file_is_prepared_anew_when_it_changed(tmp_path):
    (tmp_path / "0.png").write_bytes(PNGS[0])
    path = csv(tmp_path, "file,label\n0.png,0\n0.png,1\n")
    load(path, image="file")
    load_source.cache_clear()
    (tmp_path / "0.png").write_bytes(PNGS[1] + b" ")
    source = load(path, image="file")
    assert torch.equal(source.content.pixels[0, 0], torch.from_numpy(GREY[1]))


def test_the_images_of_a_file_that_changed_are_prepared_anew(tmp_path):
    load(image_parquet(tmp_path))
    load_source.cache_clear()
    source = load(image_parquet(tmp_path, PNGS[::-1]))
    assert torch.equal(source.content.pixels, torch.from_numpy(GREY[::-1].copy())[:, None])


def test_a_column_of_encoded_bytes_holds_images_if_named(tmp_path):
    source = load(parquet(tmp_path, scan=PNGS, label=LABELS), image="scan")
    assert torch.equal(source.content.pixels, torch.from_numpy(GREY)[:, None])


def test_images_are_brought_to_the_size_and_channels_asked_for(tmp_path):
    assert load(image_parquet(tmp_path), channels=3, image_size=8).content.shape == (3, 8, 8)


def test_images_are_brought_to_the_shape_of_others_in_place_of_the_settings(tmp_path):
    path = image_parquet(tmp_path, [encoded(pixels) for pixels in COLOUR])
    assert load(path, image_shape=(1, 6, 7), channels=3, image_size=9).content.shape == (1, 6, 7)


def test_of_a_source_cut_short_only_the_images_asked_for_are_read(tmp_path):
    path = image_parquet(tmp_path, [*PNGS[:4], NO_IMAGE, NO_IMAGE])
    source = load(path, max_samples=4)
    assert torch.equal(source.content.pixels, torch.from_numpy(GREY[:4])[:, None])
    assert source.labels.tolist() == LABELS[:4]


def test_more_samples_than_there_are_are_all(tmp_path):
    assert len(load(image_parquet(tmp_path), max_samples=99)) == 6


@pytest.mark.slow
@settings(max_examples=20)
@given(bad=st.sets(st.integers(0, 5), max_size=5))
def test_labels_sites_and_groups_stay_with_their_images_when_some_are_left_out(bad, tmp_path_factory):
    images = [NO_IMAGE if row in bad else png for row, png in enumerate(PNGS)]
    path = image_parquet(tmp_path_factory.mktemp("case"), images, site=SITES, patient=PATIENTS)
    source = load(path, max_bad=0.9, site="site", group="patient", keys=("site", "group"))
    kept = [row for row in range(6) if row not in bad]
    assert torch.equal(source.content.pixels, torch.from_numpy(GREY[kept])[:, None])
    assert source.labels.tolist() == [LABELS[row] for row in kept]
    assert names_of(source.sites) == [SITES[row] for row in kept]
    assert names_of(source.groups) == [str(PATIENTS[row]) for row in kept]


def test_too_many_unreadable_images_are_refused_by_setting_and_rows(tmp_path):
    path = image_parquet(tmp_path, [NO_IMAGE, None, *PNGS[2:]])
    expected = (
        rf'data\.source = "{path}": 2 of 6 images cannot be read: row 0: ValueError: not an image in a '
        r"known format; row 1: ValueError: there is no image; data\.max-bad = 0\.3"
    )
    with pytest.raises(DataError, match=expected):
        load(path, max_bad=0.3)


def test_an_unreadable_image_of_a_folder_is_named_by_its_file(tmp_path, caplog):
    image_folder(tmp_path)
    (tmp_path / "dog" / "0.png").write_bytes(NO_IMAGE)
    assert load(tmp_path, max_bad=0.5).labels.tolist() == [0, 0, 1]
    assert f"row 2 ({tmp_path}/dog/0.png): ValueError: not an image in a known format" in caplog.text


# --- texts and tables ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text", "sentence", "content", "question", "utterance"])
def test_texts_are_found_by_the_name_of_their_column(name, tmp_path):
    source = load(csv(tmp_path, f'label,{name}\n1,good\n0,"bad, sad"\n'))
    assert isinstance(source.content, Texts)
    assert source.content.texts == ("good", "bad, sad")
    assert source.labels.tolist() == [1, 0]


def test_a_named_column_holds_texts_whatever_its_kind(tmp_path):
    assert load(csv(tmp_path, "label,said\n1,5\n0,7\n"), text="said").content.texts == ("5", "7")


def test_a_row_without_text_is_refused(tmp_path):
    with pytest.raises(DataError, match=r'data\.source = ".*", row 1: column \'text\' holds no text'):
        load(csv(tmp_path, "label,text\n1,good\n0,\n"))


def test_numbers_under_a_name_of_texts_are_a_feature(tmp_path):
    assert isinstance(load(csv(tmp_path, "label,content\n1,0.5\n0,0.7\n")).content, Table)


TABLE = "id,age,sex,site,patient,label\n0,50,m,b,1,1\n1,,f,a,1,0\n"


def test_a_table_learns_from_all_columns_but_those_with_a_role(tmp_path):
    source = load(csv(tmp_path, TABLE), site="site", group="patient", keys=("site", "group"))
    assert list(source.content.frame) == ["id", "age", "sex"]
    assert source.content.frame["age"].tolist() == pytest.approx([50, float("nan")], nan_ok=True)


def test_sites_and_groups_are_no_features_where_they_are_not_used(tmp_path):
    assert list(load(csv(tmp_path, TABLE), site="site", group="patient").content.frame) == [
        "id",
        "age",
        "sex",
    ]


def test_a_table_learns_from_the_columns_named_in_their_order(tmp_path):
    source = load(csv(tmp_path, TABLE), features="sex, age", categorical="sex")
    assert list(source.content.frame) == ["sex", "age"]
    assert source.content.categorical == ("sex",)


def test_naming_features_makes_a_table_of_what_has_texts_too(tmp_path):
    source = load(csv(tmp_path, "label,text,age\n1,good,5\n0,bad,6\n"), features="age")
    assert list(source.content.frame) == ["age"]


@pytest.mark.parametrize("index", ["Unnamed: 0", "__index_level_0__"])
def test_the_numbers_that_pandas_gives_rows_are_no_feature_unless_named(index, tmp_path):
    path = parquet(tmp_path, **{index: [0, 1], "age": [5, 6], "label": [0, 1]})
    assert list(load(path).content.frame) == ["age"]
    assert list(load(path, features=index).content.frame) == [index]


@pytest.mark.parametrize("features", ["age,weight", "label", "site"])
def test_a_feature_that_is_not_there_or_has_another_role_is_refused(features, tmp_path):
    wrong = features.split(",")[-1]
    expected = rf"data\.features: '{wrong}' is not among the possible features of .*: id, age, sex, patient$"
    with pytest.raises(DataError, match=expected):
        load(csv(tmp_path, TABLE), features=features, site="site")


@pytest.mark.parametrize("cells", [[["a"], ["b"]], [b"ab", b"c"]], ids=["lists of texts", "bytes"])
def test_a_column_of_neither_numbers_nor_categories_is_refused(cells, tmp_path):
    expected = "column 'pixels' holds .*, neither numbers nor categories; .* data.image; .* data.features"
    with pytest.raises(DataError, match=expected):
        load(parquet(tmp_path, pixels=cells, label=[0, 1]))


def test_a_column_of_lists_of_numbers_alone_becomes_arrays(tmp_path):
    path = parquet(tmp_path, pixels=[[1, 2], [3, 4]], label=[0, 1])
    assert load(path).content.values.tolist() == [[1, 2], [3, 4]]


def test_a_column_of_lists_beside_others_is_named_to_become_arrays(tmp_path):
    path = parquet(tmp_path, age=[5, 6], pixels=[[1, 2], [3, 4]], label=[0, 1])
    with pytest.raises(
        DataError, match=r"column 'pixels' holds .*if it holds arrays, name it alone in data\.features"
    ):
        load(path)
    assert load(path, features="pixels").content.values.tolist() == [[1, 2], [3, 4]]


def test_lists_of_unequal_lengths_are_refused_by_row(tmp_path):
    path = parquet(tmp_path, pixels=[[1, 2], [3, 4], [5]], label=[0, 1, 0])
    expected = (
        "column 'pixels', row 2: holds a list of length 1, the first one 2; all must be arrays of the same "
        "shape"
    )
    with pytest.raises(DataError, match=expected):
        load(path)


def test_a_table_without_features_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no column to learn from"):
        load(csv(tmp_path, "label\n0\n1\n"))


# --- which column is what ------------------------------------------------------------------------


def test_a_column_is_found_by_its_type(tmp_path):
    kinds = Features({"number": Value("int64"), "scan": Image(), "grade": ClassLabel(names=["low", "high"])})
    cells = {"number": [5, 6], "scan": [{"bytes": png, "path": None} for png in PNGS[:2]], "grade": [1, 0]}
    Dataset.from_dict(cells, features=kinds).to_parquet(tmp_path / "typed.parquet")
    source = load(tmp_path / "typed.parquet")
    assert torch.equal(source.content.pixels, torch.from_numpy(GREY[:2])[:, None])
    assert (source.labels.tolist(), source.classes.names) == ([1, 0], ("low", "high"))


@pytest.mark.parametrize("name", ["label", "labels", "class", "target", "fine_label"])
def test_labels_are_found_by_the_name_of_their_column(name, tmp_path):
    assert load(csv(tmp_path, f"age,{name}\n5,1\n6,0\n")).labels.tolist() == [1, 0]


def test_of_several_columns_with_named_labels_the_name_decides(tmp_path):
    kind = ClassLabel(names=["a", "b"])
    kinds = Features({"age": Value("int64"), "coarse_label": kind, "fine_label": kind})
    cells = {"age": [1, 2], "coarse_label": [0, 0], "fine_label": [1, 0]}
    Dataset.from_dict(cells, features=kinds).to_parquet(tmp_path / "typed.parquet")
    assert load(tmp_path / "typed.parquet").labels.tolist() == [1, 0]
    assert load(tmp_path / "typed.parquet", label="coarse_label").labels.tolist() == [0, 0]


def test_a_label_that_cannot_be_found_is_asked_for(tmp_path):
    with pytest.raises(
        DataError, match=r"which column holds the classes\? Name it in data\.label; there are age, y"
    ):
        load(csv(tmp_path, "age,y\n5,1\n6,0\n"))


@pytest.mark.parametrize("role", ["image", "text", "label", "site", "group"])
def test_a_named_column_that_is_not_there_is_refused(role, tmp_path):
    expected = rf'data\.{role} = "nothing": data\.source = ".*" has no such column; there are image, label$'
    with pytest.raises(DataError, match=expected):
        load(image_parquet(tmp_path), keys=("site", "group"), **{role: "nothing"})


def test_several_columns_of_images_are_refused_unless_one_is_named(tmp_path):
    cells = [{"bytes": png, "path": None} for png in PNGS]
    path = image_parquet(tmp_path, mask=cells[::-1])
    with pytest.raises(DataError, match=r"several columns of images, image, mask: name one in data\.image"):
        load(path)
    assert torch.equal(load(path, image="mask").content.pixels[0, 0], torch.from_numpy(GREY[5]))


def test_a_named_column_that_holds_no_images_is_refused(tmp_path):
    path = image_parquet(tmp_path, age=[1, 2, 3, 4, 5, 6])
    with pytest.raises(DataError, match=r'data\.image = "age": data\.source = ".*" holds no images there: '):
        load(path, image="age")


# --- labels --------------------------------------------------------------------------------------


def test_declared_classes_decide_what_a_label_is(tmp_path):
    source = load_source("data.source", str(image_parquet(tmp_path)), DataSettings(classes="2|1,0"))
    assert source.labels.tolist() == [0, 1, 0, 1, 0, 0]
    assert source.classes.names == ("2|1", "0")


def test_classes_of_the_federation_come_before_those_declared(tmp_path):
    declared, found = DataSettings(classes="0,1,2"), Classes(("2", "1", "0", "3"))
    source = load_source("data.source", str(image_parquet(tmp_path)), declared, classes=found)
    assert source.labels.tolist() == [2 - label for label in LABELS]
    assert len(source.classes) == 4


def test_a_label_outside_is_refused_by_setting_and_row(tmp_path):
    path = image_parquet(tmp_path)
    expected = rf'data\.source = "{path}", row 0: label \'2\' is none of the 2 classes 0, 1'
    with pytest.raises(DataError, match=expected):
        load(path, classes=Classes.declared("2"))


def test_a_pool_needs_no_labels(tmp_path):
    source = load(image_parquet(tmp_path, labels=None), labelled=False)
    assert (len(source), source.targets, source.classes) == (6, None, None)


def test_a_pool_may_lack_columns_that_the_settings_name_and_is_found_by_type(tmp_path):
    path = parquet(tmp_path, other=[{"bytes": png, "path": None} for png in PNGS])
    source = load(path, labelled=False, image="image", label="grade", site="site", group="patient")
    assert torch.equal(source.content.pixels, torch.from_numpy(GREY)[:, None])


def test_a_pools_labels_are_neither_looked_at_nor_a_feature(tmp_path):
    source = load(csv(tmp_path, "age,label\n5,\n6,\n"), labelled=False)
    assert list(source.content.frame) == ["age"]


# --- sites and groups ----------------------------------------------------------------------------


def test_sites_and_groups_are_numbered_by_their_names(tmp_path):
    path = image_parquet(tmp_path, site=SITES, patient=PATIENTS)
    source = load(path, site="site", group="patient", keys=("site", "group"))
    assert source.sites.names == ("a", "b", "c")
    assert source.sites.numbers.tolist() == [1, 0, 2, 2, 0, 1]
    assert names_of(source.groups) == [str(patient) for patient in PATIENTS]


def test_sites_and_groups_are_not_looked_at_unless_used(tmp_path):
    source = load(image_parquet(tmp_path, site=["", None, "a", "a", "a", "a"]), site="site", group="patient")
    assert (source.sites, source.groups) == (None, None)


def test_numbers_of_patients_are_the_same_with_and_without_gaps_elsewhere(tmp_path):
    path = parquet(tmp_path, age=[1, 2], patient=[3.0, 4.0], label=[0, 1])
    assert load(path, group="patient", keys=("group",)).groups.names == ("3", "4")


@pytest.mark.parametrize(
    "cells", [["a", None, "b", "b", "a", "a"], ["a", "", "b", "b", "a", "a"], [1.0, float("nan"), 2, 2, 1, 1]]
)
@pytest.mark.parametrize("role", ["site", "group"])
def test_an_empty_cell_among_sites_or_groups_is_refused_by_its_row(role, cells, tmp_path):
    path = tmp_path / "images.parquet"
    image_parquet(tmp_path)
    table = pq.read_table(path)
    pq.write_table(table.append_column("key", pa.array(cells)), path)
    with pytest.raises(DataError, match=rf'data\.source = "{path}", row 1: column \'key\' is empty'):
        load(path, keys=(role,), **{role: "key"})


@pytest.mark.parametrize(
    ("key", "value"),
    [("label", "digit"), ("classes", "5"), ("image_size", 16), ("channels", 3), ("group", "writer")],
)
def test_digits_refuse_what_cannot_be_asked_of_them(key, value):
    expected = rf"data\.{key.replace('_', '-')} = '?{value}'?: digits are used as they are"
    with pytest.raises(DataError, match=expected):
        load_source("data.source", "digits", DataSettings(**{key: value}))
