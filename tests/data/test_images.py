import dataclasses
import io
import json
import logging
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.images import Conversion, cache_folder, in_memory, prepare, read_image
from data.rows import ArrayImages
from protocol.errors import DataError
from protocol.formats import FORMATS, FileKind
from tests.data.on_disk import COLOUR, GREY, NO_IMAGE, PNGS, encoded

ALL = torch.arange(6)
AS_THEY_ARE = Conversion()
WHERE = 'data.source = "/x"'


class Encoded:
    """Encoded images in a list."""

    def __init__(self, contents, fingerprint="these"):
        self.contents, self.fingerprint = contents, fingerprint

    def __len__(self):
        return len(self.contents)

    def name(self, row):
        return f"row {row}"

    def content(self, row):
        return self.contents[row]

    def decode(self, content):
        image = Image.open(io.BytesIO(content))
        image.load()
        return image


class Unwanted(Encoded):
    def decode(self, content):
        raise AssertionError("decoded again")


def prepared(contents, conversion=AS_THEY_ARE, max_bad=0.0, kind=Encoded, fingerprint="these", count=None):
    rows = kind(contents, fingerprint)
    return prepare(rows, conversion, count or len(rows), max_bad, WHERE)


def as_image(pixels):
    """Return pixels (channels, height, width) as Pillow has them."""
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def folders():
    """Return what lies in the cache besides locks."""
    return sorted(path.name for path in cache_folder().iterdir() if path.suffix != ".lock")


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [1, -1], ids=["newer", "older"])
def test_images_that_a_program_of_another_format_prepared_are_not_used(change, monkeypatch):
    with monkeypatch.context() as patch:
        known = FORMATS[FileKind.IMAGES]
        patch.setitem(FORMATS, FileKind.IMAGES, dataclasses.replace(known, version=known.version + change))
        prepared(PNGS)
    others = folders()
    prepared(PNGS)
    assert set(folders()) > set(others)
    assert len(folders()) == 2


def test_grey_images_are_read_to_their_pixels():
    images = prepared(PNGS)
    assert torch.equal(images.pixels, torch.from_numpy(GREY)[:, None])
    assert images.shape == (1, 5, 4)
    assert images.kept.tolist() == [0, 1, 2, 3, 4, 5]


def test_colour_images_are_read_channels_first():
    images = prepared([encoded(pixels) for pixels in COLOUR])
    assert torch.equal(images.pixels, torch.from_numpy(COLOUR).permute(0, 3, 1, 2))


def test_arrays_are_read_to_their_pixels():
    images = prepare(ArrayImages(COLOUR, "arrays"), AS_THEY_ARE, 6, 0, WHERE)
    assert torch.equal(images.pixels, torch.from_numpy(COLOUR).permute(0, 3, 1, 2))


def test_only_as_many_as_asked_are_read():
    assert torch.equal(prepared(PNGS, count=2).pixels, torch.from_numpy(GREY[:2])[:, None])


MODES = [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)]


@pytest.mark.parametrize(("mode", "channels"), MODES)
def test_every_kind_of_image_becomes_grey_or_colour(mode, channels):
    images = prepared([encoded(pixels, mode) for pixels in COLOUR])
    expected = Image.fromarray(COLOUR[1]).convert(mode).convert("L" if channels == 1 else "RGB")
    assert images.shape == (channels, 5, 4)
    assert np.array_equal(as_image(images.pixels[1]), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "TIFF"), ("CMYK", "JPEG"), ("YCbCr", "TIFF")])
def test_colours_of_printers_and_cameras_become_grey_or_colour(mode, kind, channels):
    content = encoded(COLOUR[1], mode, kind)
    images = prepared([content], Conversion(channels=channels))
    expected = Image.open(io.BytesIO(content)).convert("L" if channels == 1 else "RGB")
    assert np.array_equal(as_image(images.pixels[0]), expected)


