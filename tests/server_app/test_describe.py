"""What a run's vision-language model says of images."""

import pytest
from PIL import Image

from server_app.describe import main
from tests.federation.test_vision_language import SMALL
from tests.support.federation import run_quickly

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    changes = {**SMALL, "strategy": "scalefl", "num_rounds": 1}
    return run_quickly(tmp_path_factory.mktemp("vlm"), 1, **changes).path


@pytest.fixture
def images(tmp_path):
    for name, mode in (("grey.png", "L"), ("colour.png", "RGB")):
        Image.new(mode, (20, 30)).save(tmp_path / name)
    return [str(tmp_path / name) for name in ("grey.png", "colour.png")]


@pytest.mark.parametrize("level", ["1", "4"])
def test_each_image_gets_a_line(run, images, level, capsys):
    assert main([str(run), "--level", level, "--most", "3", *images]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == images


def test_another_question_can_be_asked(run, images, capsys):
    assert main([str(run), "--level", "1", "--most", "2", "--prompt", "Describe this image.", images[0]]) == 0
    assert images[0] in capsys.readouterr().out


def test_a_file_that_is_no_image_is_named(run, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("no image")
    assert main([str(run), "--level", "1", str(tmp_path / "notes.txt")]) == 1
    assert "notes.txt: cannot be read as an image" in capsys.readouterr().err


def test_a_level_that_is_not_there_is_refused(run, images, capsys):
    assert main([str(run), "--level", "5", *images]) == 1
    assert "level = 5" in capsys.readouterr().err


def test_a_network_that_only_sees_is_refused(tmp_path, images, capsys):
    folder = run_quickly(tmp_path / "runs", 2, strategy="scalefl", model="elastic-cnn", num_rounds=1)
    assert main([str(folder.path), "--level", "1", *images]) == 1
    assert 'model = "elastic-cnn": cannot generate text' in capsys.readouterr().err


def test_images_are_read_as_those_that_were_learned_from(run, tmp_path, capsys):
    """A picture of 16 bits would come out white."""
    Image.new("I;16", (20, 30)).save(tmp_path / "x-ray.png")
    assert main([str(run), "--level", "1", str(tmp_path / "x-ray.png")]) == 1
    assert "x-ray.png: cannot be read as an image: its pixels are I;16" in capsys.readouterr().err


def test_brackets_in_a_name_are_printed_as_they_are(run, capsys):
    assert main([str(run), "--level", "1", "[/scans]/knee [red].png"]) == 1
    assert "[/scans]/knee [red].png: cannot be read" in capsys.readouterr().err


def test_an_answer_of_no_token_is_refused(run, images, capsys):
    assert main([str(run), "--level", "1", "--most", "0", *images]) == 1
    assert "--most = 0: must be at least 1" in capsys.readouterr().err
