# SPDX-License-Identifier: Apache-2.0
"""Whole models: Baton's own runs and checkpoints, and Hugging Face folders, without transformers.

The model is the one of the C++ library (``torch.classes.baton.Model``, in libbaton.so beside the
operators); there is no second one in Python.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any, Iterator, Sequence, Union, overload

import torch
from torch import Tensor

from . import _library

__all__ = ["Model", "load"]

_NO_LABEL = -100

Prompt = Union[str, Sequence[int]]


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Errors of the library as ValueError, without the places in C++ that torch appends."""
    try:
        yield
    except (RuntimeError, IndexError) as error:
        # What a command line calls --set is an argument here.
        message = str(error).splitlines()[0].replace("--set: ", "settings: ", 1)
        raise ValueError(message) from None


def load(
    folder: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    settings: dict[str, Any] | None = None,
) -> Model:
    """Reads a model into memory.

    Args:
        folder: a run folder (its newest whole checkpoint), a checkpoint, or a Hugging Face folder
            of a family that docs/huggingface.md lists. Nothing is fetched.
        device: "cpu", "cuda" or "cuda:1".
        settings: keys of the model's section to change, as `--set` does:
            {"mamba.norm_groups": 1, "dtype": "bf16"}.

    Raises:
        ValueError, one line that names the file, key or tensor and the rule.
        ImportError where libbaton.so is missing.
    """
    path = _library.library_path().with_name("libbaton.so")
    if not path.is_file():
        raise ImportError(f"{path} not found: baton.load needs it beside the operators' library")
    torch.classes.load_library(str(path))
    assignments = [f"model.{key}={_text(value)}" for key, value in (settings or {}).items()]
    with _one_line():
        made = torch.classes.baton.Model(os.fspath(folder), str(torch.device(device)), assignments)
    return Model(made, os.fspath(folder), torch.device(device))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class Model:
    """A model in memory. `load` makes one.

    Attributes:
        config: its section of a recipe, as a dict of dicts.
        device: where it runs.
    """

    def __init__(self, made: Any, folder: str, device: torch.device) -> None:
        self._made = made
        self._folder = folder
        self.device = device
        self.config: dict[str, Any] = json.loads(made.config())

    def __repr__(self) -> str:
        pattern, width, dtype = (self.config[key] for key in ("pattern", "width", "dtype"))
        return f"Model({self._folder!r}, {pattern} x {width}, {dtype} on {self.device})"

    @property
    def vocabulary(self) -> int:
        """Token ids lie in [0, vocabulary)."""
        return self.config["vocabulary"]

    def parameters(self) -> dict[str, Tensor]:
        """The parameters themselves by name, in the order of the layers.

        What is written into them changes the model. They require gradients, as those of a
        `torch.nn.Module` do, so an optimizer can be made of them; `torch.no_grad()` saves the memory
        that `logits` and `loss` keep for that.
        """
        return dict(self._made.parameters())

    def _packed(self, tokens: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        """(tokens [T], starts [B + 1]) of tokens [T] or [batch, seqlen]."""
        if tokens.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"tokens must be int32 or int64, got {tokens.dtype}")
        if tokens.dim() not in (1, 2) or (starts is not None and tokens.dim() != 1):
            raise ValueError(
                "tokens must have dims [tokens], or [batch, seqlen] without starts, got shape"
                f" {list(tokens.shape)}"
            )
        if starts is None:
            batch, seqlen = tokens.shape if tokens.dim() == 2 else (1, tokens.shape[0])
            starts = torch.arange(batch + 1, dtype=torch.int32) * seqlen
        return tokens.reshape(-1).long(), starts.int()

    def logits(self, tokens: Tensor, starts: Tensor | None = None) -> Tensor:
        """Logits of the next token behind every token.

        Args:
            tokens: int32 or int64, [batch, seqlen], or packed [tokens].
            starts: [sequences + 1], where packed sequences begin, from 0 to tokens; one sequence
                if absent.

        Returns:
            [batch, seqlen, vocabulary] or [tokens, vocabulary] in the model's dtype.

        Raises:
            ValueError for ids outside the vocabulary, and for shapes and dtypes.
        """
        packed, starts = self._packed(tokens, starts)
        with _one_line():
            out = self._made.logits(packed, starts)
        return out.view(*tokens.shape, self.vocabulary)

    def loss(
        self, tokens: Tensor, labels: Tensor | None = None, starts: Tensor | None = None
    ) -> Tensor:
        """Mean negative log-likelihood in nats, a scalar in fp32; the logits are never held.

        Args:
            tokens, starts: as of `logits`.
            labels: like tokens, what should follow each of them, -100 where nothing counts. If
                absent, the next token of the sequence.

        Returns:
            The mean over the labels that count; nan where there are none.

        Raises:
            ValueError, as `logits`, and for labels of another shape.
        """
        packed, starts = self._packed(tokens, starts)
        if labels is None:
            wanted = torch.cat([packed[1:], packed.new_full((1,), _NO_LABEL)])[: len(packed)]
            # Nothing follows the last token of a sequence that is not empty.
            ends = starts[1:][starts[1:] > starts[:-1]].long().to(packed.device)
            wanted[ends - 1] = _NO_LABEL
        elif labels.shape != tokens.shape:
            raise ValueError(
                f"labels must have the shape of tokens = {list(tokens.shape)}, got"
                f" {list(labels.shape)}"
            )
        else:
            wanted = labels.reshape(-1).long()
        with _one_line():
            total, _ = self._made.loss(packed, wanted, starts)
        return total / (wanted >= 0).sum().to(total.device)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, behind the token that begins a text where there is one.

        Raises:
            ValueError where the folder holds no tokenizer.
        """
        with _one_line():
            return list(self._made.encode(text))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids. Raises ValueError where the folder holds no tokenizer."""
        with _one_line():
            return self._made.decode(list(tokens))

    @overload
    def generate(self, prompts: str, **options: Any) -> str: ...

    @overload
    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[Any]: ...

    def generate(
        self,
        prompts: str | Sequence[int] | Sequence[Prompt],
        *,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        end_tokens: Sequence[int] | None = None,
    ) -> str | list[int] | list[Any]:
        """Continues prompts, several in one batch; none depends on the others.

        Args:
            prompts: a text, a list of token ids, or a list of these.
            max_new_tokens: at most so many for each.
            temperature: 0 takes the likeliest token.
            top_k, top_p, min_p, repetition_penalty: 0, 1, 0 and 1 change nothing.
            seed: with the number of the prompt and the position it decides every draw.
            end_tokens: ids that end a sequence and are not returned; if None, the tokenizer's where
                there is one.

        Returns:
            What was added to each prompt, in the form of the prompt: text or token ids.

        Raises:
            ValueError for an empty prompt, ids outside the vocabulary, options out of range, and
            for texts where the folder holds no tokenizer.
        """
        single = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
        every: Sequence[Prompt] = [prompts] if single else prompts
        tokens = [self.encode(p) if isinstance(p, str) else [int(t) for t in p] for p in every]
        if end_tokens is None:
            end_tokens = self._made.end_tokens() if self._made.has_tokenizer() else []
        sampling = dict(
            temperature=float(temperature), top_k=float(top_k), top_p=float(top_p),
            min_p=float(min_p), repetition_penalty=float(repetition_penalty),
        )  # fmt: skip
        with _one_line():
            added = self._made.generate(
                tokens, max_new_tokens, list(end_tokens), sampling, seed
            )
        found = [
            self.decode(new) if isinstance(prompt, str) else list(new)
            for prompt, new in zip(every, added)
        ]
        return found[0] if single else found
