"""A file says the version of its format; a newer one is refused, one without a version is of the first."""

import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import FormatError
from protocol.formats import FORMATS, FileKind, checked, checked_metadata, stamped, stamped_metadata

KINDS = st.sampled_from(FileKind)
NAMES = st.text(string.ascii_letters, max_size=5)


@given(KINDS, st.dictionaries(NAMES.filter(lambda name: name != "format"), st.integers() | st.none()))
def test_what_is_stamped_is_the_content_beside_a_version(kind: FileKind, content: dict[str, Any]) -> None:
    written = stamped(kind, content)
    assert written == {"format": FORMATS[kind].version, **content}
    assert next(iter(written)) == "format"
    assert checked(kind, written, "file") == content


@given(KINDS, st.dictionaries(NAMES, st.text(max_size=5)))
def test_metadata_are_stamped_too(kind: FileKind, metadata: dict[str, str]) -> None:
    written = stamped_metadata(kind, metadata)
    assert written == {"motley-format": str(FORMATS[kind].version), **metadata}
    assert checked_metadata(kind, written, "file") == metadata


@pytest.mark.parametrize("kind", FileKind)
def test_every_kind_has_a_format(kind: FileKind) -> None:
    assert FORMATS[kind].version >= 1


@pytest.mark.parametrize("kind", FileKind)
def test_a_file_without_a_version_is_of_the_first(kind: FileKind) -> None:
    assert checked(kind, {"a": 1}, "file") == {"a": 1}
    assert checked_metadata(kind, {"a": "1"}, "file") == {"a": "1"}


@pytest.mark.parametrize("kind", FileKind)
def test_a_newer_version_is_refused_with_all_there_is_to_know(kind: FileKind) -> None:
    known = FORMATS[kind]
    expected = (
        f"/runs/file ({kind}): written by a newer version of Motley, in format {known.version + 1}; this one "
        f"reads up to format {known.version}: use the newer version"
    ) + (f", or {known.remedy}" if known.remedy else "")
    with pytest.raises(FormatError) as refusal:
        checked(kind, {"format": known.version + 1}, Path("/runs/file"))
    assert str(refusal.value) == expected
    with pytest.raises(FormatError) as refusal:
        checked_metadata(kind, {"motley-format": str(known.version + 1)}, Path("/runs/file"))
    assert str(refusal.value) == expected


@pytest.mark.parametrize("version", [0, -1, 1.0, True, "1", None, [1]])
def test_a_version_that_is_no_whole_number_is_refused_with_its_value(version: object) -> None:
    with pytest.raises(FormatError, match=r"^settings\.json .*: format = .* must be a whole number from 1$"):
        checked(FileKind.SETTINGS, {"format": version}, "settings.json")


@pytest.mark.parametrize("version", ["", "0", "-1", "1.0", "one", "²"])
def test_so_it_is_among_metadata(version: str) -> None:
    with pytest.raises(FormatError, match=r"^state \(state of a client\): format = '.*' must be a whole"):
        checked_metadata(FileKind.CLIENT_STATE, {"motley-format": version}, "state")


@pytest.mark.parametrize("content", [[], "{}", None, 1])
def test_what_is_no_object_is_an_error_that_says_so(content: object) -> None:
    with pytest.raises(ValueError, match=r"^level\.json: not a JSON object"):
        checked(FileKind.LEVEL, content, "level.json")


def test_content_that_has_the_key_of_the_version_is_an_error() -> None:
    with pytest.raises(ValueError, match="'format' is the key of the format's version"):
        stamped(FileKind.DATA_FACTS, {"format": "png"})
    with pytest.raises(ValueError, match="'motley-format' is the key"):
        stamped_metadata(FileKind.WEIGHTS, {"motley-format": "1"})
