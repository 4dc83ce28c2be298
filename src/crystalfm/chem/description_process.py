"""A process of its own that describes crystals, so that one which never ends, or crashes, can be stopped and replaced.

The libraries that write descriptions spend their time in compiled code, which no exception or Python signal handler
can interrupt. Only the end of its process stops such a call for certain, and that must not be the process that trains,
nor a worker of joblib, Dask or Ray, whose loss would end the whole pool. Hence each worker keeps a child that describes
one crystal after the other, and kills it when a crystal takes too long; all the worker loses is that crystal and the
seconds in which the next child imports the library.

Whatever maps a crystal to a text can be run so, a relaxation that answers in JSON for instance.

``python -m crystalfm.chem.description_process MODULE:FUNCTION [ARGUMENTS [VERB]]`` is the child, where ARGUMENTS are
the function's keyword arguments as JSON: a JSON line in, a JSON line out.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

from crystalfm.chem.crystals import Crystal, CrystalError
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

START_LIMIT_SECONDS = 900.0
"""How long a child may take to import its libraries; a cold network file system needs minutes."""

_GRACE_SECONDS = 5.0
_REASON_LENGTH = 200
_OUTSIDE_SIGNALS = {signal.Signals(number).name for number in (signal.SIGTERM, signal.SIGINT)} | {"SIGKILL"}
_SAMPLE = '{"lattice":[[0,2.82,2.82],[2.82,0,2.82],[2.82,2.82,0]],"numbers":[11,17],"coords":[[0,0,0],[0.5,0.5,0.5]]}'
"""Rock salt, which a child describes before it reports that it is ready: then every library is loaded."""


@dataclass(frozen=True)
class Outcome:
    """What became of a crystal.

    Attributes:
        text: its description, or ``None``.
        reason: why there is none.
        limit_seconds: time limit that was reached, or ``None`` where none was.
        lasting: the same would happen again; false where something outside ended the process.
    """

    text: str | None
    reason: str = ""
    limit_seconds: float | None = None
    lasting: bool = True


Call = tuple[str, dict[str, Any], str]
"""``module:function``, its keyword arguments, and what it does to a crystal as a participle."""


class DescriberProcess:
    """A child process that describes one crystal at a time, replaced when it does not answer.

    Args:
        function: ``module:function`` that maps a ``Crystal`` to a text.
        arguments: keyword arguments of the function, plain values.
        verb: what the function does to a crystal, as a participle, for reasons.

    Attributes:
        call: function, arguments and verb.
    """

    def __init__(self, function: str, arguments: Mapping[str, Any] | None = None, verb: str = "described") -> None:
        self.call: Call = (function, dict(arguments or {}), verb)
        self._child: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()

    def describe(self, structure: str, limit_seconds: float) -> Outcome:
        """Describe a crystal.

        Args:
            structure: the crystal as ``Crystal.to_json`` writes it.
            limit_seconds: time after which the child is killed; its start does not count.

        Raises:
            UserError: the child cannot start, for instance because a package is missing.
        """
        child = self._started()
        request = json.dumps({"structure": structure, "limit_seconds": limit_seconds})
        if child.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended; the missing answer says so
                child.stdin.write(request + "\n")
                child.stdin.flush()
        try:
            answer = self._answer(limit_seconds)
        except TimeoutError:
            self.close()
            return Outcome(None, f"not {self.call[2]} within {limit_seconds:g} seconds", limit_seconds)
        if answer is None:
            how = self._how_it_ended()
            reason = f"not {self.call[2]}: the process ended with {how}"
            return Outcome(None, reason, lasting=how not in _OUTSIDE_SIGNALS)
        return Outcome(answer.get("text"), str(answer.get("reason", "")))

    def close(self) -> None:
        """End the child at once, whatever it is doing."""
        if self._child is not None:
            _end(self._child)
            self._child = None

    def __del__(self) -> None:
        """End the child with its owner, which may be at the end of the interpreter."""
        if self._child is not None:
            self._child.kill()

    def _started(self) -> subprocess.Popen[str]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self.close()
        self._answers = queue.Queue()
        function, arguments, verb = self.call
        command = [sys.executable, "-m", __name__, function, json.dumps(arguments), verb]
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            encoding="utf-8",
        )
        if self._child.stdout is not None:
            threading.Thread(target=_forward, args=(self._child.stdout, self._answers), daemon=True).start()
        try:
            greeting = self._answer(START_LIMIT_SECONDS)
        except TimeoutError as error:
            self.close()
            raise UserError(f"{function} did not start within {START_LIMIT_SECONDS:g} seconds") from error
        if greeting is None:
            raise UserError(
                f"{function} did not start: its process ended with {self._how_it_ended()}",
                remedy=f"to see why: python -m {__name__} {function} '{json.dumps(arguments)}' < /dev/null",
            )
        if "error" in greeting:
            self.close()
            raise UserError(greeting["error"], remedy=greeting.get("remedy"))
        return self._child

    def _answer(self, limit_seconds: float) -> dict[str, Any] | None:
        """Return the child's next answer, or ``None`` where it has ended.

        Raises:
            TimeoutError: there is none in time.
        """
        try:
            line = self._answers.get(timeout=limit_seconds)
        except queue.Empty as error:
            raise TimeoutError from error
        found: dict[str, Any] | None = json.loads(line) if line else None
        return found

    def _how_it_ended(self) -> str:
        """Wait for the end of a child that has closed its output, and say how it came."""
        child, self._child = self._child, None
        if child is None:
            return "no exit code"
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_SECONDS)
        code = child.poll()
        _end(child)
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _end(child: subprocess.Popen[str]) -> None:
    child.kill()
    with suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE_SECONDS)
    if child.stdin is not None:
        with suppress(OSError):  # what was not taken cannot be flushed
            child.stdin.close()


def _forward(stream: IO[str], answers: queue.Queue[str]) -> None:
    """Put lines into a queue, an empty one at the end: a pipe cannot be waited for with a limit on every system."""
    with stream:
        for line in stream:
            answers.put(line)
    answers.put("")


def _environment() -> dict[str, str]:
    """Return the child's environment: one thread, one order of sets, and the modules that this process finds."""
    once = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **once, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


