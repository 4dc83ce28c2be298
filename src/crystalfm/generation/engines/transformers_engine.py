"""Sampling with transformers: texts in slots that are filled again as they become free, forced tokens many at a time.

What makes it faster than ``generate``: tokens that the grammar leaves no choice about are computed together with the
drawn token before them; rows hold no padding; a finished text makes room for the next one; the prompts' common
beginning is computed once; the head is computed for the tokens that may be drawn, and only where one is drawn.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from crystalfm.contracts import UserError
from crystalfm.generation.engines.llama import PackedLlama
from crystalfm.generation.engines.slots import ATTENTION, SlotCache, make_layout, slot_attention
from crystalfm.generation.sampling import Request, Sample, SamplingSettings, draw, uniform_stream
from crystalfm.generation.wording import grammar_of
from crystalfm.generation.writing import FreeState, PieceState, WritingState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from crystalfm.generation.writer import CrystalWriter

_PLAIN_HEADS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Models whose logits are the last hidden states times the head's weight, and nothing else."""


@dataclass
class _Text:
    """A completion at work.

    Attributes:
        request: what was asked.
        state: how far it is written.
        prompt: tokens of the prompt.
        uniforms: random numbers by position.
        waiting: tokens that the network has not seen yet.
        seen: tokens that its slot holds.
        num_forced: tokens written without a choice.
        log_probability: sum over the drawn tokens.
    """

    request: Request
    state: WritingState
    prompt: list[int]
    uniforms: NDArray[np.float64]
    waiting: list[int] = field(default_factory=list)
    seen: int = 0
    num_forced: int = 0
    log_probability: float = 0.0

    def write_forced(self, limit: int) -> bool:
        """Write what there is no choice about; return whether the text is complete."""
        while (choices := self.state.choices) is not None and len(choices) == 1:
            self.state.advance(choices[0])
            self.waiting.append(choices[0])
            self.num_forced += 1
        return self.state.finished or self.state.num_tokens >= limit


