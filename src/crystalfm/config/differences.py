"""Differences between the configuration of a checkpoint and the one asked for now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crystalfm.contracts import UserError

SAFE_KEYS = (
    "baselines",
    "callbacks.checkpoint_every_n_epochs",
    "callbacks.checkpoint_every_n_steps",
    "callbacks.early_stopping_patience",
    "callbacks.progress_bar",
    "callbacks.save_top_k",
    "callbacks.stop_on_nan",
    "ckpt",
    "coverage",
    "data.eval_batch_size",
    "data.num_workers",
    "descriptions",
    "ensemble",
    "logger",
    "mode",
    "name",
    "paths",
    "trainer.log_every_n_steps",
    "trainer.max_epochs",
    "trainer.max_minutes",
    "trainer.max_steps",
    "trainer.num_threads",
    "trainer.profiler",
)
"""Keys (with everything below them) that may change when a run goes on: they do not change what a step computes."""

_SCHEDULE_KEYS = ("trainer.max_epochs", "trainer.max_steps")
_ABSENT = "(absent)"


@dataclass(frozen=True)
class Difference:
    """One key whose value differs.

    Attributes:
        key: dotted key.
        before: value in the checkpoint, or ``(absent)``.
        now: value asked for, or ``(absent)``.
        safe: whether the run may go on with it.
    """

    key: str
    before: Any
    now: Any
    safe: bool

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.now}"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested mapping by dotted key; an empty mapping is a leaf."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            leaves.update(flatten(value, f"{name}."))
        else:
            leaves[name] = value
    return leaves


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Compare two resolved configurations leaf by leaf, in the order of keys.

    A key that one of them does not have counts as null there: checkpoints of earlier versions lack newer keys, and
    null leaves out what they add.
    """
    old, new = flatten(before), flatten(now)
    scheduler = now.get("scheduler")
    scheduled = isinstance(scheduler, Mapping) and scheduler.get("name") == "cosine"
    found = []
    for key in sorted(old.keys() | new.keys()):
        was, is_now = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if was != is_now and not (old.get(key) is None and new.get(key) is None):
            safe = any(key == safe_key or key.startswith(f"{safe_key}.") for safe_key in SAFE_KEYS)
            # The cosine schedule is stretched over the whole training: another length is another schedule.
            safe = safe and not (scheduled and key in _SCHEDULE_KEYS)
            found.append(Difference(key, was, is_now, safe))
    return found


def require_resumable(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> list[Difference]:
    """Return the harmless differences; refuse the others.

    Args:
        before: configuration in the checkpoint.
        now: configuration asked for.
        where: the checkpoint, for the message.

    Raises:
        UserError: a key changed that would change the training; the message lists every difference.
    """
    found = differences(before, now)
    if any(not difference.safe for difference in found):
        lines = [f"    {'  ' if item.safe else '! '}{item}" for item in found]
        raise UserError(
            f"the configuration differs from the one {where} was trained with (! = not allowed to change):\n"
            + "\n".join(lines),
            remedy="repeat the original overrides, or start a new run without ckpt=",
        )
    return found
