import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from data.parquet import read_images
from data.sources import load_source
from protocol.errors import DataError

DRAW = np.random.default_rng(0)
GREY = DRAW.integers(0, 256, (3, 5, 4), dtype=np.uint8)
COLOUR = DRAW.integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
LABELS = [2, 0, 1]


def png(pixels, mode=None):
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, "PNG")
    return file.getvalue()


def write(folder, images, labels=LABELS, **columns):
    """Write a file as Hugging Face's datasets do: bytes beside a path."""
    path = folder / "images.parquet"
    cells = [image if image is None else {"bytes": image, "path": None} for image in images]
    pq.write_table(pa.table({"image": cells, "label": labels, **columns}), path)
    return path


# --- what is read --------------------------------------------------------------------------------


def test_grey_images_are_read_to_their_pixels(tmp_path):
    samples = read_images(write(tmp_path, map(png, GREY)))
    assert samples.inputs.dtype == torch.float32
    assert torch.equal(samples.inputs, torch.from_numpy(GREY)[:, None].float() / 255)
    assert samples.targets.dtype == torch.int64
    assert samples.targets.tolist() == LABELS


def test_colour_images_are_read_channels_first(tmp_path):
    samples = read_images(write(tmp_path, map(png, COLOUR)))
    assert torch.equal(samples.inputs, torch.from_numpy(COLOUR).permute(0, 3, 1, 2).float() / 255)
    assert samples.inputs.is_contiguous()


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("LA", 1), ("P", 3), ("RGBA", 3)])
def test_other_kinds_of_image_become_grey_or_colour(mode, channels, tmp_path):
    images = [png(pixels, mode) for pixels in COLOUR]
    assert read_images(write(tmp_path, images)).inputs.shape == (3, channels, 5, 4)


def test_only_the_first_rows_are_read_if_asked(tmp_path):
    path = write(tmp_path, map(png, GREY))
    part, whole = read_images(path, 2), read_images(path)
    assert torch.equal(part.inputs, whole.inputs[:2])
    assert part.targets.tolist() == LABELS[:2]
    assert len(read_images(path, 99)) == 3


def test_other_columns_do_not_matter(tmp_path):
    path = write(tmp_path, map(png, GREY), patient=["a", "b", "c"])
    assert len(read_images(path)) == 3


def test_a_file_is_a_source_of_its_own_name_with_as_many_classes_as_labels(tmp_path):
    source = load_source(str(write(tmp_path, map(png, GREY))))
    assert (source.name, source.num_classes, len(source.samples)) == ("images", 3, 3)


# --- what is refused -----------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.parquet: not a parquet file with the columns"):
        read_images(tmp_path / "nothing.parquet")


def test_a_file_of_another_kind_is_named(tmp_path):
    path = tmp_path / "notes.parquet"
    path.write_text("no parquet")
    with pytest.raises(DataError, match=r"notes\.parquet: not a parquet file with the columns"):
        read_images(path)


@pytest.mark.parametrize("missing", ["image", "label"])
def test_a_missing_column_is_named_with_the_file(missing, tmp_path):
    path = write(tmp_path, map(png, GREY))
    pq.write_table(pq.read_table(path).drop_columns([missing]), path)
    with pytest.raises(
        DataError, match=rf"images\.parquet: .* the columns image and label: (?s:.*){missing}"
    ):
        read_images(path)


def test_a_file_without_rows_is_refused(tmp_path):
    path = write(tmp_path, map(png, GREY))
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(DataError, match=r"images\.parquet: holds no samples"):
        read_images(path)


BAD_IMAGES = {
    "bytes of something else": (b"no image", "not an image"),
    "cut off": (png(GREY[1])[:45], "not an image"),
    "missing": (None, "not an image"),
    "of 16 bits": (png(GREY[1].astype(np.uint16)), "its pixels are I;16, they must have 8 bits"),
    "of another size": (
        png(GREY[1][:4]),
        r"image of \(1, 4, 4\) \(channels, height, width\), the first is of \(1, 5, 4\)",
    ),
    "in colour": (png(COLOUR[1]), r"image of \(3, 5, 4\) .* the first is of \(1, 5, 4\)"),
}


@pytest.mark.parametrize(("image", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_an_image_that_cannot_be_used_is_named_with_file_and_row(image, message, tmp_path):
    path = write(tmp_path, [png(GREY[0]), image, png(GREY[2])])
    with pytest.raises(DataError, match=rf"images\.parquet, row 1: .*{message}"):
        read_images(path)


def test_a_column_that_holds_no_images_is_refused(tmp_path):
    path = tmp_path / "images.parquet"
    pq.write_table(pa.table({"image": [1, 2, 3], "label": LABELS}), path)
    with pytest.raises(DataError, match="row 0: not an image"):
        read_images(path)


def test_a_negative_label_is_named_with_file_and_row(tmp_path):
    path = write(tmp_path, map(png, GREY), labels=[0, 1, -1])
    with pytest.raises(DataError, match=r"images\.parquet, row 2: label -1 is below 0"):
        read_images(path)


@pytest.mark.parametrize("labels", [[0.0, 1.0, 2.0], ["a", "b", "c"], [0, None, 1]])
def test_labels_that_are_no_classes_are_refused(labels, tmp_path):
    path = write(tmp_path, map(png, GREY), labels=labels)
    with pytest.raises(DataError, match="the column label must hold classes from 0, without gaps"):
        read_images(path)
