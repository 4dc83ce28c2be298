"""What is asked of a sampler, what it answers, and how one token is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from crystalfm.contracts import UserError
from crystalfm.generation.constraints import Constraint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from crystalfm.generation.constraints import Task
    from crystalfm.generation.defects.constraints import AnyConstraint

_LARGEST_SEED = 2**64 - 1


@dataclass(frozen=True)
class SamplingSettings:
    """How tokens are drawn.

    Args:
        temperature: divides the logits; 0 takes the likeliest token each time.
        top_p: draw from the likeliest tokens that together have this probability, above 0 to 1.
        top_k: draw from that many likeliest tokens; None for all.
        max_new_tokens: most tokens of a completion, the end-of-sequence token included. Where a constraint holds, the
            crystal is closed in time.
        seed: with a request's index it decides that request's random numbers.
        batch_size: completions written at the same time; it has no bearing on what is written.

    Raises:
        UserError: a setting is out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    max_new_tokens: int = 512
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < inf:
            raise UserError(f"temperature={self.temperature} is out of range", remedy="temperature=0 or more")
        if not 0.0 < self.top_p <= 1.0:
            raise UserError(f"top_p={self.top_p} is out of range", remedy="top_p above 0, at most 1")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k} leaves no token", remedy="top_k=1 or more, or null for all")
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens={self.max_new_tokens} leaves no token", remedy="max_new_tokens=1 or more")
        if self.batch_size < 1:
            raise UserError(f"batch_size={self.batch_size} leaves no crystal", remedy="batch_size=1 or more")
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise UserError(f"seed={self.seed} is out of range", remedy=f"seed=0 to {_LARGEST_SEED}")


@dataclass(frozen=True)
class Request:
    """One completion that is asked for.

    Attributes:
        index: its number, not negative; no two requests of a call have the same one.
        prompt: what the model is asked.
        task: whether a crystal, an element's symbol or the defects of a supercell are the answer.
        constraint: what the answer has to fulfil.
    """

    index: int
    prompt: str
    task: Task = "generate"
    constraint: AnyConstraint = field(default_factory=Constraint)


@dataclass(frozen=True)
class Sample:
    """One completion.

    Attributes:
        index: number of the request.
        text: the completion without the end-of-sequence token.
        num_tokens: its tokens, the end-of-sequence token included.
        num_forced: how many of them were the only ones allowed and were written without drawing.
        log_probability: sum over the drawn tokens of the logarithms of the model's own probabilities (temperature 1, no
            truncation), renormalised over the tokens that were allowed there. With p the model's law and Z_t the share
            of probability that it gives to the allowed tokens at step t, constrained texts have the law
            p(text) / prod_t Z_t. Drawing freely and throwing away what breaks the grammar gives p(text) / Z, one Z for
            all texts. The two agree where the model hardly ever leaves the grammar; else the constrained law gives more
            weight to texts from whose beginnings the model would often have left it.
        finished: whether the end-of-sequence token was written; else the text was cut off.
    """

    index: int
    text: str
    num_tokens: int
    num_forced: int
    log_probability: float
    finished: bool


class Engine(Protocol):
    """Something that writes completions."""

    def sample(self, requests: Iterable[Request], settings: SamplingSettings) -> Iterator[Sample]:
        """Yield a sample for each request, in the order in which they are completed."""


def uniform_stream(seed: int, index: int, count: int) -> NDArray[np.float64]:
    """Return random numbers (count,) in [0, 1) that belong to one request: the n-th is for its n-th token.

    A longer stream begins with the shorter one.
    """
    key = np.array([seed, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def draw(logits: Tensor, allowed: Tensor | None, uniforms: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution, so that a row depends on nothing but itself.

    Args:
        logits: (B, V) logits.
        allowed: (B, V) bool, which may be drawn; None for all. Each row allows one at least.
        uniforms: (B,) float64, random numbers in [0, 1).
        settings: temperature, ``top_k`` and ``top_p``, applied in this order to the allowed tokens.

    Returns:
        the columns drawn (B,) int64, and the logarithms (B,) float64 of their probabilities at temperature 1 among
        all allowed ones.

    Raises:
        UserError: the logits are not numbers.
    """
    scores = logits.double()
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -inf)
    log_probabilities = scores.log_softmax(dim=-1)
    if bool(log_probabilities.isnan().any()):
        raise UserError("the model's logits are not numbers", remedy="sample in fp32, or use another checkpoint")
    if settings.temperature == 0.0:
        chosen = log_probabilities.argmax(dim=-1)
    else:
        weights = _kept(log_probabilities / settings.temperature, settings)
        cumulative = weights.cumsum(dim=-1)
        targets = uniforms.to(cumulative)[:, None] * cumulative[:, -1:]
        # The first column whose cumulative weight is above the target has itself a positive weight.
        chosen = torch.searchsorted(cumulative, targets, right=True)[:, 0]
        columns = torch.arange(weights.shape[-1], device=weights.device)
        chosen = torch.minimum(chosen, columns.where(weights > 0, -1).amax(dim=-1))
    return chosen, log_probabilities.gather(1, chosen[:, None])[:, 0]


def _kept(scores: Tensor, settings: SamplingSettings) -> Tensor:
    """Return weights (B, V), zero for what ``top_k`` and ``top_p`` leave out; rows need not add up to one."""
    if settings.top_k is not None and settings.top_k < scores.shape[-1]:
        least = scores.topk(settings.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -inf)
    weights = scores.softmax(dim=-1)
    if settings.top_p < 1.0:
        ordered, order = weights.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(dim=-1) - ordered
        weights = torch.zeros_like(weights).scatter(1, order, ordered.masked_fill(before >= settings.top_p, 0.0))
    return weights
