import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.objects import read_objects
from protocol.errors import DataError
from tests.data.on_disk import objects

WHERE = 'data.source = "/x"'


def read(path):
    return read_objects(path, WHERE)


def of_text(folder, text, name="table.json"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(path)


keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
cells = st.one_of(
    st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), min_size=3, max_size=3),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3),
    st.lists(st.none() | st.floats(allow_nan=False), min_size=3, max_size=3),
    st.lists(st.none() | st.booleans(), min_size=3, max_size=3),
)


@pytest.mark.parametrize("name", ["table.json", "table.jsonl"])
@given(columns=st.dictionaries(keys, cells, min_size=1, max_size=3))
def test_objects_are_rows_and_keys_are_columns(name, columns, tmp_path_factory):
    rows = [{key: column[row] for key, column in columns.items()} for row in range(3)]
    table = read(objects(tmp_path_factory.mktemp("case"), rows, name))
    assert {key: table[key][:] for key in table.column_names} == columns


def test_a_key_that_an_object_lacks_is_a_gap(tmp_path):
    table = read(objects(tmp_path, [{"a": 1}, {"b": "x"}, {"a": 3, "b": None}]))
    assert (table["a"][:], table["b"][:]) == ([1, None, 3], [None, "x", None])


def test_whole_numbers_and_fractions_are_fractions(tmp_path):
    assert read(objects(tmp_path, [{"a": 1}, {"a": 0.5}]))["a"][:] == [1.0, 0.5]


def test_texts_among_numbers_make_texts_of_all(tmp_path):
    rows = [{"a": 2}, {"a": "KL 2"}, {"a": 3.0}, {"a": None}, {"a": True}, {"a": math.nan}]
    assert read(objects(tmp_path, rows))["a"][:] == ["2", "KL 2", "3", None, "True", None]


def test_empty_lines_and_a_byte_order_mark_are_passed_over(tmp_path):
    table = of_text(tmp_path, '\ufeff\n{"a": 1}\r\n\r\n{"a": 2}\n\n', "table.jsonl")
    assert table["a"][:] == [1, 2]


def test_a_line_ends_at_its_end_alone(tmp_path):
    """Within a text JSON allows separators at which Python would split lines."""
    assert of_text(tmp_path, '{"a": "x\u2028y"}\n', "table.jsonl")["a"][:] == ["x\u2028y"]


def test_the_fingerprint_follows_from_what_is_in_the_file(tmp_path):
    first, second, other = (
        read(objects(tmp_path, [{"a": value}], f"{number}.json"))._fingerprint
        for number, value in enumerate((1, 1, 2))
    )
    assert first == second != other


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"annotations": [], "info": 1}', "one object with the keys 'annotations', 'info'"),
        ("3", "a number"),
        ('"x"', "a string"),
        ("null", "null"),
        ("true", "a boolean"),
    ],
)
def test_what_is_no_list_is_refused_for_what_it_is(text, what, tmp_path):
    with pytest.raises(DataError, match=rf'^data\.source = "/x": must be a list of objects, but is {what}$'):
        of_text(tmp_path, text)


@pytest.mark.parametrize("name", ["table.json", "table.jsonl"])
@pytest.mark.parametrize(
    ("row", "what"), [([1], "a list"), ("x", "a string"), (None, "null"), (1, "a number")]
)
def test_what_is_no_object_is_refused_by_its_row(name, row, what, tmp_path):
    with pytest.raises(DataError, match=rf'^data\.source = "/x", row 1: must be an object, but is {what}$'):
        read(objects(tmp_path, [{"a": 1}, row], name))


@pytest.mark.parametrize(("value", "what"), [({"x": 1}, "an object"), ([], "a list")])
def test_what_is_nested_is_refused_by_row_and_key(value, what, tmp_path):
    expected = rf"row 1: key 'conversations' holds {what}; a value must be a string, a number, true, false or"
    with pytest.raises(DataError, match=expected):
        read(objects(tmp_path, [{"a": 1}, {"a": 2, "conversations": value}]))


@pytest.mark.parametrize("text", ["", "[1", "[{'a': 1}]", "\x00", "[" * 100_000], ids=range(5))
def test_what_is_no_json_is_refused_with_the_place(text, tmp_path):
    with pytest.raises(DataError, match=r'^data\.source = "/x": is not valid JSON: .'):
        of_text(tmp_path, text)


def test_a_line_that_is_no_json_is_refused_by_its_number(tmp_path):
    with pytest.raises(DataError, match=r"line 3: is not valid JSON: "):
        of_text(tmp_path, '{"a": 1}\n\n{"a": 2,}\n', "table.jsonl")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read: UnicodeDecodeError: "):
        of_text(tmp_path, b"[\xff]")


def test_a_key_that_no_column_can_have_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"row 1: key 'a\\x00' holds a character that is not allowed in a column's name$"
    ):
        read(objects(tmp_path, [{"a": 1}, {"a\0": 1}]))


@pytest.mark.parametrize("value", [2**70, "\ud800"])
def test_a_value_that_no_column_can_hold_is_refused(value, tmp_path):
    with pytest.raises(DataError, match=r"holds a value that a table cannot store: "):
        of_text(tmp_path, json.dumps([{"a": value}]))
