"""The question for a vision-language model, and the token at which its answers differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL.Image import Resampling
from torch import Tensor

from models.vlm.base import Checkpoint
from models.vlm.families import Pixels
from protocol.errors import SettingsError

_NUMBER = "{}"
_TYPES = ("token_type_ids", "mm_token_type_ids")
_PIXELS = ("pixel_values", "pixel_attention_mask", "image_grid_thw")
"""The outputs of image processors that models take."""


@dataclass(frozen=True, eq=False)
class Question:
    """The tokens that are the same for all images, and the tokens that distinguish the answers."""

    tokens: Tensor
    """Int64 of shape (tokens,): the prompt, placeholders for the image, and the answers' common prefix."""
    types: Mapping[str, Tensor]
    """Token types by the name of the model's argument, each of shape (tokens,); empty for most families."""
    told: int
    """Number of tokens of the answers' common prefix, at the end of ``tokens``."""
    answers: Tensor
    """Int64 of shape (classes,): the token in which each answer differs from the others."""
    sample: Pixels
    """The image processor's output for a black image."""


def ask(
    checkpoint: Checkpoint, prompt: str, answers: Sequence[str], image_shape: tuple[int, int, int]
) -> Question:
    """Tokenise a prompt and its possible answers.

    Parameters
    ----------
    checkpoint
        Its processor tokenises the prompt, in its chat template if it has one.
    prompt
        The question about the image.
    answers
        One per class, or none for an answer in free text.
    image_shape
        Channels, height and width of all images.

    Raises
    ------
    SettingsError
        If the processor cannot process the prompt, or the answers do not differ in a single token.
    """
    text = _written(checkpoint, prompt)
    try:
        inputs = _processed(checkpoint, text, image_shape)
    except (ValueError, TypeError, ImportError) as error:
        raise SettingsError(
            f'vlm.prompt = "{prompt}": the processor of "{checkpoint.place}" cannot write it: {error}'
        ) from error
    spoken = [_spoken(checkpoint, text, answer) for answer in answers]
    told, parting = _parted(answers, spoken) if answers else ([], [])
    with torch.device("cpu"):  # it has values even for a network that has none
        tokens = torch.cat([inputs["input_ids"][0], torch.tensor(told, dtype=torch.int64)])
        more = torch.full((len(told),), checkpoint.family.answer_type)
        types = {name: torch.cat([inputs[name][0], more]) for name in _TYPES if name in inputs}
        parted = torch.tensor(parting, dtype=torch.int64)
    sample = {name: inputs[name] for name in _PIXELS if name in inputs}
    return Question(tokens, types, len(told), parted, sample)


def answers_of(template: str, num_classes: int) -> list[str]:
    """Return the answers that ``vlm.answers`` defines, one per class.

    Raises
    ------
    SettingsError
        If it is neither a template nor as many answers as there are classes.
    """
    if _NUMBER in template:
        return [template.replace(_NUMBER, str(number)) for number in range(num_classes)]
    answers = [answer.strip() for answer in template.split(",")]
    if len(answers) != num_classes or not all(answers):
        raise SettingsError(
            f'vlm.answers = "{template}": must be {num_classes} answers with commas between, one a class, or '
            "have {} where the class's number goes"
        )
    return answers


def image_inputs(checkpoint: Checkpoint, images: Tensor) -> Pixels:
    """Apply a checkpoint's image processor to images.

    Grey images become colour ones by repeating their channel.

    Parameters
    ----------
    images
        Float from 0 to 1 or uint8 from 0 to 255, of shape (batch, 1 or 3, height, width).
    """
    if images.is_floating_point():
        images = (images * 255).round().clamp(0, 255).to(torch.uint8)  # the input that processors expect
    colour = images.expand(-1, 3, -1, -1)
    processor = checkpoint.processor.image_processor
    if getattr(processor, "resample", None) == Resampling.LANCZOS:  # not available on GPUs
        colour = colour.cpu()
    made = processor([[image] for image in colour], return_tensors="pt", **_unsplit(checkpoint, images))
    return {name: made[name] for name in _PIXELS if name in made}


def _unsplit(checkpoint: Checkpoint, images: Tensor) -> dict[str, bool]:
    """Keep a processor that splits images into tiles from blowing up one that fits a tile, to split it."""
    tile = getattr(checkpoint.processor.image_processor, "max_image_size", None)
    if not tile or not hasattr(checkpoint.processor.image_processor, "do_image_splitting"):
        return {}
    return {"do_image_splitting": max(images.shape[-2:]) > tile["longest_edge"]}


def _written(checkpoint: Checkpoint, prompt: str) -> str:
    """Return the prompt with the image before it, as the checkpoint was taught to read it."""
    processor = checkpoint.processor
    if not prompt.strip():
        raise SettingsError("vlm.prompt is empty: a model must be asked something")
    if getattr(processor, "chat_template", None):
        parts = [{"type": "image"}, {"type": "text", "text": prompt}]
        written: str = processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
        )
        return written
    return f"{processor.image_token}{prompt}"


def _processed(checkpoint: Checkpoint, text: str, image_shape: tuple[int, int, int]) -> Mapping[str, Tensor]:
    _, height, width = image_shape
    with torch.device("cpu"):
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        inputs: Mapping[str, Tensor] = checkpoint.processor(
            images=[image],
            text=[text],
            return_tensors="pt",
            add_special_tokens=not _begins(checkpoint, text),
            **_unsplit(checkpoint, image),
        )
    return inputs


def _begins(checkpoint: Checkpoint, text: str) -> bool:
    """Tell whether a chat template has written the first token already."""
    first = checkpoint.processor.tokenizer.bos_token
    return bool(first) and text.startswith(first)


def _spoken(checkpoint: Checkpoint, text: str, answer: str) -> list[int]:
    """Return an answer's tokens as they follow the prompt."""
    text += checkpoint.family.ending
    gap = "" if not text or text[-1].isspace() else " "
    before, after = (
        checkpoint.processor.tokenizer(written, add_special_tokens=False)["input_ids"]
        for written in (text, f"{text}{gap}{answer}")
    )
    if after[: len(before)] != before:
        raise SettingsError(f"vlm.answers: {answer!r} merges with the end of the prompt {text!r}")
    tokens: list[int] = after[len(before) :]
    return tokens


def _parted(answers: Sequence[str], spoken: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Return the tokens that all answers begin with, and the one by which each then differs."""
    place = 0
    while all(len(tokens) > place for tokens in spoken) and len({tokens[place] for tokens in spoken}) == 1:
        place += 1
    known: dict[int, str] = {}
    for answer, tokens in zip(answers, spoken, strict=True):
        if len(tokens) <= place:
            raise SettingsError(f"vlm.answers: {answer!r} is how another answer begins")
        if other := known.get(tokens[place]):
            raise SettingsError(
                f"vlm.answers: {other!r} and {answer!r} are not told apart by their token {place + 1}, where "
                "the answers part; choose answers that differ in one token"
            )
        known[tokens[place]] = answer
    return list(spoken[0][:place]), [tokens[place] for tokens in spoken]
