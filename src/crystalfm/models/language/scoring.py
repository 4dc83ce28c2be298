"""How likely a language model holds texts to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from crystalfm.generation.writer import completion_ids, prompt_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

_CHUNK_TOKENS = 1024
_TOKENS_STEP = 256
"""The head is computed for multiples of this: oneDNN keeps memory of the size of its weights for every other shape."""

_LARGE_VOCABULARY = 8192
"""From here on scores of all tokens over the whole vocabulary would take more memory than the network."""


def token_losses(model: Any, states: Tensor, wanted: Tensor) -> Tensor:
    """Return the negative log-likelihood of tokens from the last hidden states before them, a chunk at a time.

    Args:
        model: causal language model.
        states: (K, D) last hidden states.
        wanted: (K,) token ids that come next.

    Returns:
        (K,) float32, in nats.
    """
    head = model.get_output_embeddings()
    count = len(states)
    extra = -count % _TOKENS_STEP
    states, wanted = functional.pad(states, (0, 0, 0, extra)), functional.pad(wanted, (0, extra))
    chunks = zip(torch.split(states, _CHUNK_TOKENS), torch.split(wanted, _CHUNK_TOKENS), strict=True)

    def losses(part: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(head(part).float(), targets, reduction="none")

    if head.weight.shape[0] < _LARGE_VOCABULARY or not torch.is_grad_enabled():
        parts = [losses(part, targets) for part, targets in chunks]
    else:  # scores are computed again in the backward pass
        parts = [checkpoint(losses, part, targets, use_reentrant=False) for part, targets in chunks]
    return torch.cat(parts)[:count]


def mean_nll(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], batch_size: int = 32) -> NDArray[np.float64]:
    """Return the mean negative log-likelihood of each completion's tokens, given its prompt.

    The end-of-sequence token counts as one of them; the prompt's tokens do not. ``exp`` of it is the perplexity.

    Args:
        model: causal language model; its mode is left as it is found.
        tokenizer: its tokenizer.
        pairs: (prompt, completion) of each of N texts.
        batch_size: texts that are read at a time; of no consequence for the result but rounding.

    Returns:
        (N,) in nats a token.
    """
    rows = [(prompt_ids(tokenizer, prompt), completion_ids(tokenizer, text)) for prompt, text in pairs]
    order = sorted(range(len(rows)), key=lambda row: len(rows[row][0]) + len(rows[row][1]))
    result = np.zeros(len(rows))
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                result[chosen] = _batch_nll(model, tokenizer.pad_token_id or 0, [rows[row] for row in chosen])
    finally:
        model.train(training)
    return result


def _batch_nll(model: Any, pad_id: int, rows: Sequence[tuple[list[int], list[int]]]) -> NDArray[np.float64]:
    device = next(model.parameters()).device
    size = max(len(prompt) + len(completion) for prompt, completion in rows)
    ids = torch.full((len(rows), size), pad_id)
    attended = torch.zeros(len(rows), size, dtype=torch.long)
    scored = torch.zeros(len(rows), size, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor(prompt + completion)
        attended[row, :end] = 1
        scored[row, max(len(prompt), 1) : end] = True  # nothing stands before the first token of all
    hidden = model.get_decoder()(
        input_ids=ids.to(device), attention_mask=attended.to(device), use_cache=False
    ).last_hidden_state
    mask = scored[:, 1:].to(device)
    losses = token_losses(model, hidden[:, :-1][mask], ids[:, 1:].to(device)[mask])
    sums = losses.new_zeros(len(rows), dtype=torch.float64).index_add_(0, mask.nonzero()[:, 0], losses.double())
    means: NDArray[np.float64] = (sums / mask.sum(dim=1).clamp(min=1)).cpu().numpy()
    return means
