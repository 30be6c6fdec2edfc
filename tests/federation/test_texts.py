"""Every method on texts, over the in-process grid; a run from a checkpoint; what of a pool is kept."""

import json

import pytest
import torch
from safetensors.torch import load_file

from data.federation import load_public_pool, load_shared
from data.tokenisers import read, train_wordpiece
from strategies.submodels.variants import VARIANTS
from tests.support.federation import run_quickly, settings

DISTILLATION = {"distillation__optimizer": "adamw", "distillation__learning_rate": 0.001}
WORDS = {"0": ("awful", "boring", "dull"), "1": ("lovely", "bright", "great")}


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "reviews.csv"
    rows = [
        f"a {WORDS[label][number % 3]} film number {number},{label}" for number in range(60) for label in "01"
    ]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return str(path)


@pytest.mark.parametrize("strategy", ["scarlet", "dsfl", "fedavg", "individual", *sorted(VARIANTS)])
def test_every_method_learns_from_texts(strategy, reviews, tmp_path):
    folder = run_quickly(
        tmp_path,
        nodes=4,
        strategy=strategy,
        model="elastic-bert-tiny",
        num_rounds=2,
        min_nodes=1,
        data__source=reviews,
        data__alpha=100.0,
        data__server_test_size=20,
        public__size=20,
        public__subset_size=10,
        text__length=12,
        text__vocabulary=120,
        train__optimizer="adamw",
        train__learning_rate=0.001,
        **(DISTILLATION if strategy in ("scarlet", "dsfl") else {}),
    )
    lines = list(folder.rounds())
    assert len(lines) == 2
    assert all(not line["nodes"]["failed"] for line in lines)
    assert 0 <= lines[-1]["clients"]["accuracy"] <= 1
    if strategy in VARIANTS:
        assert all(0 <= level["accuracy"] <= 1 for level in lines[-1]["levels"])


# --- what is found on the pool -------------------------------------------------------------------


@pytest.mark.parametrize("other", [{"text__length": 5}, {"text__vocabulary": 64}])
def test_one_process_keeps_the_pools_of_other_settings_apart(reviews, tmp_path, other):
    common = {
        "data__source": reviews,
        "data__server_test_size": 20,
        "public__size": 20,
        "public__subset_size": 10,
        "text__length": 12,
        "text__vocabulary": 120,
    }
    runs = [settings(tmp_path, **{**common, **changes}) for changes in ({}, {}, other)]
    first, again, changed = (load_public_pool(run).digest for run in runs)
    assert first == again
    assert changed != first
    assert load_shared(runs[2]).form.shape != load_shared(runs[0]).form.shape


# --- a checkpoint --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return the folder of a small BERT with a tokeniser of its own, as transformers saves them."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("checkpoint")
    known = read(train_wordpiece(["a checkpoint knows other words than reviews do"] * 3, 90), 64)
    PreTrainedTokenizerFast(tokenizer_object=known, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder
    )
    torch.manual_seed(5)
    size = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 4}
    BertModel(BertConfig(vocab_size=known.get_vocab_size(), **size)).save_pretrained(folder)
    return folder


def test_a_run_begins_with_a_checkpoints_weights_and_tokens(checkpoint, reviews, tmp_path):
    folder = run_quickly(
        tmp_path,
        nodes=4,
        strategy="scalefl",
        model="elastic-bert",
        pretrained=str(checkpoint),
        num_rounds=1,
        min_nodes=1,
        data__source=reviews,
        data__alpha=100.0,
        data__server_test_size=20,
        public__size=20,
        public__subset_size=10,
        text__length=12,
        train__learning_rate=1e-9,
    )
    tokeniser = json.loads((folder.path / "data.json").read_text())["input"]["tokeniser"]
    expected = json.loads((checkpoint / "tokenizer.json").read_text())
    assert json.loads(tokeniser)["model"]["vocab"] == expected["model"]["vocab"]
    theirs = load_file(checkpoint / "model.safetensors")
    ours = load_file(next(folder.path.glob("checkpoint/*/model.safetensors")))
    name = next(name for name in ours if name.endswith("embeddings.word_embeddings.weight"))
    torch.testing.assert_close(ours[name], theirs["embeddings.word_embeddings.weight"], atol=1e-6, rtol=0)
