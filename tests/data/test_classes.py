import math

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given
from hypothesis import strategies as st

from data.classes import Classes, as_text, is_empty
from protocol.errors import DataError

WHERE = 'data.source = "/x"'


def table(cells, kind=None):
    return Dataset.from_dict({"y": cells}, features=kind and Features({"y": kind}))


def targets(classes, cells, kind=None):
    return classes.targets(table(cells, kind), "y", WHERE).tolist()


def found(cells, kind=None):
    return Classes.found(table(cells, kind), "y", WHERE).names


# --- declared ------------------------------------------------------------------------------------


def test_a_number_declares_that_many_classes_from_0():
    assert Classes.declared("4").names == ("0", "1", "2", "3")


def test_names_declare_classes_in_their_order():
    assert Classes.declared("healthy, ill,dead").names == ("healthy", "ill", "dead")


def test_labels_joined_by_a_bar_are_one_class():
    classes = Classes.declared("0,1|2 | 3|4")
    assert len(classes) == 2
    assert targets(classes, [0, 1, 2, 3, 4, 0]) == [0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("text", ["0", "1", "a", "a,a", "a,b|a", "a|a,b", "a,b|", "|,a", " , "])
def test_fewer_than_two_classes_and_repeated_or_empty_labels_are_refused(text):
    with pytest.raises(DataError, match=r"data\.classes = .*: must be a number of classes, 2 or more, or"):
        Classes.declared(text)


# --- found ---------------------------------------------------------------------------------------


def test_the_names_of_a_typed_column_are_the_classes_though_some_do_not_occur():
    assert found([2, 0], ClassLabel(names=["cat", "dog", "fox"])) == ("cat", "dog", "fox")


def test_a_typed_column_without_names_is_one_of_numbers():
    assert found([3, 1, 3], ClassLabel(num_classes=4)) == ("0", "1", "2", "3")


def test_numbers_are_classes_in_their_order():
    assert found([10, 9, 2, 9]) == ("2", "9", "10")


def test_whole_numbers_with_gaps_among_them_are_classes_without_points():
    assert found([1.0, None, 0.0, math.nan, 10.0, 2.0]) == ("0", "1", "2", "10")


def test_texts_are_classes_in_their_order():
    assert found(["dog", None, "", "cat", "dog"]) == ("cat", "dog")


def test_truth_values_are_classes():
    assert found([True, False]) == ("False", "True")


@pytest.mark.parametrize(
    ("cells", "message"), [([None, None], "holds no labels"), ([7, 7, None], "holds only the label '7'")]
)
def test_fewer_than_two_labels_are_refused(cells, message):
    expected = rf'data\.source = "/x": column \'y\' {message} \(data\.classes can name the classes\)'
    with pytest.raises(DataError, match=expected):
        found(cells, Value("int64"))


def test_a_column_that_holds_no_labels_is_refused():
    for read in (Classes(("a", "b")).targets, Classes.found):
        with pytest.raises(DataError, match=r"column 'y' holds no labels, but List\(.*\(data\.label"):
            read(table([[1, 2], [3]]), "y", WHERE)


# --- which class a label is ----------------------------------------------------------------------


@pytest.mark.slow
@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_each_row_has_the_class_of_its_label(numbers):
    names = ("a", "b", "c", "d", "e", "f")
    result = Classes(names).targets(table([names[number] for number in numbers]), "y", WHERE)
    assert result.dtype == torch.int64
    assert result.tolist() == numbers


@pytest.mark.parametrize("cells", [[0, 2, 1], [0.0, 2.0, 1.0], ["0", "2", "1"]])
def test_a_number_is_the_same_label_as_integer_float_and_text(cells):
    assert targets(Classes.declared("3"), cells) == [0, 2, 1]


def test_a_fraction_is_a_label_of_its_own():
    assert targets(Classes(("0.5", "1")), [1.0, 0.5]) == [1, 0]


def test_a_typed_column_goes_by_its_names():
    kind = ClassLabel(names=["dog", "cat"])
    assert targets(Classes(("cat", "dog")), [0, 1, 1], kind) == [1, 0, 0]


def test_a_typed_column_goes_by_its_numbers_where_its_names_are_unknown():
    kind = ClassLabel(names=["KL0", "KL1", "KL2"])
    assert targets(Classes.declared("3"), [2, 0, 1], kind) == [2, 0, 1]
    assert targets(Classes.declared("0,1|2"), [2, 0, 1], kind) == [1, 0, 1]


def test_numbers_of_other_names_than_the_classes_have_are_not_taken_for_the_classes():
    without_cat = ClassLabel(names=["dog", "fox"])
    with pytest.raises(DataError, match="row 0: label 'fox' is none of the 3 classes 0, 1, 2"):
        targets(Classes.declared("3"), [1, 0], without_cat)


def test_a_label_with_a_bar_of_its_own_is_one_label():
    names = found(["Action", "Action|Comedy", "Comedy"])
    assert targets(Classes(names), ["Comedy", "Action|Comedy", "Action"]) == [2, 1, 0]


def test_another_label_is_refused_by_row_label_and_classes():
    with pytest.raises(DataError) as error:
        targets(Classes(("a", "b")), ["a", "b", "c", "d"])
    assert str(error.value) == (
        "data.source = \"/x\", row 2: label 'c' is none of the 2 classes a, b (data.classes can name them)"
    )


def test_of_many_classes_the_first_are_named():
    with pytest.raises(DataError, match=r"none of the 20 classes 0, 1, .*, 11, … \("):
        targets(Classes.declared("20"), [20])


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([0, None], None),
        ([0.0, math.nan], None),
        (["0", ""], None),
        ([0, None], ClassLabel(names=["0", "1"])),
        ([0, -1], ClassLabel(names=["0", "1"])),
    ],
)
def test_a_row_without_a_label_is_refused(cells, kind):
    with pytest.raises(DataError, match=r'data\.source = "/x", row 1: column \'y\' holds no label$'):
        targets(Classes.declared("2"), cells, kind)


