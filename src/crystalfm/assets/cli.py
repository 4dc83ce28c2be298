"""``python -m crystalfm.fetch``: list, fetch and verify assets, e.g. on a login node before a job."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from crystalfm.assets.places import HubPlace, Place, UrlPlace, WheelPlace
from crystalfm.assets.progress import RichProgress
from crystalfm.assets.registry import ASSETS, Asset
from crystalfm.assets.store import AssetStore
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = ("list", "fetch", "verify")
_INTERRUPTED = 130
_FILE_WIDTH = 140
_LICENCE_WIDTH = 16
_MB, _GB = 10**6, 10**9


def default_cache() -> Path:
    """Return the cache folder: the variable ``CRYSTALFM_CACHE``, or ``~/.cache/crystalfm``."""
    return Path(os.environ.get("CRYSTALFM_CACHE") or Path.home() / ".cache" / "crystalfm")


def default_mirror() -> Path | None:
    """Return the mirror folder of the variable ``CRYSTALFM_MIRROR``, if set."""
    mirror = os.environ.get("CRYSTALFM_MIRROR")
    return Path(mirror) if mirror else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; ``None`` takes those of the process.

    Returns:
        0 on success, 1 when a verified copy is damaged, 2 on a user's mistake, 130 when interrupted.
    """
    errors = Console(stderr=True, highlight=False)
    try:
        options = _parse(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    store = AssetStore(options.cache, options.mirror, options.offline, RichProgress(errors))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_FILE_WIDTH)
    try:
        if options.command == "list":
            return _list(store, console)
        if options.command == "verify":
            return _verify(store, options.names, console, errors)
        return _fetch(store, options.names, console, refresh=options.refresh)
    except UserError as error:
        errors.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        errors.print("interrupted; the same command resumes where it stopped", markup=False)
        return _INTERRUPTED


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    words = list(sys.argv[1:] if argv is None else argv)
    if not {*COMMANDS, "-h", "--help"} & set(words):  # plain names mean 'fetch', no names 'list'
        values = {words[i + 1] for i, word in enumerate(words[:-1]) if word in {"--cache", "--mirror"}}
        names = [word for word in words if not word.startswith("-") and word not in values]
        words.insert(0, "fetch" if names else "list")
    options = _parser().parse_args(words)
    for name, value in {"cache": default_cache(), "mirror": default_mirror(), "offline": False}.items():
        if not hasattr(options, name):
            setattr(options, name, value)
    return options


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--cache", type=Path, help="cache folder (default: $CRYSTALFM_CACHE or ~/.cache/crystalfm)")
    common.add_argument("--mirror", type=Path, help="folder with local copies (default: $CRYSTALFM_MIRROR)")
    common.add_argument("--offline", action="store_true", help="use only mirror and cache")
    parser = argparse.ArgumentParser(
        prog="python -m crystalfm.fetch",
        description="Fetch, list and verify data sets and weights.",
        epilog="Plain names mean 'fetch': python -m crystalfm.fetch qm9 minilm",
        parents=[common],
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[common], help="show every asset and whether it is at hand")
    fetch = commands.add_parser("fetch", parents=[common], help="fetch assets into the cache")
    fetch.add_argument("names", nargs="+", metavar="NAME")
    fetch.add_argument("--refresh", action="store_true", help="fetch again although a cached copy exists")
    verify = commands.add_parser("verify", parents=[common], help="compute the checksums of copies at hand again")
    verify.add_argument("names", nargs="*", metavar="NAME", help="default: every asset at hand")
    return parser


def _fetch(store: AssetStore, names: Sequence[str], console: Console, *, refresh: bool) -> int:
    for name in names:  # a typing error shows before the first download
        store.asset(name)
    for name in names:
        fetched = store.fetch(name, refresh=refresh)
        console.print(f"[bold]{name}[/] ready: {fetched.folder}", soft_wrap=True)
        console.print(f"  from {fetched.place}", markup=False, soft_wrap=True)
        console.print(f"  licence: {fetched.licence}", markup=False, soft_wrap=True)
        console.print(f"  cite: {store.asset(name).citation}", markup=False, soft_wrap=True)
    return 0


def _verify(store: AssetStore, names: Sequence[str], console: Console, errors: Console) -> int:
    damaged = []
    for name in names or store.cached_names():
        problems = store.verify(name)
        if not problems:
            console.print(f"[bold]{name}[/] intact")
            continue
        damaged.append(name)
        for problem in problems:
            errors.print(f"{name} damaged: {problem}", style="red", markup=False, soft_wrap=True)
    if damaged:
        errors.print(f"fetch again: python -m crystalfm.fetch fetch --refresh {' '.join(damaged)}", markup=False)
    return 1 if damaged else 0


def _list(store: AssetStore, console: Console) -> int:
    console.print(f"cache  {store.cache}\nmirror {store.mirror or '-'}", markup=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("name", "kind", "size", "at hand", "from"):
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    table.add_column("licence", overflow="fold", min_width=_LICENCE_WIDTH)
    for name, asset in ASSETS.items():
        table.add_row(name, asset.kind, _size(asset), store.location(name) or "-", _origin(asset), asset.licence)
    console.print(table)
    console.print("* no published checksum: recorded at the first fetch, held to from then on", soft_wrap=True)
    console.print("fetch with: python -m crystalfm.fetch NAME ...", soft_wrap=True)
    return 0


def _size(asset: Asset) -> str:
    size = asset.approx_bytes
    if size is None:
        return "?"
    text = f"{size / _GB:.1f} GB" if size >= _GB else f"{size / _MB:.1f} MB"
    return f"~{text}" if asset.hub is not None else text


def _origin(asset: Asset) -> str:
    kinds: dict[type[Place], str] = {UrlPlace: "address", WheelPlace: "wheel", HubPlace: "Hugging Face"}
    words = [kinds[type(place)] for place in asset.places if type(place) in kinds]
    if asset.wheel is not None and asset.wheel.is_source:
        words[words.index("wheel")] = "sdist"
    if asset.hub is not None and asset.hub.gated:
        words.append("needs HF_TOKEN")
    text = ", ".join(words) or "mirror only"
    return text if asset.is_pinned or asset.hub is not None else f"{text} *"
