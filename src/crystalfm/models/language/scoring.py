"""How likely a language model holds texts to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from crystalfm.generation.writer import completion_ids, prompt_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor


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
    # The head is the dearest layer of a small model: it is computed from the first scored token on.
    keep = size - int(scored.any(dim=0).nonzero()[0]) + 1 if scored.any() else 1
    output = model(input_ids=ids.to(device), attention_mask=attended.to(device), logits_to_keep=keep, use_cache=False)
    logits: Tensor = output.logits[:, :-1].float()
    labels, mask = ids[:, size - keep + 1 :].to(device), scored[:, size - keep + 1 :].to(device)
    losses = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    sums = (losses * mask).sum(dim=1, dtype=torch.float64)
    means: NDArray[np.float64] = (sums / mask.sum(dim=1).clamp(min=1)).cpu().numpy()
    return means
