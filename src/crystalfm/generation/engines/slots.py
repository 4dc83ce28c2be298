"""Attention over rows of tokens that belong to different texts, with keys and values kept in preallocated slots.

A step's new tokens of all texts lie one after the other in one row, without padding, so that the linear layers, which
are nearly all of the work, compute nothing in vain. Only attention looks at texts one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

ATTENTION = "crystalfm_slots"
"""Name of the attention function among those of transformers."""

_LONGEST_SHORT = 8
"""Texts with at most so many new tokens attend together, padded to the longest of them; longer ones, which are new
prompts, one by one."""


class SlotCache:
    """Keys and values of every layer, a slot for each text.

    Args:
        num_layers: layers of the network.
        num_slots: texts that are written at the same time.
        length: tokens of a text at most.

    Attributes:
        layout: where the tokens of the step at hand belong.
    """

    def __init__(self, num_layers: int, num_slots: int, length: int) -> None:
        self.num_layers = num_layers
        self.num_slots = num_slots
        self.length = length
        self.layout: Layout | None = None
        self._store: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Put new keys and values (1, heads, tokens, width) of a layer where they belong; return them as they are.

        Called by the layers of transformers; the attention function reads what is stored.
        """
        self.store(layer_idx, keys[0].transpose(0, 1), values[0].transpose(0, 1))
        return keys, values

    def store(self, index: int, keys: Tensor, values: Tensor) -> None:
        """Put new keys and values (tokens, heads, width) of a layer where they belong."""
        if self._store is None:
            shape = (self.num_layers, 2, self.num_slots, keys.shape[1], self.length, keys.shape[2])
            self._store = torch.zeros(shape, dtype=keys.dtype, device=keys.device)
        layout = self.require_layout()
        self._store[index, 0][layout.slots, :, layout.positions] = keys
        self._store[index, 1][layout.slots, :, layout.positions] = values

    def require_layout(self) -> Layout:
        """Return the layout of the step at hand.

        Raises:
            RuntimeError: it is not set.
        """
        if self.layout is None:
            raise RuntimeError("the step's layout is not set")
        return self.layout

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Return the tokens of all texts, of which transformers makes nothing: positions are given."""
        return 0

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values (slots, heads, length, width)."""
        if self._store is None:
            raise RuntimeError("nothing is stored yet")
        return self._store[index, 0], self._store[index, 1]

    @torch.inference_mode()
    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the first tokens of a slot to another."""
        if self._store is not None and count:
            self._store[:, :, target, :, :count] = self._store[:, :, source, :, :count]


@dataclass
class Layout:
    """Where a step's tokens belong.

    Attributes:
        slots: (T,) int64, slot of each new token.
        positions: (T,) int64, its position in its text.
        last: (S,) int64, the row of each slot's last new token.
        num_slots: slots in use, which are the first ones.
        extent: positions that are in use after the step.
        rows: (S, Q) int64, rows of the new tokens of the texts with few of them, padded with row 0; Q may be 0.
        held: (H,) int64, entries of the flattened ``rows`` that are no padding.
        held_rows: (H,) int64, what they hold.
        visible: (S, Q, extent) bool, what they attend to.
        long: first row, row after the last, slot, and tokens seen before, of the texts with many new tokens.
    """

    slots: Tensor
    positions: Tensor
    last: Tensor
    num_slots: int
    extent: int
    rows: Tensor
    held: Tensor
    held_rows: Tensor
    visible: Tensor
    long: tuple[tuple[int, int, int, int], ...]
    _hidden: Tensor | None = None

    def hidden(self, groups: int) -> Tensor:
        """Return (S, 1, groups * Q, extent) float32: minus infinity where a token attends not, else 0."""
        if self._hidden is None:
            mask = torch.zeros(self.visible.shape, device=self.visible.device)
            self._hidden = mask.masked_fill_(~self.visible, -inf).repeat(1, groups, 1)[:, None]
        return self._hidden


def make_layout(starts: Sequence[int], counts: Sequence[int], device: torch.device) -> Layout:
    """Return the layout of a step.

    Args:
        starts: tokens that each slot holds already.
        counts: new tokens of each slot, 1 or more.
        device: where the network is.
    """
    start, number = np.array(starts), np.array(counts)
    ends = number.cumsum()
    firsts = ends - number
    slots = np.arange(len(number)).repeat(number)
    positions = np.arange(ends[-1]) - firsts[slots] + start[slots]
    extent = int((start + number).max())
    short = number <= _LONGEST_SHORT
    offsets = np.arange(number[short].max(initial=0))
    held = (offsets < number[:, None]) & short[:, None]
    rows = np.where(held, firsts[:, None] + offsets, 0)
    reach = np.where(held, start[:, None] + offsets, 0)
    flat = held.ravel().nonzero()[0]
    many = (~short).nonzero()[0]

    def placed(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device)

    return Layout(
        slots=placed(slots),
        positions=placed(positions),
        last=placed(ends - 1),
        num_slots=len(number),
        extent=extent,
        rows=placed(rows),
        held=placed(flat),
        held_rows=placed(rows.ravel()[flat]),
        visible=placed(np.arange(extent) <= reach[:, :, None]),
        long=tuple((int(firsts[slot]), int(ends[slot]), int(slot), int(start[slot])) for slot in many),
    )


def slot_attention(
    module: Any,
    query: Tensor,
    *_: Any,
    slot_cache: SlotCache,
    scaling: float | None = None,
    **__: Any,
) -> tuple[Tensor, None]:
    """Attend from the new tokens of each text to that text; an attention function of transformers.

    Args:
        module: the attention layer.
        query: (1, heads, tokens, width).
        slot_cache: the cache with the step's layout, which holds the new keys and values already and says what is
            visible: those that transformers passes, and its mask, are not used.
        scaling: factor of the scores.

    Returns:
        (1, tokens, heads, width) and no weights.
    """
    keys, values = slot_cache.layer(module.layer_idx)
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    return attend(query[0].transpose(0, 1), keys, values, slot_cache.require_layout(), scale)[None], None


def attend(queries: Tensor, keys: Tensor, values: Tensor, layout: Layout, scale: float) -> Tensor:
    """Attend from the new tokens of each text to that text.

    Args:
        queries: (T, heads, width) of the new tokens.
        keys: (slots, key heads, length, width), the new ones included.
        values: likewise.
        layout: where the tokens belong.
        scale: factor of the scores.

    Returns:
        (T, heads, width).
    """
    num_tokens, num_heads, width = queries.shape
    num_key_heads, value_width = values.shape[1], values.shape[3]
    groups = num_heads // num_key_heads
    result = torch.empty(num_tokens, num_heads, value_width, dtype=queries.dtype, device=queries.device)
    used, extent = layout.num_slots, layout.extent
    if layout.rows.shape[1]:
        # Heads that share keys stand beside each other as further queries: one product for them all.
        padded = queries[layout.rows].view(used, -1, num_key_heads, groups, width).permute(0, 2, 3, 1, 4)
        mixed = _mixed(
            padded.reshape(used, num_key_heads, -1, width),
            keys[:used, :, :extent],
            values[:used, :, :extent],
            layout.hidden(groups),
            scale,
        )
        mixed = mixed.view(used, num_key_heads, groups, -1, value_width).permute(0, 3, 1, 2, 4)
        result[layout.held_rows] = mixed.reshape(-1, num_heads, value_width)[layout.held]
    for first, end, slot, before in layout.long:
        rows = end - first
        visible = torch.ones(rows, before + rows, dtype=torch.bool, device=queries.device).tril(before)
        mixed = scaled_dot_product_attention(
            queries[first:end].transpose(0, 1)[None],
            keys[slot : slot + 1, :, : before + rows].repeat_interleave(groups, dim=1),
            values[slot : slot + 1, :, : before + rows].repeat_interleave(groups, dim=1),
            attn_mask=visible,
            scale=scale,
        )
        result[first:end] = mixed[0].transpose(0, 1)
    return result


def _mixed(queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor, scale: float) -> Tensor:
    """Return softmax(queries keys^T scale + hidden) values.

    With a few queries a text, CPU kernels of attention spend their time packing keys. Two products are faster in
    which what is large, keys and values, is read as it lies.
    """
    if queries.device.type != "cpu":
        return scaled_dot_product_attention(queries, keys, values, attn_mask=hidden.to(queries.dtype), scale=scale)
    scores = torch.matmul(keys, (queries * scale).transpose(2, 3).contiguous()).transpose(2, 3).float()
    return torch.matmul(scores.add_(hidden).softmax(dim=-1).to(values.dtype), values)
