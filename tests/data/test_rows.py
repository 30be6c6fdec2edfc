import os

import datasets
import numpy as np
import pytest
from PIL import Image

from data.rows import ArrayImages, EncodedImages
from tests.data.on_disk import COLOUR, GREY, NO_IMAGE, PNGS, encoded


def from_cells(cells, folder, column="image"):
    kind = datasets.Features({column: datasets.Image(decode=False)})
    return EncodedImages(datasets.Dataset.from_dict({column: cells}, features=kind), column, folder)


def named(path):
    return {"bytes": None, "path": str(path)}


# --- images in a column --------------------------------------------------------------------------


def test_bytes_in_a_column_are_the_content(tmp_path):
    rows = from_cells([{"bytes": png, "path": None} for png in PNGS], tmp_path)
    assert len(rows) == 6
    assert [rows.content(row) for row in range(6)] == PNGS


def test_an_image_is_called_by_its_row_and_its_file(tmp_path):
    cells = [named("scan.png"), {"bytes": PNGS[0], "path": "a.png"}, {"bytes": PNGS[0], "path": None}, None]
    rows = from_cells(cells, tmp_path)
    expected = ["row 0 (scan.png)", "row 1 (a.png)", "row 2", "row 3"]
    assert [rows.name(row) for row in range(4)] == expected
    assert ArrayImages(GREY, "").name(2) == "row 2"


@pytest.mark.parametrize("absolute", [True, False])
def test_a_file_that_a_column_names_is_the_content(absolute, tmp_path):
    (tmp_path / "scan.png").write_bytes(PNGS[3])
    rows = from_cells([named(tmp_path / "scan.png" if absolute else "scan.png")], tmp_path)
    assert rows.content(0) == PNGS[3]


def test_an_empty_cell_has_no_content(tmp_path):
    rows = from_cells([{"bytes": PNGS[0], "path": None}, None], tmp_path)
    with pytest.raises(ValueError, match="there is no image"):
        rows.content(1)


def test_content_is_decoded_to_its_pixels(tmp_path):
    rows = from_cells([], tmp_path)
    assert np.array_equal(rows.decode(PNGS[2]), GREY[2])
    assert np.array_equal(rows.decode(encoded(COLOUR[2])), COLOUR[2])


def test_bytes_of_something_else_are_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match=r"^not an image in a known format$"):
        from_cells([], tmp_path).decode(NO_IMAGE)


def test_an_image_that_is_cut_off_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"(?i)truncated"):
        from_cells([], tmp_path).decode(PNGS[0][:45])


def test_a_photograph_is_turned_as_the_camera_was_held(tmp_path):
    orientation = Image.Exif()
    orientation[0x0112] = 6  # a quarter turn to the right is needed
    content = encoded(GREY[0], exif=orientation)
    assert np.array_equal(from_cells([], tmp_path).decode(content), np.rot90(GREY[0], -1))


# --- fingerprints --------------------------------------------------------------------------------


def test_the_same_column_has_the_same_fingerprint(tmp_path):
    cells = [{"bytes": png, "path": None} for png in PNGS]
    assert from_cells(cells, tmp_path).fingerprint == from_cells(cells, tmp_path).fingerprint


@pytest.mark.parametrize("change", ["an image", "their order", "their column"])
def test_the_fingerprint_changes_with(change, tmp_path):
    cells = [{"bytes": png, "path": None} for png in PNGS]
    before = from_cells(cells, tmp_path).fingerprint
    match change:
        case "an image":
            after = from_cells([*cells[:5], cells[0]], tmp_path)
        case "their order":
            after = from_cells(cells[::-1], tmp_path)
        case "their column":
            after = from_cells(cells, tmp_path, "other")
    assert after.fingerprint != before


def test_the_fingerprint_changes_with_a_file_that_is_named(tmp_path):
    path = tmp_path / "scan.png"
    seen = set()
    for content in (PNGS[0], PNGS[0] + b" ", None):
        path.unlink() if content is None else path.write_bytes(content)
        seen.add(from_cells([{"bytes": PNGS[1], "path": "x"}, named(path)], tmp_path).fingerprint)
    assert len(seen) == 3


def test_the_fingerprint_changes_with_the_time_of_a_file_that_is_named(tmp_path):
    path = tmp_path / "scan.png"
    path.write_bytes(PNGS[0])
    before = from_cells([named(path)], tmp_path).fingerprint
    os.utime(path, (1, 1))
    assert from_cells([named(path)], tmp_path).fingerprint != before


# --- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_arrays_are_images_as_they_are(pixels):
    rows = ArrayImages(pixels, "mine")
    assert (len(rows), rows.fingerprint) == (6, "mine")
    assert rows.content(4) == pixels[4].tobytes()
    assert np.array_equal(rows.decode(rows.content(4)), pixels[4])
