import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digests import code_digest, digest_of_arrays, digest_of_hashes, label_hashes

REPOSITORY = Path(__file__).parents[2]

# --- source code -------------------------------------------------------------------------------------

DIGEST_WITH_EACH_FOLDER_FIRST = """
import importlib, sys
from protocol.digests import code_digest, digest_of_packages
for folder in sys.argv[1:]:
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    digest_of_packages.cache_clear()
    print(code_digest())
"""


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    """Digests of another process: as it is here, with a copy of models/ first, with a changed copy."""
    same, changed = tmp_path_factory.mktemp("same"), tmp_path_factory.mktemp("changed")
    for folder in (same, changed):
        shutil.copytree(
            REPOSITORY / "models", folder / "models", ignore=shutil.ignore_patterns("__pycache__")
        )
    with (changed / "models" / "cnn.py").open("a") as file:
        file.write("\n")
    folders = [str(folder) for folder in (REPOSITORY, same, changed)]
    result = subprocess.run(
        [sys.executable, "-c", DIGEST_WITH_EACH_FOLDER_FIRST, *folders],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(zip(["here", "same", "changed"], result.stdout.split(), strict=True))


@pytest.mark.slow
def test_two_processes_with_the_same_code_have_the_same_digest(digests):
    assert digests["here"] == code_digest()


@pytest.mark.slow
def test_the_folder_that_the_code_lies_in_does_not_matter(digests):
    assert digests["same"] == digests["here"]


@pytest.mark.slow
def test_a_package_of_the_same_name_with_other_source_first_on_the_path_shows(digests):
    assert digests["changed"] != digests["here"]


# --- labels ------------------------------------------------------------------------------------------


def hash_of(index=5, version=7, row=(1, 2, 3)):
    return label_hashes(
        np.array([index], dtype=np.int64),
        np.array([version], dtype=np.int32),
        np.array([row], dtype=np.uint8),
    )[0]


@pytest.mark.parametrize("other", [{"index": 6}, {"version": 8}, {"row": (1, 2, 4)}, {"row": (3, 2, 1)}])
def test_a_label_with_another_index_version_or_byte_has_another_hash(other):
    assert hash_of(**other) != hash_of()


def test_index_and_version_are_not_interchangeable():
    assert hash_of(index=5, version=7) != hash_of(index=7, version=5)


def test_a_label_hash_is_the_same_on_every_machine():
    assert hash_of() == 11516550224279208438


def test_no_labels_have_no_hashes():
    empty = np.zeros(0, dtype=np.int64)
    hashes = label_hashes(empty, empty.astype(np.int32), np.zeros((0, 20), dtype=np.uint8))
    assert hashes.shape == (0,)
    assert hashes.dtype == np.uint64


labels = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(1, 2**31 - 1), st.binary(min_size=4, max_size=4)),
    min_size=1,
    max_size=20,
    unique_by=lambda label: label[0],
)


def cache_digest(entries):
    indices, versions, rows = zip(*entries, strict=True)
    wire = np.array([list(row) for row in rows], dtype=np.uint8)
    return digest_of_hashes(label_hashes(np.array(indices), np.array(versions, dtype=np.int32), wire))


@given(labels, st.randoms(use_true_random=False))
def test_the_digest_of_a_cache_does_not_depend_on_the_order_of_its_labels(entries, random):
    shuffled = random.sample(entries, len(entries))
    assert cache_digest(shuffled) == cache_digest(entries)


@given(labels, st.data())
def test_the_digest_of_a_cache_changes_with_one_byte_of_one_label(entries, data):
    changed = data.draw(st.integers(0, len(entries) - 1))
    index, version, row = entries[changed]
    other = bytes([row[0] ^ data.draw(st.integers(1, 255))]) + row[1:]
    assert cache_digest(
        [*entries[:changed], (index, version, other), *entries[changed + 1 :]]
    ) != cache_digest(entries)


def test_samples_without_a_label_do_not_count_in_the_digest():
    hashes = np.array([3, 0, 2**63, 0, 2**63 + 4], dtype=np.uint64)
    assert digest_of_hashes(hashes) == digest_of_hashes(hashes[hashes > 0])


def test_the_digest_of_an_empty_cache_is_zero():
    assert digest_of_hashes(np.zeros(0, dtype=np.uint64)) == bytes(8)


def test_the_sum_of_hashes_wraps_at_64_bits():
    assert digest_of_hashes(np.array([2**64 - 1, 3], dtype=np.uint64)) == (2).to_bytes(8, "big")


# --- integer arrays ----------------------------------------------------------------------------------

ONE_TWO, THREE = np.array([1, 2], dtype=np.int64), np.array([3], dtype=np.int64)


@pytest.mark.parametrize(
    "others", [(THREE, ONE_TWO), (ONE_TWO,), (np.array([1, 2, 3]),), (np.array([1]), np.array([2, 3]))]
)
def test_arrays_with_other_values_or_lengths_have_another_digest(others):
    assert digest_of_arrays(*others) != digest_of_arrays(ONE_TWO, THREE)


def test_the_width_of_the_integers_does_not_matter():
    assert digest_of_arrays(ONE_TWO.astype(np.int32)) == digest_of_arrays(ONE_TWO)