def test_pixels_that_pillow_converts_wrongly_are_refused_by_name(caplog):
    """It takes the colours of CIE's LAB for others, and makes no grey of them at all."""
    file = io.BytesIO()
    Image.frombytes("LAB", (4, 5), COLOUR[1].tobytes()).save(file, "TIFF")
    assert prepared([PNGS[0], file.getvalue()], max_bad=0.5).kept.tolist() == [0]
    assert "row 1: ValueError: its pixels are LAB, they must be one of 1, L, LA, P, PA, RGB, " in caplog.text


def test_a_palette_of_greys_has_the_greys_it_stands_for():
    palette = Image.fromarray(GREY[1]).convert("P")
    file = io.BytesIO()
    palette.save(file, "PNG")
    images = prepared([file.getvalue()], Conversion(channels=1))
    assert torch.equal(images.pixels[0, 0], torch.from_numpy(GREY[1]))


def test_transparency_is_dropped_and_what_lies_beneath_kept():
    layers = np.concatenate([COLOUR[1], np.full((5, 4, 1), 7, dtype=np.uint8)], axis=2)
    images = prepared([encoded(layers)])
    assert torch.equal(images.pixels[0], torch.from_numpy(COLOUR[1]).permute(2, 0, 1))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_an_x_ray_of_more_than_8_bits_is_refused_by_name_and_never_cut_off_at_white(mode):
    """A detector's 12 bits: nearly all of them lie above 255."""
    twelve_bits = np.linspace(0, 4095, 20).astype(np.float32 if mode == "F" else np.uint16).reshape(5, 4)
    if mode == "I;16B":
        image = Image.frombytes(mode, (4, 5), twelve_bits.astype(">u2").tobytes())
    else:
        image = Image.fromarray(twelve_bits.astype(np.int32) if mode == "I" else twelve_bits)
    assert image.mode == mode
    file = io.BytesIO()
    image.save(file, "TIFF")
    expected = (
        r'data\.source = "/x": none of the first 1 images can be read: row 0: ValueError: its pixels are '
        rf"{mode}, they must have 8 bits: scale them to 0\.\.255, "
    )
    with pytest.raises(DataError, match=expected):
        prepared([file.getvalue()])


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_an_image_of_more_than_8_bits_is_unreadable_for_that_reason(mode, caplog):
    if mode == "F":
        odd = encoded(GREY[1].astype(np.float32), kind="TIFF")
    else:
        odd = encoded(GREY[1].astype(np.uint16))
    images = prepared([PNGS[0], odd, PNGS[2]], max_bad=0.5)
    assert images.kept.tolist() == [0, 2]
    assert f"row 1: ValueError: its pixels are {mode}, they must have 8 bits" in caplog.text


# --- conversion ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(3, 3), (16, 9)])
def test_images_are_resized_as_pillow_does(size):
    height, width = size
    images = prepared([encoded(pixels) for pixels in COLOUR], Conversion(0, height, width))
    assert images.shape == (3, height, width)
    assert np.array_equal(as_image(images.pixels[1]), Image.fromarray(COLOUR[1]).resize((width, height)))


def test_colour_becomes_grey_if_asked():
    images = prepared([encoded(pixels) for pixels in COLOUR], Conversion(channels=1))
    assert np.array_equal(as_image(images.pixels[1]), Image.fromarray(COLOUR[1]).convert("L"))


def test_grey_becomes_colour_if_asked():
    images = prepared(PNGS, Conversion(channels=3))
    assert torch.equal(images.pixels, torch.from_numpy(GREY)[:, None].expand(-1, 3, -1, -1))


def test_images_of_several_sizes_and_colours_are_brought_together_if_asked():
    contents = [PNGS[0], encoded(COLOUR[1]), encoded(GREY[2][:3])]
    assert prepared(contents, Conversion(1, 8, 8)).pixels.shape == (3, 1, 8, 8)


def test_another_size_is_refused_by_its_row_and_the_setting():
    expected = r'data\.source = "/x", row 2: an image of 4x3 pixels, the first has 4x5: set data\.image-size'
    with pytest.raises(DataError, match=expected):
        prepared([*PNGS[:2], encoded(GREY[2][:3])])