# --------------------------------------------------------------------------- the child


def main() -> int:
    """Describe the crystals that arrive on the standard input until it ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not look like an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and the end of the input says so
    function, arguments, verb = (*sys.argv[1:], *("{}", "described")[len(sys.argv) - 2 :])
    try:
        describe = partial(_load(function), **json.loads(arguments))
        describe(Crystal.from_json(_SAMPLE))
    except UserError as error:
        _write(answers, {"error": error.message, "remedy": error.remedy})
        return error.exit_code
    _write(answers, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        with _ending_after(float(request["limit_seconds"]) + _GRACE_SECONDS):
            answer = _described(describe, request["structure"], verb)
        _write(answers, answer)
    return 0


def _load(function: str) -> Callable[..., str]:
    module, _, name = function.partition(":")
    found: Callable[..., str] = getattr(import_module(module), name)
    return found


def _write(stream: IO[str], answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


def _described(describe: Callable[[Crystal], str], structure: str, verb: str) -> dict[str, str]:
    try:
        with failing(verb):
            text = describe(Crystal.from_json(structure))
    except CrystalError as error:
        return {"reason": error.reason}
    return {"text": text} if text.strip() else {"reason": "the description is empty"}


@contextmanager
def failing(verb: str = "described") -> Iterator[None]:
    """Turn whatever a library raises into a reason.

    Args:
        verb: what is done to the crystal, as a participle.

    Raises:
        CrystalError: whatever was raised within, with its reason.
    """
    try:
        yield
    except CrystalError:
        raise
    except Exception as error:
        # The libraries answer crystals they were not made for with whatever their code runs into.
        detail = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        reason = f"{type(error).__name__}: {detail}" if detail else type(error).__name__
        raise CrystalError(f"not {verb}: {reason[:_REASON_LENGTH]}") from error


@contextmanager
def _ending_after(seconds: float) -> Iterator[None]:
    """End this process after a time even within compiled code: for the case that the parent is no more."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    raise SystemExit(main())
