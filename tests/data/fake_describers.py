"""Describers for tests, named as ``fake_describers:NAME``; they run in processes of their own."""

import os
import signal
import sys
import time
from pathlib import Path

from crystalfm.chem.crystals import CrystalError


def formula(crystal):
    """Answer at once."""
    return f"a crystal of {crystal.formula}"


def moody(crystal):
    """Behave as the formula says; rock salt, which every describer is tried on, is described."""
    if crystal.formula == "ClCs":
        time.sleep(60)
    if crystal.formula == "ClK":
        _hang_in_compiled_code()
    if crystal.formula == "BrNa":
        raise ValueError("no bromides\nand a second line")
    if crystal.formula == "FNa":
        os.kill(os.getpid(), signal.SIGSEGV)
    if crystal.formula == "FK":
        os.kill(os.getpid(), signal.SIGKILL)
    if crystal.formula == "ClLi":
        raise CrystalError("not described: no lithium")
    if crystal.formula == "ClRb":
        return "  "
    sys.stdout.write("what libraries print\n")
    return f"a crystal of {crystal.formula}"


def greeting(crystal, *, word, times):
    """Answer with arguments, otherwise as ``moody``."""
    moody(crystal)
    return " ".join([word] * times + [crystal.formula])


def slow(crystal):
    """Take a moment, and leave a mark for each crystal."""
    with Path(os.environ["FAKE_DESCRIBER_LOG"]).open("a", encoding="utf-8") as stream:
        stream.write(f"{crystal.formula}\n")
    time.sleep(float(os.environ.get("FAKE_DESCRIBER_SECONDS", "0")))
    return f"a crystal of {crystal.formula}"


def _hang_in_compiled_code():
    """Never return from a call into C that holds the interpreter's lock, so that no Python code runs any more."""
    import ctypes

    ctypes.PyDLL(None).pause()
    os.pause()  # a signal without a handler in C woke it
