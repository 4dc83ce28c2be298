"""Syntax trees of Python source."""

import ast
import gc

import pytest

from crystalfm.config.python_source import parse_expression, parse_python

SOURCE = "\n".join(f"x{number} = [f(y) for y in (1, 2, 3)]" for number in range(300))


@pytest.fixture
def collections():
    """Collector that starts at every chance, and how often it did."""
    seen = []

    def callback(phase, _info):
        seen.append(phase)

    before = gc.get_threshold()
    gc.callbacks.append(callback)
    gc.set_threshold(1)
    yield seen
    gc.set_threshold(*before)
    gc.callbacks.remove(callback)


def test_no_finalizer_runs_while_a_tree_is_built(collections):
    ast.parse(SOURCE)
    usual = len(collections)
    del collections[:]
    tree = parse_python(SOURCE)
    assert len(tree.body) == 300
    assert len(collections) < usual / 20
    assert gc.isenabled()


def test_a_paused_collector_stays_paused():
    gc.disable()
    try:
        parse_python("x = 1")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_expression_is_read_and_its_faults_are_told():
    assert ast.unparse(parse_expression("int | None")) == "int | None"
    with pytest.raises(SyntaxError):
        parse_expression("int |")
    assert gc.isenabled()