def test_colour_after_many_grey_ones_is_refused_by_its_row_and_the_setting():
    expected = r"row 120: an image in colour, the first are grey: set data\.channels = 1 or 3"
    with pytest.raises(DataError, match=expected):
        prepared(PNGS * 20 + [encoded(COLOUR[0])])


def test_grey_ones_among_the_first_in_colour_become_colour():
    images = prepared([PNGS[0], encoded(COLOUR[1])])
    assert torch.equal(images.pixels[0], torch.from_numpy(GREY[0]).expand(3, -1, -1))
    assert torch.equal(images.pixels[1], torch.from_numpy(COLOUR[1]).permute(2, 0, 1))


# --- images that cannot be read ------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NO_IMAGE, PNGS[1][:45], None], ids=["no image", "cut off", "missing"])
def test_an_unreadable_image_is_left_out_and_named_in_the_log(bad, caplog):
    images = prepared([PNGS[0], bad, PNGS[2]], max_bad=0.4)
    assert images.kept.tolist() == [0, 2]
    assert torch.equal(images.pixels, torch.from_numpy(GREY[[0, 2]])[:, None])
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("flwr", logging.WARNING)
    assert record.message.startswith(f"{WHERE}: 1 of 3 images cannot be read: row 1: ")
    assert record.message.endswith("; they are left out")


def test_good_images_alone_leave_nothing_in_the_log(caplog):
    prepared(PNGS)
    assert caplog.records == []


def test_an_unreadable_image_is_named_again_when_it_was_prepared_before(caplog):
    for _ in range(2):
        prepared([PNGS[0], NO_IMAGE], max_bad=0.5)
    assert len(caplog.records) == 2


def test_the_first_image_that_can_be_read_says_what_the_others_must_be_like():
    odd = encoded(GREY[1][:3].astype(np.uint16))  # of another size, and unreadable
    assert prepared([odd, PNGS[1], PNGS[2]], max_bad=0.5).kept.tolist() == [1, 2]


@pytest.mark.parametrize(("bad", "max_bad"), [(1, 0), (1, 0.16), (2, 0.32)])
def test_more_unreadable_images_than_allowed_are_refused_by_their_rows(bad, max_bad):
    expected = rf"{bad} of 6 images cannot be read: row 0: .*; data\.max-bad = {max_bad} is the share allowed"
    with pytest.raises(DataError, match=expected):
        prepared([NO_IMAGE] * bad + PNGS[bad:], max_bad=max_bad)


def test_as_many_unreadable_images_as_allowed_are_passed_over():
    assert prepared([*[NO_IMAGE] * 3, *PNGS[3:]], max_bad=0.5).kept.tolist() == [3, 4, 5]


def test_of_many_unreadable_images_the_first_are_named():
    with pytest.raises(DataError) as error:
        prepared([PNGS[0]] + [NO_IMAGE] * 7)
    assert "row 5: " in str(error.value)
    assert "row 6: " not in str(error.value)
    assert "and 2 more" in str(error.value)


def test_images_none_of_which_can_be_read_are_refused_with_the_reason():
    expected = r"none of the first 2 images can be read: row 0: UnidentifiedImageError: .*; row 1: "
    with pytest.raises(DataError, match=expected):
        prepared([NO_IMAGE, NO_IMAGE], max_bad=0.9)


# --- what is kept on disk ------------------------------------------------------------------------


def test_pixels_are_mapped_from_the_file():
    images = prepared(PNGS)
    (folder,) = folders()
    with (cache_folder() / folder / "pixels").open("r+b") as file:
        file.write(bytes([255 - GREY[0, 0, 0]]))
    assert images.pixels[0, 0, 0, 0] == 255 - GREY[0, 0, 0]


def test_pixels_stay_mapped_when_they_become_inputs():
    images = prepared(PNGS)
    inputs = images.inputs(ALL[:2], images.fit(ALL, normalise=True)).to("cpu")
    assert inputs.pixels.data_ptr() == images.pixels.data_ptr()


