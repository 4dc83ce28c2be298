"""The console command ``crystalfm``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_HELP = """crystalfm COMMAND ...

Commands
  train [overrides]        train a model                          (python train.py)
  evaluate ckpt=RUN ...    score a trained model                  (python evaluate.py)
  predict ckpt=RUN input=X predict molecules                      (python -m crystalfm.predict)
  generate ckpt=RUN ...    sample new materials                   (python generate.py)
  export RUN out=DIR       write a model as a folder that stands alone and is checked when it is loaded
  push DIR repo=OWNER/NAME upload such a folder to the Hugging Face hub
  card RUN                 card of a trained predictor: results, use, limits, licences
  fetch [NAME ...]         list, fetch and verify data and weights (python -m crystalfm.fetch)
  compare RUN RUN ...      errors of finished runs on the same rows, and whether they differ by more than noise
  erasure EVALUATION ...   what parts of the descriptions are worth to models of several properties
  bench [overrides]        rows/s, tokens/s, memory and waiting time of a training, in one process and in several
  describe data=NAME ...   make the descriptions of a data set's crystals ahead of a training
  defects enumerate|random host=NAME rules=[...]   configurations of point defects in a two-dimensional host
  data check PATH ...      what a table of your own would reject, before training
  config check [overrides] check a configuration without running it
  config keys [COMMAND]    every key with its type and default

Examples
  crystalfm train experiment=quickstart
  crystalfm train data=csv data.path=t.csv data.smiles_column=smiles data.targets=[gap]
  crystalfm predict ckpt=runs/quickstart/2026-01-31_12-00-00_1a2b3c input=CCO

crystalfm COMMAND --help says more. crystalfm --version shows the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the console command.

    Args:
        argv: arguments without the program's name; ``None`` takes those of the process.

    Returns:
        exit code: 0, 2 after a user's mistake, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        sys.stdout.write(_HELP)
        return 0
    if arguments[0] in {"-V", "--version"}:
        from crystalfm import __version__

        sys.stdout.write(f"crystalfm {__version__}\n")
        return 0
    from crystalfm.cli.task import guarded

    return guarded(lambda: _dispatch(arguments[0], arguments[1:]))


def _dispatch(name: str, rest: list[str]) -> int:
    if name not in _COMMANDS:
        from crystalfm.config.problems import suggestion

        raise UserError(f"there is no command '{name}'", remedy=suggestion(name, _COMMANDS, label="commands"))
    return _COMMANDS[name](rest)


def _task(name: str) -> Callable[[list[str]], int]:
    def command(rest: list[str]) -> int:
        from crystalfm.cli.task import run_task

        return run_task(name, rest, command=[name])

    return command


def predict_main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m crystalfm.predict``; see ``crystalfm.cli.predict_command``."""
    from crystalfm.cli.task import guarded

    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _predict(arguments))


def _predict(rest: list[str]) -> int:
    from crystalfm.cli.predict_command import run_predict

    return run_predict(rest)


def _fetch(rest: list[str]) -> int:
    from crystalfm.assets.cli import main as fetch_main

    return fetch_main(rest)


def _data(rest: list[str]) -> int:
    from crystalfm.cli.inspect_commands import data_command

    return data_command(rest)


def _describe(rest: list[str]) -> int:
    from crystalfm.cli.describe_command import describe_command

    return describe_command(rest)


def _export(rest: list[str]) -> int:
    from crystalfm.cli.export_command import export_command

    return export_command(rest)


def _erasure(rest: list[str]) -> int:
    from crystalfm.cli.erasure_command import erasure_command

    return erasure_command(rest)


def _push(rest: list[str]) -> int:
    from crystalfm.cli.export_command import push_command

    return push_command(rest)


def _defects(rest: list[str]) -> int:
    from crystalfm.cli.defects_command import defects_command

    return defects_command(rest)


def _compare(rest: list[str]) -> int:
    from crystalfm.cli.compare_command import compare_command

    return compare_command(rest)


def _card(rest: list[str]) -> int:
    from crystalfm.cli.card_command import card_command

    return card_command(rest)


def _config(rest: list[str]) -> int:
    from crystalfm.cli.inspect_commands import config_command

    return config_command(rest)


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _task("train"),
    "evaluate": _task("evaluate"),
    "predict": _predict,
    "generate": _task("generate"),
    "bench": _task("bench"),
    "export": _export,
    "push": _push,
    "fetch": _fetch,
    "describe": _describe,
    "defects": _defects,
    "data": _data,
    "compare": _compare,
    "erasure": _erasure,
    "card": _card,
    "config": _config,
}
