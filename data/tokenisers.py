"""Tokenisers: a checkpoint's, or one that is trained on some texts.

A tokeniser is passed around as the JSON text that the library ``tokenizers`` reads, so it can be stored, sent
and compared.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from protocol.errors import SettingsError
from protocol.references import checkpoint_in
from protocol.values import expanded

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece

PADDING = 0
"""The id that pads texts to one length; networks mask it."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
"""The first entries of a trained vocabulary: padding, unknown token, start and end of a text."""
_LETTERS_SHARE = 4
"""Single letters may take at most this part (1/4) of a vocabulary: a few texts in Chinese could fill it."""


def train_wordpiece(texts: Sequence[str], vocabulary: int) -> str:
    """Train a WordPiece vocabulary, the same on every machine (Schuster and Nakajima 2012).

    Texts are lower-cased and split at blanks and punctuation, as BERT does. The library's own training
    numbers the letters inside words in the order of a hash map, which differs from process to process, and
    breaks ties by these numbers. Here they are numbered before the training starts.

    Parameters
    ----------
    texts
        The texts, in any order; there may be none.
    vocabulary
        Largest number of tokens, at least 64.

    Returns
    -------
    str
        The tokeniser as JSON; a text begins with ``[CLS]`` and ends with ``[SEP]``.
    """
    from tokenizers.models import WordPiece
    from tokenizers.trainers import WordPieceTrainer

    learner = _plain(WordPiece(unk_token=SPECIAL[1]))
    words = Counter(word for text in texts for word in _words(learner, text))
    inside = _most_frequent(words, vocabulary // _LETTERS_SHARE, slice(1, None))
    first = _most_frequent(words, vocabulary // _LETTERS_SHARE, slice(1))
    known, begins = set(inside), set(first)
    kept = {word: count for word, count in words.items() if word[0] in begins and known.issuperset(word[1:])}
    numbered = [*SPECIAL, *first, *(f"##{letter}" for letter in inside)]
    trainer = WordPieceTrainer(vocab_size=vocabulary, special_tokens=numbered, show_progress=False)
    learner.train_from_iterator((word for word in sorted(kept) for _ in range(kept[word])), trainer)
    pieces = sorted(learner.get_vocab(), key=learner.get_vocab().__getitem__)
    trained = {piece: number for number, piece in enumerate(pieces)}
    tokeniser = _plain(WordPiece(trained, unk_token=SPECIAL[1]))
    return _with_special_tokens(tokeniser).to_str()


def load_checkpoint_tokeniser(name: str) -> str:
    """Return the tokeniser of a checkpoint as JSON.

    Parameters
    ----------
    name
        A folder or a hub id, as ``pretrained`` names it; after ``transformers:`` as ``model`` does.

    Raises
    ------
    SettingsError
        If there is none, or the networks here cannot use it.
    """
    from transformers import AutoTokenizer

    within = checkpoint_in(name)
    place, setting = within or name, f'{"model" if within else "pretrained"} = "{name}"'
    try:
        tokeniser = AutoTokenizer.from_pretrained(expanded(place))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise SettingsError(f"{setting}: no tokeniser can be read there ({error})") from error
    if len(tokeniser) <= len(tokeniser.all_special_tokens):  # what the library returns if there is no file
        raise SettingsError(f"{setting}: holds no tokeniser: neither tokenizer.json nor vocab.txt is there")
    if tokeniser.pad_token_id != PADDING:
        raise SettingsError(
            f"{setting}: its tokeniser pads with id {tokeniser.pad_token_id}; allowed is {PADDING}, as BERT's"
        )
    backend = getattr(tokeniser, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        raise SettingsError(f"{setting}: {type(tokeniser).__name__} cannot be written as tokenizer.json")
    if not backend.encode("").ids:
        raise SettingsError(f"{setting}: its tokeniser does not begin texts with [CLS], as BERT's does")
    text: str = backend.to_str()
    return text


@lru_cache(maxsize=4)
def read(tokeniser: str, length: int) -> "Tokenizer":
    """Return a tokeniser that truncates texts to a length; it is cached, so callers must not change it."""
    from tokenizers import Tokenizer

    ready = Tokenizer.from_str(tokeniser)
    ready.enable_truncation(length)
    ready.no_padding()
    return ready


def vocabulary_of(tokeniser: "Tokenizer") -> list[tuple[int, str]]:
    """Return the vocabulary, sorted by id."""
    return sorted((number, piece) for piece, number in tokeniser.get_vocab(with_added_tokens=True).items())


def _plain(model: "WordPiece") -> "Tokenizer":
    """Return a tokeniser that lower-cases texts and splits them into words as BERT does."""
    from tokenizers import Tokenizer
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    tokeniser = Tokenizer(model)
    tokeniser.normalizer = BertNormalizer()
    tokeniser.pre_tokenizer = BertPreTokenizer()
    return tokeniser


def _with_special_tokens(tokeniser: "Tokenizer") -> "Tokenizer":
    """Make texts begin with ``[CLS]`` and end with ``[SEP]``."""
    from tokenizers.decoders import WordPiece
    from tokenizers.processors import BertProcessing

    _, _, start, end = SPECIAL
    tokeniser.add_special_tokens(list(SPECIAL))
    tokeniser.post_processor = BertProcessing((end, SPECIAL.index(end)), (start, SPECIAL.index(start)))
    tokeniser.decoder = WordPiece()
    return tokeniser


def _words(tokeniser: "Tokenizer", text: str) -> list[str]:
    plain = tokeniser.normalizer.normalize_str(text)
    return [word for word, _ in tokeniser.pre_tokenizer.pre_tokenize_str(plain)]


def _most_frequent(words: Counter[str], most: int, part: slice) -> list[str]:
    """Return the most frequent letters of a part of words, sorted."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word[part]:
            counts[letter] += count
    return sorted(sorted(counts, key=lambda letter: (-counts[letter], letter))[:most])
