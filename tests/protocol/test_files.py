import errno
import os

import pytest

from protocol.files import write_atomically


def fail(*_arguments):
    raise OSError("no space left on device")


def test_a_file_is_made(tmp_path):
    write_atomically(tmp_path / "settings.json", b"new")
    assert (tmp_path / "settings.json").read_bytes() == b"new"


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "settings.json"
    path.write_bytes(b"a longer old content")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_nothing_else_is_left_in_the_folder(tmp_path):
    path = tmp_path / "settings.json"
    write_atomically(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "settings.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"settings.json": b"old"}


def test_the_error_of_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*state\.safetensors") as raised:
        write_atomically(tmp_path / "state.safetensors", b"new")
    assert raised.value.errno == errno.ENOSPC


def test_the_old_file_is_whole_until_the_new_one_is_on_disk(tmp_path, monkeypatch):
    path = tmp_path / "settings.json"
    path.write_bytes(b"old")
    seen = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (fsync(descriptor), seen.append(path.read_bytes())))
    write_atomically(path, b"new")
    assert seen == [b"old", b"new"]


def test_others_may_read_the_file_as_far_as_the_umask_says(tmp_path):
    path = tmp_path / "report.html"
    before = os.umask(0o022)
    try:
        write_atomically(path, b"new")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