class TransformersEngine:
    """Writes completions with a model of transformers, on the device where it is.

    The same seed draws the same tokens for a request whatever the batch size and whichever other requests there are:
    random numbers belong to the request and the token's position. What remains is rounding: matrix products of
    other sizes may add in another order. In fp32 such differences (1e-6 of a logit) change a token about once in a
    million, in bf16 (1e-2) far more often where a machine's kernels do so. The engine takes the weights as they are
    when it is made. CUDA was not tried.

    Args:
        writer: model, tokenizer and wording. The model must use transformers' attention interface.
        precision: ``as_is`` leaves the model in its precision; ``auto`` turns it to bf16 where the device computes in
            bf16 (in place); ``bf16`` and ``fp32`` turn it to these. Quantised models stay as they are.

    Raises:
        UserError: the model's attention cannot be replaced, or the tokenizer does not fit the grammar.
    """

    def __init__(self, writer: CrystalWriter, precision: Literal["as_is", "auto", "bf16", "fp32"] = "as_is") -> None:
        from transformers import AttentionInterface

        self.writer = writer
        model = writer.model.get_base_model() if hasattr(writer.model, "get_base_model") else writer.model
        if not getattr(model, "_supports_attention_backend", False):
            raise UserError(
                f"{type(model).__name__} has an attention of its own, which cannot be replaced",
                remedy="use a LLaMA-like model, or engine=vllm",
            )
        self.model: Any = _in_precision(model, precision).eval()
        self.grammar = grammar_of(writer.prompts, writer.tokenizer)
        AttentionInterface.register(ATTENTION, slot_attention)
        self._network = _Network(self.model, self.grammar.alphabet)

    def sample(self, requests: Iterable[Request], settings: SamplingSettings) -> Iterator[Sample]:
        """Yield a sample for each request, in the order in which they are completed.

        Long ones, as far as their formulas tell, are begun first.

        Raises:
            UserError: the tokens do not suffice for a completion, a prompt is too long for the model, or two requests
                have the same index.
        """
        texts = [self._text(request, settings) for request in requests]
        if len({text.request.index for text in texts}) < len(texts):
            raise UserError("two requests have the same index", remedy="number the requests")
        texts.sort(key=_expected_tokens, reverse=True)
        waiting: deque[_Text] = deque()
        for text in texts:
            if text.write_forced(settings.max_new_tokens):
                yield self._sample(text)
            else:
                waiting.append(text)
        if not waiting:
            return
        length = max(len(text.prompt) for text in waiting) + settings.max_new_tokens
        self._require_positions(length)
        slots = min(settings.batch_size, len(waiting))
        cache = SlotCache(self.model.config.num_hidden_layers, slots, length)
        yield from self._run(waiting, cache, settings)

    def _run(self, waiting: deque[_Text], cache: SlotCache, settings: SamplingSettings) -> Iterator[Sample]:
        """Write all texts."""
        active: list[_Text] = []
        # Prompts that slots hold, also those of completions that are finished.
        prompts: list[list[int]] = [[] for _ in range(cache.num_slots)]
        while active or waiting:
            # Alone, the first text computes the beginning that the others copy.
            room = cache.num_slots - len(active) if any(prompts) else 1
            for _ in range(min(room, len(waiting))):
                text = waiting.popleft()
                _place(text, len(active), prompts, cache)
                active.append(text)
            chosen, log_probabilities = self._step(active, cache, settings)
            prompts[: len(active)] = [text.prompt for text in active]
            done = []
            for slot, (text, token, value) in enumerate(zip(active, chosen, log_probabilities, strict=True)):
                text.waiting = [token]
                text.log_probability += value
                text.state.advance(token)
                if text.write_forced(settings.max_new_tokens):
                    done.append(slot)
            for slot in reversed(done):
                yield self._sample(active[slot])
                # The slots in use stay the first ones.
                moved = active.pop()
                if slot < len(active):
                    cache.copy(len(active), slot, moved.seen)
                    active[slot] = moved
                    prompts[slot] = moved.prompt

    @torch.inference_mode()
    def _step(
        self, active: Sequence[_Text], cache: SlotCache, settings: SamplingSettings
    ) -> tuple[list[int], list[float]]:
        """Feed all tokens that wait and draw the next one of each text; return the tokens and their logarithms."""
        device = self.model.device
        layout = make_layout([text.seen for text in active], [len(text.waiting) for text in active], device)
        cache.layout = layout
        ids = torch.tensor([token for text in active for token in text.waiting], device=device)
        for text in active:
            text.seen += len(text.waiting)
        found = self._network.run(ids, cache)
        free = [isinstance(text.state, FreeState) for text in active]
        uniforms = np.array([text.uniforms[text.state.num_tokens] for text in active])
        tokens = np.zeros(len(active), dtype=np.int64)
        logs = np.zeros(len(active))
        for wanted in {*free}:
            rows = [row for row, is_free in enumerate(free) if is_free == wanted]
            logits = self._network.logits(found[rows], all_tokens=wanted)
            # Apple's GPUs have no double precision.
            logits = logits.cpu() if logits.device.type == "mps" else logits
            masks = None
            if not wanted:
                stacked = np.stack([self.grammar.mask(active[row].state.choices or ()) for row in rows])
                masks = torch.from_numpy(stacked).to(logits.device)
            drawn, values = draw(logits, masks, torch.from_numpy(uniforms[rows]).to(logits.device), settings)
            columns = drawn.cpu().numpy()
            tokens[rows] = columns if wanted else self.grammar.alphabet[columns]
            logs[rows] = values.cpu().numpy()
        return tokens.tolist(), logs.tolist()

    def _text(self, request: Request, settings: SamplingSettings) -> _Text:
        state = self.grammar.start(request.task, request.constraint, settings.max_new_tokens)
        prompt = self.writer.prompt_ids(request.prompt)
        if not prompt:
            raise UserError(f"request {request.index} has an empty prompt", remedy="give it one")
        uniforms = uniform_stream(settings.seed, request.index, settings.max_new_tokens)
        return _Text(request, state, prompt, uniforms, waiting=list(prompt))

    def _sample(self, text: _Text) -> Sample:
        state = text.state
        if isinstance(state, PieceState):
            written = state.text
        else:
            tokens = state.tokens if isinstance(state, FreeState) else []
            written = self.writer.tokenizer.decode(
                tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        return Sample(
            text.request.index, written, state.num_tokens, text.num_forced, text.log_probability, state.finished
        )

    def _require_positions(self, length: int) -> None:
        config = self.model.config
        most = getattr(config, "max_position_embeddings", None)
        window = getattr(config, "sliding_window", None)
        limit = min(value for value in (most, window, length) if value is not None)
        if limit < length:
            raise UserError(
                f"prompt and completion may have {length} tokens, the model sees {limit}",
                remedy="a smaller max_new_tokens",
            )


class _Network:
    """The network up to what tokens are drawn from.

    Args:
        model: causal language model.
        alphabet: (A,) tokens that the grammar can write.
    """

    def __init__(self, model: Any, alphabet: NDArray[np.int64]) -> None:
        self.model = model
        self.alphabet = torch.from_numpy(alphabet).to(model.device)
        self._head: Any = model.get_output_embeddings()
        self.is_plain = type(self._head) is torch.nn.Linear and model.config.model_type in _PLAIN_HEADS
        self._packed: PackedLlama | None = None
        if self.is_plain:
            self._weight = self._head.weight.detach()[self.alphabet].float()
            self._bias = None if self._head.bias is None else self._head.bias.detach()[self.alphabet].float()
            base = getattr(model, model.base_model_prefix)
            self._packed = PackedLlama(base) if PackedLlama.fits(model) else None

    def run(self, ids: Tensor, cache: SlotCache) -> Tensor:
        """Return what ``logits`` takes: the last hidden states (S, width), or where the head is not plain the logits.

        Args:
            ids: (T,) new tokens.
            cache: keys and values, with the step's layout.
        """
        if self._packed is not None:
            return self._packed(ids, cache)
        layout = cache.require_layout()
        common = {
            "input_ids": ids[None], "position_ids": layout.positions[None], "past_key_values": cache,
            "use_cache": True, "slot_cache": cache,
        }  # fmt: skip
        with _attention(self.model):
            if not self.is_plain:
                logits: Tensor = self.model(**common, logits_to_keep=layout.last).logits[0]
                return logits
            network = getattr(self.model, self.model.base_model_prefix)
            hidden: Tensor = network(**common).last_hidden_state[0, layout.last]
            return hidden

    def logits(self, found: Tensor, *, all_tokens: bool) -> Tensor:
        """Return logits (S, V) of all tokens, or (S, A) of the alphabet."""
        if not self.is_plain:
            return found.float() if all_tokens else found[:, self.alphabet].float()
        if all_tokens:
            everything: Tensor = self._head(found)
            return everything.float()
        return torch.nn.functional.linear(found.float(), self._weight, self._bias)


def _place(text: _Text, slot: int, prompts: list[list[int]], cache: SlotCache) -> None:
    """Put a new text into a slot, with as much of its prompt as another slot holds already."""
    best, source = 0, slot
    for donor, prompt in enumerate(prompts):
        most = min(len(text.waiting) - 1, len(text.prompt), len(prompt))
        if most <= best:
            continue
        differing = (place for place in range(most) if prompt[place] != text.prompt[place])
        if (shared := next(differing, most)) > best:
            best, source = shared, donor
    if source != slot:
        cache.copy(source, slot, best)
    text.seen = best
    text.waiting = text.waiting[best:]
    # What is not computed yet is nothing to copy.
    prompts[slot] = text.prompt[:best]


def _expected_tokens(text: _Text) -> int:
    """Return a measure of a completion's length."""
    return text.request.constraint.expected_size


@contextmanager
def _attention(model: Any) -> Iterator[None]:
    """Let the model attend by slots for a while."""
    before = model.config._attn_implementation  # noqa: SLF001
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _in_precision(model: Any, precision: str) -> Any:
    """Return the model in a precision; packed weights stay as they are."""
    if precision == "as_is" or not all(parameter.is_floating_point() for parameter in model.parameters()):
        return model
    full = precision == "fp32" or (precision == "auto" and not computes_in_bf16(model.device))
    # The frequencies of the positions are buffers: rounded to bf16 they would be off by radians at the end of a text.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.float32 if full else torch.bfloat16)
    return model


def computes_in_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies matrices of bf16 faster than of fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("sve_bf16"))
