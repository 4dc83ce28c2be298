"""Reading Python source as a syntax tree."""

from __future__ import annotations

import ast
import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def parse_python(source: str) -> ast.Module:
    """Return the syntax tree of a module's source.

    Raises:
        SyntaxError: the text is not Python.
    """
    with _collector_paused():
        return ast.parse(source)


def parse_expression(source: str) -> ast.expr:
    """Return the syntax tree of one expression.

    Raises:
        SyntaxError: the text is not an expression.
    """
    with _collector_paused():
        return ast.parse(source, mode="eval").body


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep finalizers from running while a tree is built.

    Before CPython 3.11.8 a finalizer that lets another thread parse in the meantime spoils the parser's count of its
    depth: ``SystemError: AST constructor recursion depth mismatch`` (python/cpython issue 106905).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
