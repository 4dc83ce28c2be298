"""A tokenizer in a checkpoint, and the padding token that a batch needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

PAD_TEXT = "<|pad|>"
"""Padding token of a tokenizer that has none."""

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def tokenizer_state(tokenizer: Any) -> dict[str, Any]:
    """Return a fast tokenizer as plain containers: ``json`` is its ``tokenizer.json``."""
    special = {name: getattr(tokenizer, name) for name in _SPECIAL if getattr(tokenizer, name, None) is not None}
    return {
        "json": tokenizer.backend_tokenizer.to_str(),
        "special": {name: str(token) for name, token in special.items()},
        "padding_side": tokenizer.padding_side,
    }


def restore_tokenizer(state: Mapping[str, Any]) -> Any:
    """Rebuild a fast tokenizer from what `tokenizer_state` returned, without any file."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    build: Any = PreTrainedTokenizerFast
    return build(
        tokenizer_object=Tokenizer.from_str(state["json"]),
        padding_side=state["padding_side"],
        clean_up_tokenization_spaces=False,  # a crystal's text is read back to the letter
        **state["special"],
    )


def add_padding(model: Any, tokenizer: Any) -> None:
    """Give a tokenizer without a padding token one, in place, and its model a row for it: the mean of the others.

    A table of embeddings with rows to spare keeps its size; so does the vocabulary where there is a padding token.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": PAD_TEXT})
    num_rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > num_rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            for table in (model.get_input_embeddings(), model.get_output_embeddings()):
                rows = table.weight
                rows[num_rows:] = rows[:num_rows].float().mean(dim=0).to(rows.dtype)
    model.config.pad_token_id = tokenizer.pad_token_id