# --- captions ------------------------------------------------------------------------------------


def of_captions(classes, cells, kind=None):
    return classes.targets(table(cells, kind), "y", WHERE, captions=True).tolist()


def test_a_caption_is_of_the_one_class_whose_label_it_holds():
    captions = ["KL 2", "The KL grade is 0.", "4", "Grade 1, doubtful"]
    assert of_captions(Classes.declared("5"), captions) == [2, 0, 4, 1]


def test_a_caption_that_is_a_label_is_that_label_whatever_else_it_holds():
    assert of_captions(Classes.declared("0,1,grade 0 or 1"), ["grade 0 or 1", "0"]) == [2, 0]


def test_a_caption_may_hold_several_labels_of_one_class():
    classes = Classes.declared("0|healthy,1|ill")
    assert of_captions(classes, ["Healthy, grade 0.", "grade 1: ill"]) == [0, 1]


def test_numbers_among_captions_are_labels_as_ever():
    assert of_captions(Classes.declared("3"), [2, 0, 1]) == [2, 0, 1]


def test_a_caption_of_no_class_is_refused_by_row_caption_and_classes():
    with pytest.raises(DataError) as error:
        of_captions(Classes.declared("5"), ["KL 2", "KL 7"])
    assert str(error.value) == (
        "data.source = \"/x\", row 1: label 'KL 7' is none of the 5 classes 0, 1, 2, 3, 4 (data.classes can "
        "name them), and contains none of them"
    )


def test_a_caption_of_several_classes_is_refused_with_all_of_them():
    expected = (
        r"row 0: label 'between 3 and 2' is none of the 5 classes .*, and contains several of them: 2, 3$"
    )
    with pytest.raises(DataError, match=expected):
        of_captions(Classes.declared("5"), ["between 3 and 2"])


def test_of_a_long_caption_the_beginning_is_shown():
    with pytest.raises(DataError) as error:
        of_captions(Classes.declared("5"), ["A knee " * 200])
    assert "label 'A knee A knee " in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("cells", [["KL 0", ""], ["KL 0", None]])
def test_an_empty_caption_is_refused(cells):
    with pytest.raises(DataError, match=r"row 1: column 'y' holds no label$"):
        of_captions(Classes.declared("2"), cells)


def test_labels_that_are_no_captions_are_matched_whole():
    with pytest.raises(DataError, match=r"label 'not ill' is none of the 2 classes well, ill \(.*\)$"):
        targets(Classes.declared("well,ill"), ["not ill"])


def test_labels_that_a_columns_type_names_are_no_captions():
    with pytest.raises(DataError, match=r"label 'KL 0' is none of the 3 classes"):
        of_captions(Classes.declared("3"), [0, 1], ClassLabel(names=["KL 0", "KL 1"]))


def test_the_log_tells_how_captions_were_read_and_nothing_of_plain_labels(caplog):
    caplog.set_level("INFO", "flwr")
    of_captions(Classes.declared("3"), ["0", "2"])
    assert caplog.records == []
    of_captions(Classes.declared("3"), ["0", "KL 2", "KL 1"])
    assert [record.message for record in caplog.records] == [
        'data.source = "/x": 2 captions have the class whose label they contain, for example row 1, '
        "'KL 2': class 2"
    ]


# --- cells ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "text"), [(3, "3"), (3.0, "3"), (3.5, "3.5"), ("3.0", "3.0"), (True, "True"), (-2.0, "-2")]
)
def test_a_cell_is_written_without_a_needless_point(cell, text):
    assert as_text(cell) == text


@pytest.mark.parametrize(
    ("cell", "empty"), [(None, True), (math.nan, True), ("", True), (0, False), (" ", False)]
)
def test_what_is_empty(cell, empty):
    assert is_empty(cell) == empty
