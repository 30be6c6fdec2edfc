"""Files of instructions, as ScaleFL-med has them, and other tables that name files of images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.sources import load_source
from data.tables import Table
from data.texts import Texts
from protocol.errors import DataError
from protocol.settings import DataSettings
from tests.data.on_disk import COLOUR, GREY, LABELS, PNGS, csv, encoded, image_files, objects, parquet

PIXELS = torch.from_numpy(GREY)[:, None]
WHAT = "What is the grade?"


def load(path, labelled=True, keys=(), **data):
    load_source.cache_clear()
    return load_source("data.source", str(path), DataSettings(**data), labelled=labelled, keys=keys)


def instructions(folder, image="image", answer="caption", captions=None, name="instructions.json", **others):
    """Write the six images and a file of instructions."""
    captions = [f"The KL grade is {label}." for label in LABELS] if captions is None else captions
    rows = [
        {
            image: file,
            "instruction": WHAT,
            answer: caption,
            **{key: cells[row] for key, cells in others.items()},
        }
        for row, (file, caption) in enumerate(zip(image_files(folder), captions, strict=True))
    ]
    return objects(folder, rows, name)


# --- images, captions and classes ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["instructions.json", "instructions.jsonl"])
def test_a_file_of_instructions_is_a_data_set_of_images_and_captions(name, tmp_path):
    source = load(instructions(tmp_path, name=name), classes="0,1,2")
    assert torch.equal(source.content.pixels, PIXELS)
    assert source.labels.tolist() == LABELS
    assert source.classes.names == ("0", "1", "2")


def test_captions_are_classes_of_their_own_where_none_are_named(tmp_path):
    source = load(instructions(tmp_path, captions=[f"KL {label}" for label in LABELS]))
    assert source.classes.names == ("KL 0", "KL 1", "KL 2")
    assert source.labels.tolist() == LABELS


@pytest.mark.slow
@settings(max_examples=20)
@given(grades=st.lists(st.integers(0, 4), min_size=6, max_size=6), data=st.data())
def test_a_caption_is_of_the_class_that_it_names_however_it_says_so(grades, data, tmp_path_factory):
    forms = st.sampled_from(["{}", "KL {}", "KL-{}", "The KL grade is {}.", "{} (Kellgren–Lawrence)"])
    captions = [data.draw(forms).format(grade) for grade in grades]
    path = instructions(tmp_path_factory.mktemp("case"), captions=captions)
    assert load(path, classes="5").labels.tolist() == grades


def test_a_caption_of_no_class_is_refused_by_file_row_caption_and_classes(tmp_path):
    path = instructions(tmp_path, captions=["KL 0", "KL 1", "unclear", "KL 0", "KL 1", "KL 0"])
    expected = (
        rf'^data\.source = "{path}", row 2: label \'unclear\' is none of the 2 classes 0, 1 \(.*\), and '
    )
    with pytest.raises(DataError, match=expected + "contains none of them$"):
        load(path, classes="2")


@pytest.mark.parametrize("image", ["image", "image_path", "image_file", "image_id", "img", "img_path"])
@pytest.mark.parametrize("answer", ["caption", "answer", "output", "response", "label"])
def test_columns_are_found_by_their_names(image, answer, tmp_path):
    source = load(instructions(tmp_path, image, answer), classes="3")
    assert torch.equal(source.content.pixels, PIXELS)
    assert source.labels.tolist() == LABELS


def test_columns_of_other_names_are_named(tmp_path):
    path = instructions(tmp_path, "scan", "said")
    source = load(path, image="scan", label="said", classes="3")
    assert (len(source), source.labels.tolist()) == (6, LABELS)


def test_a_label_comes_before_an_answer(tmp_path):
    path = instructions(tmp_path, captions=["a knee"] * 6, label=LABELS)
    assert load(path).labels.tolist() == LABELS


def test_sites_and_groups_are_columns_as_everywhere(tmp_path):
    path = instructions(tmp_path, patient=[7, 7, 3, 3, 1, 1], hospital=["b", "a"] * 3)
    source = load(path, classes="3", group="patient", site="hospital", keys=("site", "group"))
    assert source.groups.names == ("1", "3", "7")
    assert source.sites.numbers.tolist() == [1, 0] * 3


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_every_table_may_name_files_of_images(kind, absolute, named, tmp_path):
    files = [str(tmp_path / name) if absolute else name for name in image_files(tmp_path)]
    column = "where" if named else "image"
    match kind:
        case "json":
            path = objects(
                tmp_path, [{column: file, "label": label} for file, label in zip(files, LABELS, strict=True)]
            )
        case "csv":
            lines = [f"{file},{label}\n" for file, label in zip(files, LABELS, strict=True)]
            path = csv(tmp_path, f"{column},label\n" + "".join(lines))
        case "parquet":
            path = parquet(tmp_path, **{column: files, "label": LABELS})
    source = load(path, image=column if named else "")
    assert torch.equal(source.content.pixels, PIXELS)
    assert source.labels.tolist() == LABELS


@pytest.mark.parametrize("column", ["filename", "file_name", "Path", "Image"])
def test_columns_of_files_have_the_names_that_others_give_them(column, tmp_path):
    lines = [f"{file},{label}\n" for file, label in zip(image_files(tmp_path), LABELS, strict=True)]
    source = load(csv(tmp_path, f"{column},Label\n" + "".join(lines)))
    assert source.labels.tolist() == LABELS
    assert torch.equal(source.content.pixels, PIXELS)


def test_images_that_begin_after_many_rows_without_are_not_taken_for_texts(tmp_path):
    files = [None] * 150 + list(image_files(tmp_path))
    path = objects(tmp_path, [{"image": file, "text": "?", "label": 1} for file in files])
    with pytest.raises(
        DataError, match=r"none of the first 100 images can be read: row 0: .*there is no image"
    ):
        load(path, max_bad=0.99)


def test_files_may_lie_in_folders_below(tmp_path):
    (tmp_path / "images").mkdir()
    names = [f"images/{name}" for name in image_files(tmp_path / "images")]
    path = objects(tmp_path, [{"image": name, "label": row % 2} for row, name in enumerate(names)])
    assert torch.equal(load(path).content.pixels, PIXELS)


def test_a_file_needs_no_name_of_an_image(tmp_path):
    (tmp_path / "scan-1").write_bytes(PNGS[0])
    (tmp_path / "scan-2").write_bytes(PNGS[1])
    path = objects(tmp_path, [{"image_id": f"scan-{row}", "label": row} for row in (1, 2)])
    assert torch.equal(load(path).content.pixels, PIXELS[:2])


def test_a_missing_file_is_named_and_left_out_as_far_as_allowed(tmp_path, caplog):
    path = instructions(tmp_path)
    (tmp_path / "3.png").unlink()
    source = load(path, classes="3", max_bad=0.2)
    assert source.labels.tolist() == LABELS[:3] + LABELS[4:]
    assert f"row 3 (3.png): FileNotFoundError: [Errno 2] No such file or directory: '{tmp_path}/3.png'" in (
        caplog.text
    )
    with pytest.raises(
        DataError, match=r"1 of 6 images cannot be read: row 3 \(3\.png\): .*data\.max-bad = 0"
    ):
        load(path, classes="3", max_bad=0)


def test_images_none_of_which_is_there_are_refused_by_column_and_place(tmp_path):
    path = objects(tmp_path, [{"image": "a/0.PNG", "question": WHAT, "answer": "0"}] * 3)
    expected = (
        rf'^data\.source = "{path}": column \'image\' names image files, but none of the first 3 exists, '
        rf"for example {tmp_path}/a/0\.PNG; to use other columns instead, name them in data\.text or "
    )
    with pytest.raises(DataError, match=expected):
        load(path, classes="2")


def test_what_the_settings_name_is_used_in_place_of_images(tmp_path):
    rows = [{"image": "gone.png", "question": "a", "age": 3, "answer": 0}, {"question": "b", "answer": 1}]
    path = objects(tmp_path, rows)
    assert isinstance(load(path, text="question", label="answer").content, Texts)
    assert isinstance(load(path, features="age", label="answer").content, Table)


def test_names_that_are_no_files_are_a_feature_as_ever(tmp_path):
    path = csv(tmp_path, "image_id,age,label\nx1,5,0\nx2,6,1\n")
    assert list(load(path).content.frame) == ["image_id", "age"]


def test_a_column_with_another_role_is_not_taken_for_one_of_images(tmp_path):
    names = image_files(tmp_path)
    rows = [{"image": name, "image_id": names[0], "label": row % 2} for row, name in enumerate(names)]
    path = objects(tmp_path, rows)
    with pytest.raises(
        DataError, match=r"several columns of images, image, image_id: name one in data\.image"
    ):
        load(path)
    assert torch.equal(load(path, group="image_id").content.pixels, PIXELS)


def test_images_of_files_are_brought_together_as_all_are(tmp_path):
    names = image_files(tmp_path, [PNGS[0], encoded(COLOUR[1]), encoded(np.zeros((9, 9), dtype=np.uint8))])
    path = objects(tmp_path, [{"image": name, "caption": str(row)} for row, name in enumerate(names)])
    assert load(path, channels=1, image_size=8).content.shape == (1, 8, 8)


# --- what else is in the file --------------------------------------------------------------------


def test_a_missing_answer_is_asked_for(tmp_path):
    path = instructions(tmp_path, answer="said")
    expected = (
        rf'^data\.source = "{path}": which column holds the classes\? Name it in data\.label; there are '
    )
    with pytest.raises(DataError, match=expected + "image, instruction, said$"):
        load(path, classes="3")


def test_a_row_without_an_answer_is_refused(tmp_path):
    path = instructions(tmp_path, captions=["0", "1", None, "0", "1", "0"])
    with pytest.raises(DataError, match=r"row 2: column 'caption' holds no label$"):
        load(path, classes="2")


def test_an_empty_list_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no rows$"):
        load(objects(tmp_path, []))


def test_answers_are_no_labels_of_tables(tmp_path):
    with pytest.raises(DataError, match="which column holds the classes"):
        load(csv(tmp_path, "age,output\n5,1\n6,0\n"))
    assert list(load(csv(tmp_path, "age,output\n5,1\n6,0\n"), labelled=False).content.frame) == [
        "age",
        "output",
    ]


def test_a_pool_needs_no_captions(tmp_path):
    rows = [{"image": name, "instruction": WHAT} for name in image_files(tmp_path)]
    source = load(objects(tmp_path, rows), labelled=False)
    assert torch.equal(source.content.pixels, PIXELS)
    assert (source.targets, source.classes) == (None, None)


def test_captions_of_a_pool_are_not_looked_at(tmp_path):
    path = instructions(tmp_path, captions=["unclear", None, "0 or 1", "", "?", "7"])
    assert len(load(path, labelled=False, classes="2")) == 6


@pytest.mark.parametrize("column", ["instruction", "instruction_input", "prompt", "question"])
def test_several_instructions_are_not_used_and_the_log_says_what_is_asked(column, tmp_path, caplog):
    caplog.set_level("INFO", "flwr")
    path = instructions(tmp_path, **{column: ["a", "b", "c", "a", "b", "c"]}, captions=list(map(str, LABELS)))
    load(path)
    assert [record.message for record in caplog.records] == [
        f'data.source = "{path}": the 3 instructions in column {column!r} are not used: the prompt for every '
        "image is the run's vlm.prompt"
    ]


def test_instructions_that_are_no_texts_are_passed_over(tmp_path):
    said = [{"role": "user", "content": WHAT}]
    path = parquet(tmp_path, image=image_files(tmp_path), prompt=[said] * 6, label=LABELS)
    assert torch.equal(load(path).content.pixels, PIXELS)


def test_one_instruction_for_all_leaves_nothing_in_the_log(tmp_path, caplog):
    caplog.set_level("INFO", "flwr")
    load(instructions(tmp_path, captions=list(map(str, LABELS))))
    assert caplog.records == []
