"""``crystalfm defects enumerate|random``: configurations of point defects in a two-dimensional host."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from crystalfm.cli.predict_command import checked_arguments
from crystalfm.config.problems import suggestion
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from omegaconf import DictConfig
    from rich.console import RenderableType

    from crystalfm.run.defects import FoundConfigurations

_HELP = """crystalfm defects enumerate host=NAME rules=[RULE,...] [key=value ...]
crystalfm defects random host=NAME rules=[RULE,...] concentration=SHARE number=N [key=value ...]

enumerate finds every configuration of a few point defects that the symmetry of the layer does not turn into another;
random draws configurations of many defects, no two of them equivalent.

  host=MoS2                one of MoS2, WSe2, BN (h-BN), GaSe, InSe, P (BP)
  rules=[v_S,Se_S,W_Mo]    v_S takes a sulfur away, Se_S puts selenium in its place
  size=[8,8,1]             unit cells of the supercell; default the host's usual one
  max_defects=3            of enumerate: most defects
  types=low_density        of enumerate: 2DMD's combinations, up to two defects of the chalcogen and one of the metal
  concentration=0.05       of random: share of the sites, 0.025 to 0.125 in 2DMD
  number=100, seed=42      of random
  output=FOLDER            a new folder for configurations.csv and the pristine supercell
  cif=true                 a CIF of every configuration too

Examples
  crystalfm defects enumerate host=MoS2 rules=[v_S,Se_S,v_Mo,W_Mo] types=low_density
  crystalfm defects random host=WSe2 rules=[v_Se,S_Se] concentration=0.05 number=20 output=random_wse2 cif=true
"""

_VERBATIM = {"host", "output"}
_NUM_TYPES_SHOWN = 40


def defects_command(argv: Sequence[str]) -> int:
    """Run ``crystalfm defects``.

    Raises:
        UserError: an unknown command, or an argument does not fit.
    """
    if not argv or any(word in {"-h", "--help"} for word in argv):
        sys.stdout.write(_HELP)
        return 0
    name, rest = argv[0], list(argv[1:])
    if name not in _COMMANDS:
        raise UserError(f"there is no command 'defects {name}'", remedy=suggestion(name, list(_COMMANDS)))
    cfg = checked_arguments(f"defects_{name}", rest, _VERBATIM)
    from crystalfm.run.defects import require_new, write_configurations
    from crystalfm.run.tracking.console import run_console

    folder = require_new(cfg.output)
    found = _COMMANDS[name](cfg)
    console = run_console()
    console.print(_table(found))
    if folder is not None:
        write_configurations(folder, found, cif=cfg.cif)
        console.print(f"wrote {folder}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _enumerate(cfg: DictConfig) -> FoundConfigurations:
    from crystalfm.run.defects import enumerate_defects

    return enumerate_defects(cfg)


def _random(cfg: DictConfig) -> FoundConfigurations:
    from crystalfm.run.defects import random_defects

    return random_defects(cfg)


def _table(found: FoundConfigurations) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    supercell = found.supercell
    table = Table(title=f"{supercell.host.name} {list(supercell.size)}", title_justify="left")
    table.add_column("type")
    table.add_column("configurations", justify="right")
    table.add_column("with equivalents", justify="right")
    for kind in found.types[:_NUM_TYPES_SHOWN]:
        table.add_row(kind.name, f"{len(kind.configurations):,}", f"{sum(kind.multiplicities):,}")
    if (more := len(found.types) - _NUM_TYPES_SHOWN) > 0:
        table.add_row(f"and {more} more types", "", "")
    line = (
        f"{found.total:,} configurations of {len(found.types)} types under {found.num_operations:,} operations"
        f" in {found.seconds:.1f} s"
    )
    return Group(table, line)


_COMMANDS: dict[str, Callable[[DictConfig], FoundConfigurations]] = {"enumerate": _enumerate, "random": _random}
