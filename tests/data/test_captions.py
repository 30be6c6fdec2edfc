import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.captions import LabelFinder

GRADES = LabelFinder({str(grade): grade for grade in range(5)})
WORDS = LabelFinder({"healthy": 0, "mild": 1, "very mild": 2, "no finding": 3, "finding": 4})


@pytest.mark.parametrize(
    "sentence",
    [
        "2",
        "KL 2",
        "KL-2",
        "KL 2.",
        "(2)",
        "grade:2",
        "The KL grade is 2.",
        "Grade 2, minimal",
        "2 2",
        "\n2\t",
    ],
)
def test_a_label_is_found_as_a_whole_word(sentence):
    assert GRADES.classes_in(sentence) == [2]


@pytest.mark.parametrize(
    "sentence", ["", "KL2", "22", "2nd", "_2", "2.5", "1,5", "0.2", "-2", "KL −2", "two"]
)
def test_a_part_of_a_word_or_of_a_number_is_no_label(sentence):
    assert GRADES.classes_in(sentence) == []


@pytest.mark.parametrize("sentence", ["2 or 3", "2-3", "3/2", "3, 2", "KL 3 (was 2 before, 2 at first)"])
def test_every_class_that_is_named_is_found_once(sentence):
    assert GRADES.classes_in(sentence) == [2, 3]


@pytest.mark.parametrize(
    ("sentence", "classes"),
    [
        ("mild", [1]),
        ("a very mild case", [2]),
        ("very mild, or mild", [1, 2]),
        ("No finding.", [3]),
        ("one finding", [4]),
        ("mildly", []),
    ],
)
def test_the_longer_label_is_meant_where_it_holds_a_shorter_one(sentence, classes):
    assert WORDS.classes_in(sentence) == classes


def test_capitals_do_not_matter():
    assert WORDS.classes_in("HEALTHY") == WORDS.classes_in("Healthy knee") == [0]


def test_capitals_matter_where_labels_differ_in_them_alone():
    finder = LabelFinder({"a": 0, "A": 1})
    assert (finder.classes_in("type a"), finder.classes_in("type A")) == ([0], [1])


def test_signs_in_a_label_are_meant_as_they_are():
    finder = LabelFinder({"a+b": 0, "(c)": 1, "a.b": 2})
    assert finder.classes_in("it is a+b") == [0]
    assert finder.classes_in("it is (c)") == [1]
    assert finder.classes_in("it is aab or axb") == []


words = st.text(st.characters(categories=["L"]), min_size=1, max_size=6).map(lambda word: f"q{word}")


@given(st.lists(words, min_size=2, max_size=5, unique_by=str.casefold), st.data())
def test_a_sentence_names_the_labels_that_were_put_into_it(labels, data):
    """No word around them is one of them, for those begin with q."""
    chosen = data.draw(st.lists(st.integers(0, len(labels) - 1), max_size=3))
    finder = LabelFinder({label: number for number, label in enumerate(labels)})
    sentence = " ".join(["Here", *(f"is {labels[number]}," for number in chosen), "it seems."])
    assert finder.classes_in(sentence) == sorted(set(chosen))