def test_images_are_decoded_once_a_machine():
    first, second = prepared(PNGS), prepared(PNGS, kind=Unwanted)
    assert torch.equal(first.pixels, second.pixels)
    assert np.array_equal(first.hashes, second.hashes)
    assert np.array_equal(first.kept, second.kept)


@pytest.mark.parametrize("change", ["fingerprint", "conversion", "count"])
def test_images_are_prepared_anew_for_another(change):
    prepared(PNGS)
    match change:
        case "fingerprint":
            anew = prepared(PNGS[::-1], fingerprint="others")
        case "conversion":
            anew = prepared(PNGS, Conversion(channels=3))
        case "count":
            anew = prepared(PNGS, count=5)
    assert len(folders()) == 2
    expected = {"fingerprint": (6, 1, 5, 4), "conversion": (6, 3, 5, 4), "count": (5, 1, 5, 4)}
    assert anew.pixels.shape == expected[change]


def test_a_failure_leaves_nothing_behind():
    with pytest.raises(DataError):
        prepared([*PNGS[:2], encoded(GREY[2][:3])])
    assert folders() == []


def test_a_stop_leaves_nothing_behind():
    asked = []

    class Stopped(Encoded):
        def content(self, row):
            asked.append(row)
            if asked.count(4) == 2:  # the first time is to see what the images are like
                raise KeyboardInterrupt
            return super().content(row)

    with pytest.raises(KeyboardInterrupt):
        prepared(PNGS, kind=Stopped)
    assert folders() == []


def test_what_a_killed_process_left_is_replaced():
    prepared(PNGS)
    (whole,) = folders()
    leftover = cache_folder() / f".{whole}.unfinished"
    (cache_folder() / whole).rename(leftover)
    (leftover / "pixels").write_bytes(b"a part")
    assert torch.equal(prepared(PNGS).pixels, torch.from_numpy(GREY)[:, None])
    assert folders() == [whole]


class Slow(Encoded):
    """Images that take a while to decode, and leave a trace each time."""

    def decode(self, content):
        time.sleep(0.02)
        with Path(self.fingerprint).open("a") as trace:
            trace.write("decoded\n")
        return super().decode(content)


