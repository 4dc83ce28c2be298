"""Checks of encoder settings that every encoder shares; importing this module loads no torch."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def check_choice(modality: str, key: str, value: str, choices: Sequence[str]) -> None:
    """Raise unless ``value`` is one of ``choices``.

    Raises:
        UserError: names the key, the nearest choice and all choices.
    """
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise UserError(f"encoders.{modality}.{key}={value} is not known", remedy=f"{hint}choices: {', '.join(choices)}")


def check_at_least(modality: str, key: str, value: float, minimum: float) -> None:
    """Raise unless ``value`` is at least ``minimum``.

    Raises:
        UserError: names the key and the bound.
    """
    if not value >= minimum:
        raise UserError(
            f"encoders.{modality}.{key}={value} is out of range", remedy=f"use a number of at least {minimum:g}"
        )


def check_rate(modality: str, key: str, value: float) -> None:
    """Raise unless ``value`` is a rate in [0, 1).

    Raises:
        UserError: names the key and the bounds.
    """
    if not 0 <= value < 1:
        raise UserError(f"encoders.{modality}.{key}={value} is out of range", remedy="use a number from 0 to below 1")


def check_divides(modality: str, key: str, divisor: int, other: str, number: int) -> None:
    """Raise unless ``divisor`` divides ``number``.

    Raises:
        UserError: names both keys.
    """
    if number % divisor:
        raise UserError(
            f"encoders.{modality}.{key}={divisor} does not divide encoders.{modality}.{other}={number}",
            remedy=f"choose {other} as a multiple of {key}",
        )


def check_version(modality: str, what: str, state: Mapping[str, Any], version: int) -> None:
    """Raise unless a checkpoint's state of an encoder has the version that this release reads.

    Args:
        modality: modality of the encoder.
        what: what the state holds, for the message.
        state: state out of a checkpoint.
        version: version of this release.

    Raises:
        UserError: names both versions.
    """
    if state.get("version") != version:
        raise UserError(
            f"the checkpoint's {what} of {modality} has version {state.get('version')}, this release reads "
            f"version {version}",
            remedy="use the release that made the checkpoint",
        )
