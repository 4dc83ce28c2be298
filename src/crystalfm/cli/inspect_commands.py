"""``crystalfm config check|keys`` and ``crystalfm data check``: looking before running."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from crystalfm.config.compose import Composer, plain_tree
from crystalfm.config.preflight import preflight
from crystalfm.config.problems import suggestion
from crystalfm.config.schema import ENTRY_POINTS
from crystalfm.config.signatures import Setting, read_signature
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CONFIG_COMMANDS = ("check", "keys")
_CONFIG_HELP = """crystalfm config check [COMMAND] [-m] [overrides]   check a configuration without running it
crystalfm config keys [COMMAND]                     every key with its type and default

COMMAND is train (default), evaluate, predict, export, generate, bench, defects_enumerate or defects_random."""
_OUTPUT_WIDTH = 140


def config_command(argv: Sequence[str]) -> int:
    """Run ``crystalfm config``.

    Raises:
        UserError: an unknown command, or the configuration has problems.
    """
    name, rest = (argv[0], list(argv[1:])) if argv else ("", [])
    if name in {"-h", "--help", ""}:
        _console().print(_CONFIG_HELP, highlight=False, markup=False)
        return 0
    if name == "check":
        return _check(rest)
    if name == "keys":
        return _keys(rest)
    raise UserError(f"there is no command 'config {name}'", remedy=suggestion(name, _CONFIG_COMMANDS))


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_OUTPUT_WIDTH)


def _check(argv: list[str]) -> int:
    """Check the configuration of train.yaml (or of another command named first) under the given overrides."""
    task = argv.pop(0) if argv and argv[0] in ENTRY_POINTS else "train"
    multirun = any(word in {"-m", "--multirun"} for word in argv)
    overrides = [word for word in argv if word not in {"-m", "--multirun"}]
    with Composer(task) as composer:
        configs = preflight(composer, overrides, multirun=multirun)
    jobs = f" ({len(configs)} jobs)" if multirun else ""
    _console().print(f"OK: the configuration of {task} is consistent{jobs}", highlight=False, markup=False)
    return 0


def _keys(argv: list[str]) -> int:
    """Show every key of a command with type and value."""
    task = argv[0] if argv else "train"
    if task not in ENTRY_POINTS:
        raise UserError(f"there is no command '{task}'", remedy=suggestion(task, ENTRY_POINTS))
    table = Table(title=f"keys of {task}.yaml", title_justify="left")
    for column in ("key", "type", "default"):
        table.add_column(column, overflow="fold")
    for key, kind, value in config_keys(task):
        table.add_row(*(Text(cell) for cell in (key, kind, value)))
    _console().print(table)
    return 0


def config_keys(task: str) -> Iterator[tuple[str, str, str]]:
    """Return key, type and default of every setting of the default configuration."""
    entry = ENTRY_POINTS[task]
    with Composer(task) as composer:
        composition = composer.compose([])
        if composition.cfg is None:
            raise UserError("\n".join(map(str, composition.problems)))
        tree, _ = plain_tree(composition.cfg)
    yield from _rows("", read_signature(entry.values).settings, tree)
    for key, path in entry.sections.items():
        yield from _rows(f"{key}.", read_signature(path).settings, tree[key])
    nodes = {key: tree[key] for key in entry.targets}
    nodes |= {f"{key}.{name}": node for key in entry.mappings for name, node in tree[key].items()}
    for key, node in nodes.items():
        if node is not None:
            yield key, "option of the group", str(node["name"])
            yield from _rows(f"{key}.", read_signature(node["_target_"]).settings, node)


def _rows(prefix: str, settings: dict[str, Setting], node: dict[str, object]) -> Iterator[tuple[str, str, str]]:
    for name, setting in settings.items():
        value = node.get(name, setting.default)
        yield f"{prefix}{name}", str(setting.type), "null" if value is None else str(value)


def data_command(argv: Sequence[str]) -> int:
    """Run ``crystalfm data check``.

    Returns:
        0, or 2 when training would stop because too many rows are rejected.

    Raises:
        UserError: an unknown command, or the table cannot be read.
    """
    from crystalfm.data.check import check_table, render

    words = list(argv) or ["--help"]
    if words[0] not in {"check", "-h", "--help"}:
        raise UserError(f"there is no command 'data {words[0]}'", remedy="crystalfm data check PATH")
    options = _data_parser().parse_args(words)
    targets = [name for name in (options.targets or "").strip("[]").split(",") if name]
    report = check_table(
        options.path,
        smiles_column=options.smiles_column,
        targets=targets or None,
        id_column=options.id_column,
        description_column=options.description_column,
    )
    _console().print(render(report))
    limit = float(options.max_rejected_fraction)
    if report.rejected_fraction <= limit:
        return 0
    raise UserError(
        f"training would stop: {report.rejected_fraction:.2%} of the rows would be rejected, {limit:.2%} are allowed",
        remedy="mend the rows above, or raise max_rejected_fraction",
    )


def _data_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crystalfm data", description="Report what training would make of a table, before anything is trained."
    )
    check = parser.add_subparsers(required=True, metavar="check").add_parser("check", help="check a table of molecules")
    check.add_argument("path", metavar="PATH", help="CSV, TSV or Parquet file")
    check.add_argument("--smiles-column", metavar="NAME", help="column of SMILES strings; found by itself if not given")
    check.add_argument("--targets", metavar="A,B", help="columns to learn; every numeric column if not given")
    check.add_argument("--id-column", metavar="NAME", help="column of unique ids; row numbers if not given")
    check.add_argument("--description-column", metavar="NAME", help="column of texts")
    check.add_argument(
        "--max-rejected-fraction", type=float, default=0.01, metavar="F", help="exit code 2 above it (default 0.01)"
    )
    return parser