def test_two_processes_at_once_decode_once_and_leave_one_whole_folder(tmp_path):
    context, trace = multiprocessing.get_context("fork"), str(tmp_path / "trace")
    processes = [
        context.Process(target=prepared, args=(PNGS,), kwargs={"kind": Slow, "fingerprint": trace})
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(Path(trace).read_text().splitlines()) == 2 * len(PNGS)  # to see what they are like, and then
    assert len(folders()) == 1
    again = prepared(PNGS, kind=Unwanted, fingerprint=trace)
    assert torch.equal(again.pixels, torch.from_numpy(GREY)[:, None])


def test_a_place_that_cannot_be_written_is_named_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be stored in .*/file/motley \(XDG_CACHE_HOME names another"):
        prepared(PNGS)


def test_prepared_images_lie_in_the_users_cache(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "motley"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/motley")


# --- scaling -------------------------------------------------------------------------------------


def test_mean_and_deviation_are_those_of_the_rows_by_channel():
    images = prepared([encoded(pixels) for pixels in COLOUR])
    form = images.fit(torch.tensor([4, 1]), normalise=True)
    values = torch.from_numpy(COLOUR[[4, 1]]).double() / 255
    assert form.shape == (3, 5, 4)
    assert form.mean == pytest.approx(values.mean(dim=(0, 1, 2)).tolist(), abs=1e-12)
    assert form.deviation == pytest.approx(values.std(dim=(0, 1, 2), correction=0).tolist(), abs=1e-12)


def test_normalised_inputs_are_the_pixels_from_0_to_1_less_the_mean_by_the_deviation():
    images = prepared(PNGS)
    form = images.fit(ALL[:3], normalise=True)
    expected = (torch.from_numpy(GREY)[:, None].double() / 255 - form.mean[0]) / form.deviation[0]
    batch = images.inputs(ALL, form)[ALL]
    assert torch.allclose(batch.double(), expected, atol=1e-6, rtol=0)
    assert abs(batch[:3].mean()) < 1e-6
    assert batch[:3].std(correction=0) == pytest.approx(1, abs=1e-6)


def test_inputs_that_are_not_normalised_are_the_pixels_from_0_to_1():
    images = prepared(PNGS)
    batch = images.inputs(ALL, images.fit(ALL, normalise=False))[ALL]
    assert torch.equal(batch, torch.from_numpy(GREY)[:, None].float() / 255)


def test_the_statistics_do_not_depend_on_the_order():
    images = prepared(PNGS)
    assert images.fit(ALL, normalise=True) == images.fit(ALL.flip(0), normalise=True)


def test_a_channel_that_never_changes_is_only_shifted():
    form = prepared([encoded(np.full((5, 4), 51, dtype=np.uint8))]).fit(ALL[:1], normalise=True)
    assert (form.mean, form.deviation) == (pytest.approx((0.2,)), (1.0,))


def test_the_white_of_images_in_memory_is_their_own():
    images = in_memory(torch.tensor([0, 4, 16, 8], dtype=torch.uint8).reshape(4, 1, 1, 1), white=16)
    batch = images.inputs(ALL[:4], images.fit(ALL[:4], normalise=False))[ALL[:4]]
    assert batch.flatten().tolist() == [0.0, 0.25, 1.0, 0.5]
    assert images.fit(ALL[:4], normalise=True).mean == pytest.approx((7 / 16,))


def test_the_form_is_json():
    form = prepared(PNGS).fit(ALL, normalise=True)
    facts = json.loads(json.dumps(form.facts(), allow_nan=False))
    assert facts == {"shape": [1, 5, 4], "mean": list(form.mean), "deviation": list(form.deviation)}


def test_a_form_of_another_shape_is_refused():
    form = prepared(PNGS).fit(ALL, normalise=True)
    with pytest.raises(ValueError, match="not of the form"):
        prepared(PNGS, Conversion(channels=3)).inputs(ALL, form)


# --- digests -------------------------------------------------------------------------------------


def test_the_digest_is_32_hexadecimal_digits_and_the_same_on_every_machine():
    arrays = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    images = prepare(ArrayImages(arrays, "arrays"), AS_THEY_ARE, 2, 0, WHERE)
    assert images.digest(ALL[:2]) == in_memory(torch.from_numpy(arrays)[:, None], 255).digest(ALL[:2])
    assert images.digest(ALL[:2]) == "b62e9138998b38d8446b35e05eb21a3a"


@pytest.mark.parametrize("rows", [[1, 0, 2, 3, 4, 5], [0, 1, 2, 3, 4], [0, 0, 1, 2, 3, 4, 5]])
def test_the_digest_changes_with_order_and_number(rows):
    images = prepared(PNGS)
    assert images.digest(torch.tensor(rows)) != images.digest(ALL)


def test_the_digest_is_that_of_the_stored_bytes():
    images = prepared(PNGS)
    same_pixels = [encoded(pixels, compress_level=0) for pixels in GREY]
    other = prepared(same_pixels, fingerprint="packed otherwise")
    assert torch.equal(images.pixels, other.pixels)
    assert images.digest(ALL) != other.digest(ALL)


def test_the_digest_does_not_depend_on_the_conversion():
    assert prepared(PNGS, Conversion(3, 8, 8)).digest(ALL) == prepared(PNGS).digest(ALL)


def test_an_image_left_out_does_not_shift_the_others_digests():
    gappy = prepared([PNGS[0], NO_IMAGE, *PNGS[1:]], max_bad=0.2, fingerprint="gappy")
    assert gappy.digest(ALL) == prepared(PNGS).digest(ALL)


def test_one_file_is_read_as_a_whole_set_is(tmp_path):
    """Turned as the camera was held, converted, and fitted."""
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright: what is left in the file is up in the picture
    pixels = np.zeros((4, 8), dtype=np.uint8)
    pixels[:, :4] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    read = read_image(tmp_path / "a.png", (3, 8, 4))
    assert read.shape == (3, 8, 4)
    assert read[:, :4].eq(255).all()
    assert read[:, 4:].eq(0).all()
