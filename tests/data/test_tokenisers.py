import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.tokenisers import PADDING, SPECIAL, load_checkpoint_tokeniser, read, train_wordpiece, vocabulary_of
from protocol.errors import SettingsError

PROJECT = Path(__file__).parents[2]
TEXTS = [f"the {noun} {verb} over {number} lazy dogs" for number, (noun, verb) in enumerate(
    [("fox", "jumps"), ("cat", "leaps"), ("foxes", "jumped"), ("cats", "leapt"), ("fish", "swims")] * 20
)]  # fmt: skip


def ids_of(tokeniser, text, length=64):
    return read(tokeniser, length).encode(text).ids


def test_the_first_pieces_are_the_special_ones_and_padding_is_0():
    pieces = vocabulary_of(read(train_wordpiece(TEXTS, 200), 16))
    assert [piece for _, piece in pieces[:4]] == list(SPECIAL)
    assert [number for number, _ in pieces] == list(range(len(pieces)))
    assert SPECIAL[PADDING] == "[PAD]"


def test_words_that_are_frequent_are_one_piece():
    tokeniser = train_wordpiece(TEXTS, 200)
    assert len(ids_of(tokeniser, "the lazy dogs")) == 2 + 3


def test_capitals_and_accents_make_no_difference():
    tokeniser = train_wordpiece([*TEXTS, "naive"], 200)
    assert ids_of(tokeniser, "THE FOX naïve") == ids_of(tokeniser, "the fox naive")


def test_what_was_never_seen_is_unknown():
    assert ids_of(train_wordpiece(TEXTS, 200), "ж") == [2, SPECIAL.index("[UNK]"), 3]


@given(st.lists(st.text(max_size=20), max_size=20), st.integers(64, 200))
def test_a_vocabulary_has_at_most_the_pieces_asked_for_and_reads_any_text(texts, vocabulary):
    tokeniser = train_wordpiece(texts, vocabulary)
    assert len(vocabulary_of(read(tokeniser, 16))) <= vocabulary
    for text in texts:
        ids = ids_of(tokeniser, text, 16)
        assert 2 <= len(ids) <= 16
        assert max(ids) < vocabulary


def test_the_order_of_texts_makes_no_difference():
    assert train_wordpiece(TEXTS, 100) == train_wordpiece(TEXTS[::-1], 100)


@pytest.mark.slow
def test_every_process_finds_the_same():
    code = (
        "import sys; from data.tokenisers import train_wordpiece; "
        "sys.stdout.write(train_wordpiece(sys.argv[1:], 120))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, *TEXTS],
            cwd=PROJECT,
            env={**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, threads in (("0", "1"), ("1", "4"), ("2", "1"))
    }
    assert found == {train_wordpiece(TEXTS, 120)}


# --- a checkpoint's ------------------------------------------------------------------------------


def write_checkpoint(folder, pad="[PAD]"):
    from transformers import BertConfig, PreTrainedTokenizerFast

    tokeniser = PreTrainedTokenizerFast(
        tokenizer_object=read(train_wordpiece(TEXTS, 200), 64), pad_token=pad, unk_token="[UNK]"
    )
    tokeniser.save_pretrained(folder)
    BertConfig().save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_a_checkpoints_tokeniser_reads_texts_as_it_does(tmp_path):
    tokeniser = load_checkpoint_tokeniser(write_checkpoint(tmp_path))
    assert ids_of(tokeniser, "the fox jumps") == ids_of(train_wordpiece(TEXTS, 200), "the fox jumps")


@pytest.mark.slow
def test_a_checkpoint_without_a_tokeniser_is_refused_by_its_place(tmp_path):
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match=f'^pretrained = "{tmp_path}": .*tokeniser'):
        load_checkpoint_tokeniser(str(tmp_path))


def test_a_place_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r'^pretrained = ".*/nowhere": no tokeniser can be read there'):
        load_checkpoint_tokeniser(str(tmp_path / "nowhere"))


def test_a_tokeniser_that_pads_with_another_id_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="pads with id 3; allowed is 0"):
        load_checkpoint_tokeniser(write_checkpoint(tmp_path, pad="[SEP]"))
