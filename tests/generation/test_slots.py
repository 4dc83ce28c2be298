"""Attention by slots against attention over one whole text."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from crystalfm.generation.engines.slots import SlotCache, attend, make_layout

HEADS, KEY_HEADS, WIDTH = 6, 2, 8


def drawn(*shape):
    return torch.randn(*shape, generator=GENERATOR)


GENERATOR = torch.Generator().manual_seed(0)
DEVICE = torch.device("cpu")


def test_every_token_attends_to_its_own_text_up_to_itself():
    lengths = [12, 1, 30, 5]
    steps = [[(0, 10), (0, 1), (0, 20), (0, 2)], [(10, 2), None, (20, 9), (2, 1)], [None, None, (29, 1), (3, 2)]]
    queries = [drawn(length, HEADS, WIDTH) for length in lengths]
    keys = [drawn(length, KEY_HEADS, WIDTH) for length in lengths]
    values = [drawn(length, KEY_HEADS, WIDTH) for length in lengths]
    cache = SlotCache(1, 4, 32)
    found = [[] for _ in lengths]
    for step in steps:
        parts = [(slot, *part) for slot, part in enumerate(step) if part is not None]
        if len(parts) < 4:
            # Slots in use are the first ones: the others repeat their last token.
            parts = [
                next((part for part in parts if part[0] == slot), (slot, lengths[slot] - 1, 1)) for slot in range(4)
            ]
        cache.layout = make_layout([start for _, start, _ in parts], [count for *_, count in parts], DEVICE)
        packed = [
            torch.cat([tensor[slot][start : start + count] for slot, start, count in parts])
            for tensor in (queries, keys, values)
        ]
        cache.store(0, packed[1], packed[2])
        mixed = attend(packed[0], *cache.layer(0), cache.layout, 0.3)
        for (slot, start, count), rows in zip(parts, mixed.split([count for *_, count in parts]), strict=True):
            if step[slot] == (start, count):
                found[slot].append(rows)
    for slot, length in enumerate(lengths):
        expected = scaled_dot_product_attention(
            queries[slot].transpose(0, 1)[None],
            keys[slot].repeat_interleave(HEADS // KEY_HEADS, dim=1).transpose(0, 1)[None],
            values[slot].repeat_interleave(HEADS // KEY_HEADS, dim=1).transpose(0, 1)[None],
            is_causal=True,
            scale=0.3,
        )[0].transpose(0, 1)
        torch.testing.assert_close(torch.cat(found[slot]), expected[: sum(len(rows) for rows in found[slot])])
        assert sum(len(rows) for rows in found[slot]) == length


def test_what_other_slots_and_later_positions_hold_does_not_matter():
    cache = SlotCache(1, 2, 16)
    cache.layout = make_layout([0, 0], [3, 5], DEVICE)
    cache.store(0, drawn(8, KEY_HEADS, WIDTH), drawn(8, KEY_HEADS, WIDTH))
    queries = drawn(8, HEADS, WIDTH)
    before = attend(queries, *cache.layer(0), cache.layout, 1.0)
    keys, values = cache.layer(0)
    keys[0, :, 3:], values[0, :, 3:] = 7.0, 7.0
    keys[1], values[1] = 9.0, 9.0
    after = attend(queries, *cache.layer(0), cache.layout, 1.0)
    torch.testing.assert_close(after[:3], before[:3])
    assert not torch.allclose(after[3:], before[3:])


def test_copies_hold_the_first_tokens_alone():
    cache = SlotCache(2, 3, 8)
    cache.layout = make_layout([0, 0, 0], [2, 4, 1], DEVICE)
    for layer in range(2):
        cache.store(layer, drawn(7, KEY_HEADS, WIDTH), drawn(7, KEY_HEADS, WIDTH))
    cache.copy(1, 2, 3)
    for layer in range(2):
        for tensor in cache.layer(layer):
            torch.testing.assert_close(tensor[2, :, :3], tensor[1, :, :3])
            assert not tensor[2, :, 3:].any()


def test_a_cache_without_a_step_says_so():
    with pytest.raises(RuntimeError, match="layout"):
        SlotCache(1, 1, 1).store(0, drawn(1, 1, 1), drawn(1, 1, 1))
    with pytest.raises(RuntimeError, match="nothing"):
        SlotCache(1, 1, 1).layer(0)
