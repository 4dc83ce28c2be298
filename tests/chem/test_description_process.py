"""The process that describes: answers, failures, time limits that hold in compiled code, and its end."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from crystal_samples import rock_salt

from crystalfm.chem.description_process import DescriberProcess, Outcome
from crystalfm.contracts import UserError

FAKES = str(Path(__file__).parents[1] / "data")
NUMBERS = {"NaCl": (11, 17), "CsCl": (55, 17), "KCl": (19, 17), "NaBr": (11, 35), "NaF": (11, 9), "KF": (19, 9)}
NUMBERS |= {"LiCl": (3, 17), "RbCl": (37, 17)}


@pytest.fixture
def describer(monkeypatch):
    monkeypatch.syspath_prepend(FAKES)
    found = DescriberProcess("fake_describers:moody")
    yield found
    found.close()


def described(describer, name, limit_seconds=30.0):
    return describer.describe(rock_salt(numbers=NUMBERS[name]).to_json(), limit_seconds)


def test_text_comes_back_whatever_a_library_prints(describer):
    assert described(describer, "NaCl") == Outcome("a crystal of ClNa")


def test_one_child_describes_many(describer):
    described(describer, "NaCl")
    child = describer._child.pid
    described(describer, "NaBr")
    described(describer, "NaCl")
    assert describer._child.pid == child


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("NaBr", "not described: ValueError: no bromides"),
        ("LiCl", "not described: no lithium"),
        ("RbCl", "the description is empty"),
    ],
)
def test_failure_has_a_reason(describer, name, reason):
    assert described(describer, name) == Outcome(None, reason)


def test_function_gets_its_arguments_and_failures_their_verb(monkeypatch):
    monkeypatch.syspath_prepend(FAKES)
    found = DescriberProcess("fake_describers:greeting", {"word": "hello", "times": 2}, "greeted")
    try:
        assert described(found, "NaCl") == Outcome("hello hello ClNa")
        assert described(found, "NaBr") == Outcome(None, "not greeted: ValueError: no bromides")
        assert described(found, "CsCl", 0.3) == Outcome(None, "not greeted within 0.3 seconds", 0.3)
    finally:
        found.close()


def test_text_that_is_no_crystal_is_a_failure(describer):
    outcome = describer.describe("{}", 30.0)
    assert outcome.text is None
    assert "not a crystal's JSON" in outcome.reason


@pytest.mark.parametrize("name", ["CsCl", "KCl"])
def test_time_limit_stops_python_and_compiled_code(describer, name):
    described(describer, "NaCl")
    child = describer._child
    started = time.monotonic()
    assert described(describer, name, 0.5) == Outcome(None, "not described within 0.5 seconds", 0.5)
    assert time.monotonic() - started < 5
    assert child.poll() == -signal.SIGKILL
    assert described(describer, "NaCl").text == "a crystal of ClNa"


def test_crash_is_a_lasting_failure_and_the_child_is_replaced(describer):
    assert described(describer, "NaF") == Outcome(None, "not described: the process ended with SIGSEGV")
    assert described(describer, "NaCl").text == "a crystal of ClNa"


def test_being_killed_from_outside_is_no_lasting_failure(describer):
    outcome = described(describer, "KF")
    assert outcome == Outcome(None, "not described: the process ended with SIGKILL", lasting=False)


@pytest.mark.parametrize("function", ["fake_describers:absent", "no_such_module:describe"])
def test_child_that_cannot_start_is_told(monkeypatch, function):
    monkeypatch.syspath_prepend(FAKES)
    with pytest.raises(UserError, match="did not start: its process ended with exit code 1"):
        DescriberProcess(function).describe(rock_salt().to_json(), 5.0)


def test_child_ends_with_its_owner(describer):
    described(describer, "NaCl")
    child = describer._child
    describer.__del__()
    assert child.wait(5) == -signal.SIGKILL


def test_child_ends_when_its_parent_is_killed(monkeypatch):
    monkeypatch.syspath_prepend(FAKES)
    code = (
        f"import sys, time; sys.path.insert(0, {FAKES!r})\n"
        "from crystalfm.chem.description_process import DescriberProcess\n"
        "describer = DescriberProcess('fake_describers:formula')\n"
        f"describer.describe({rock_salt().to_json()!r}, 30.0)\n"
        "print(describer._child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        assert psutil.wait_procs([child], timeout=10)[1] == []


def test_nothing_heavy_is_imported_until_a_text_is_asked_for():
    code = (
        "import sys\n"
        "import crystalfm.chem.robocrys_text, crystalfm.chem.chemnlp_text, crystalfm.data.descriptions\n"
        "heavy = {'robocrys', 'matminer', 'pymatgen', 'jarvis', 'spglib', 'joblib', 'dask', 'ray'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
