"""A vision-language model as a network with exits: images in, the logits of a question's answers out."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.elastic.network import ExitNetwork, Shape
from models.vlm.base import Checkpoint, decoder_of, projector_of
from models.vlm.question import Question, ask, image_inputs


class VisionLanguageNetwork(ExitNetwork):
    """Answers a question about an image, with exits after several layers of its decoder.

    An exit is its own norm followed by the shared output layer; it compares the logits of the tokens in which
    the answers differ. The base is frozen except for its projector.

    Parameters
    ----------
    base
        A model of transformers, its decoder cut after the last exit, adapters in place.
    checkpoint
        The checkpoint that it was built from.
    question
        The question, tokenised.
    image_shape
        Channels, height and width of an image.
    shape
        Its exits.
    """

    answers_at_once = 16

    def __init__(
        self,
        base: nn.Module,
        checkpoint: Checkpoint,
        question: Question,
        image_shape: tuple[int, int, int],
        shape: Shape,
    ) -> None:
        super().__init__()
        self.base: Any = base
        self._checkpoint = checkpoint
        self._question = question
        self._image_shape = image_shape
        self._exits = shape.exits
        decoder = decoder_of(base, checkpoint.family)
        self.norms = nn.ModuleDict({str(block): _learning(decoder.norm) for block in shape.exits})
        decoder.norm = nn.Identity()  # each exit has its own
        projector = projector_of(base, checkpoint.family)
        projector.float().requires_grad_(True)
        for module in [*projector.modules(), *self.norms.modules()]:
            own = module.named_parameters(recurse=False)
            module.axes = {name: (None,) * parameter.dim() for name, parameter in own}  # type: ignore[assignment]
        self._own_loss: Tensor | None = None

    def exits(self, inputs: Tensor) -> list[Tensor]:
        """Map images to each exit's logits.

        Parameters
        ----------
        inputs
            Float from 0 to 1, of shape (batch, channels, height, width).

        Returns
        -------
        list[Tensor]
            Float32 logits of shape (batch, classes), the shallowest exit first.
        """
        question = self._question
        with self._arithmetic(inputs.device):
            hidden = self._hidden(inputs)
            ends = [norm(h[:, -(question.told + 1) :]) for norm, h in zip(self._norms(), hidden, strict=True)]
        logits = [self._tokens(end[:, -1], question.answers) for end in ends]
        if self.training and torch.is_grad_enabled():
            losses = [self._untold(end, z) for end, z in zip(ends, logits, strict=True)]
            self._own_loss = torch.stack(losses).mean()
        return logits

    def own_loss(self) -> Tensor | None:
        """Return an extra loss term for the last training batch, once: for giving any of the answers.

        It is −log P(the tokens before the answers part) − log P(one of the answers), the mean over the batch
        and the exits. Together with the cross-entropy over the answers it is −log P(the right answer) over
        the whole vocabulary, so that the model learns to generate the answers that it is scored on.
        """
        loss, self._own_loss = self._own_loss, None
        return loss

    @torch.no_grad()
    def describe(self, images: Tensor, prompt: str, most: int = 64) -> list[str]:
        """Generate free-text answers to a prompt about images, with the last exit.

        Parameters
        ----------
        images
            Float from 0 to 1, of shape (batch, channels, height, width).
        prompt
            The question.
        most
            Largest number of tokens of an answer.

        Raises
        ------
        SettingsError
            If the prompt cannot be written.
        """
        question = ask(self._checkpoint, prompt, (), self._image_shape)
        tokens = question.tokens.to(images.device).expand(len(images), -1)
        was_training = self.training
        self.eval()
        with self._arithmetic(images.device), self._last_norm_in_place():
            said = self.base.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                **self._read(images, question),
                max_new_tokens=most,
                do_sample=False,
            )
        self.train(was_training)
        texts: list[str] = self._checkpoint.processor.tokenizer.batch_decode(
            said[:, tokens.shape[1] :], skip_special_tokens=True
        )
        return [text.strip() for text in texts]

    # --- parts ---------------------------------------------------------------------------------

    def _norms(self) -> list[nn.Module]:
        return [self.norms[str(block)] for block in self._exits]

    def _arithmetic(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the autocast context for a base that is not float32, while adapters are."""
        dtype = self.base.get_output_embeddings().weight.dtype
        return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)

    def _hidden(self, images: Tensor) -> list[Tensor]:
        """Return the outputs of the layers with an exit, each of shape (batch, tokens, hidden)."""
        layers = decoder_of(self.base, self._checkpoint.family).layers
        caught: dict[int, Tensor] = {}

        def catch(block: int, layer: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401
            caught[block] = output[0] if isinstance(output, tuple) else output

        with ExitStack() as hooks:
            for block in self._exits:
                handle = layers[block - 1].register_forward_hook(partial(catch, block))
                hooks.callback(handle.remove)
            self._run_on_meta(len(images)) if images.is_meta else self._run(images)
        return [caught[block] for block in self._exits]

    def _run(self, images: Tensor) -> None:
        tokens = self._question.tokens.to(images.device).expand(len(images), -1)
        self.base.model(input_ids=tokens, use_cache=False, **self._read(images, self._question))

    def _run_on_meta(self, count: int) -> None:
        """Run the parts separately: without values, the image tokens' positions are unknown."""
        family = self._checkpoint.family
        pixels = {name: _on_meta(tensor) for name, tensor in self._question.sample.items()}
        family.encode(self.base.model, pixels)
        decoder = decoder_of(self.base, family)
        tokens, hidden = len(self._question.tokens), decoder.config.hidden_size
        decoder(
            inputs_embeds=torch.empty(count, tokens, hidden, device="meta"),
            attention_mask=torch.empty(count, 1, tokens, tokens, dtype=torch.bool, device="meta"),
            use_cache=False,
        )

    def _read(self, images: Tensor, question: Question) -> Mapping[str, Tensor]:
        """Return the model's inputs beside the tokens."""
        pixels = image_inputs(self._checkpoint, images)
        types = {name: row.to(images.device).expand(len(images), -1) for name, row in question.types.items()}
        return {name: tensor.to(images.device) for name, tensor in pixels.items()} | types

    def _tokens(self, normed: Tensor, tokens: Tensor | slice) -> Tensor:
        """Return the logits of some of the vocabulary's tokens, float32 of shape (..., tokens).

        Those of few tokens are computed in float32: bfloat16 has so few digits that answers would tie.
        """
        head = self.base.get_output_embeddings()
        rows: Tensor = head.weight[tokens]
        bias: Tensor | None = None if head.bias is None else head.bias[tokens]
        if isinstance(tokens, Tensor):
            rows, bias = rows.float(), None if bias is None else bias.float()
        as_held = nullcontext() if normed.is_meta else torch.autocast(normed.device.type, enabled=False)
        with as_held:
            logits = F.linear(normed.to(rows.dtype), rows, bias)
        cap = getattr(self.base.config.get_text_config(), "final_logit_softcapping", None)
        return logits.float() if cap is None else cap * torch.tanh(logits.float() / cap)  # Gemma 2's

    def _untold(self, end: Tensor, answers: Tensor) -> Tensor:
        """Return one exit's part of `own_loss`.

        Parameters
        ----------
        end
            Normed, of shape (batch, told + 1, hidden).
        answers
            Logits of the answers, of shape (batch, classes).
        """
        vocabulary = self._tokens(end, slice(None))
        norms = vocabulary.logsumexp(dim=2)
        loss = norms[:, -1] - answers.logsumexp(dim=1)
        told = self._question.told
        if told:
            tokens = self._question.tokens[-told:].to(end.device)
            right = vocabulary[:, :-1].gather(2, tokens.expand(len(end), -1)[..., None])[..., 0]
            loss = loss + (norms[:, :-1] - right).sum(dim=1)
        return loss.mean()

    @contextmanager
    def _last_norm_in_place(self) -> Iterator[None]:
        decoder = decoder_of(self.base, self._checkpoint.family)
        decoder.norm = self._norms()[-1]
        try:
            yield
        finally:
            decoder.norm = nn.Identity()


def _learning(norm: nn.Module) -> nn.Module:
    """Return a norm of the same kind and values that learns, in float32."""
    import copy

    return copy.deepcopy(norm).float().requires_grad_(True)


def _on_meta(tensor: Tensor) -> Tensor:
    """Move pixels to the meta device; the small tables that say how they lie keep their values."""
    return tensor.to("meta") if tensor.is_floating_point() else tensor
