"""What it costs to give freed memory back: ALIGNN's training step without and with keeping it.

Each is measured in a process of its own. The network has 4 + 4 layers of 256 and takes steps on one batch of crystals;
printed are the best step's CPU seconds (of the user and of the system), its page faults, and the peak memory of the
process. The ratio comes last.

    python benchmarks/freed_memory.py [--crystals 32] [--steps 4] [--threads N] [--norm batch] [--precision fp32]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
from typing import Any

import torch
from alignn_step import QUICK_WIDTH, batch_of, crystals_of, high_water_kib, ours

from crystalfm.run.parallel.memory import keep_freed_memory

KIB_PER_MIB = 1024


def measure(options: argparse.Namespace, *, keep: bool) -> tuple[float, float, int, float]:
    """Return CPU seconds of the user and of the system, page faults and MiB."""
    if keep and not keep_freed_memory():
        raise SystemExit("this C library has no mallopt, or the environment sets what it would set")
    torch.set_num_threads(options.threads)
    crystals, _ = crystals_of(options.crystals)
    width = QUICK_WIDTH if options.quick else 256
    norm: Any = options.norm
    side = ours(batch_of(crystals, "k_nearest"), width, norm, autocast=options.precision == "bf16")
    side.train()
    steps = []
    for _ in range(options.steps):
        before = resource.getrusage(resource.RUSAGE_SELF)
        side.train()
        after = resource.getrusage(resource.RUSAGE_SELF)
        steps.append((
            after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, after.ru_minflt - before.ru_minflt
        ))  # fmt: skip
    user, system, faults = min(steps, key=lambda step: step[0] + step[1])
    return user, system, faults, high_water_kib() / KIB_PER_MIB


def main() -> None:
    """Measure both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--norm", choices=["layer", "batch"], default="layer")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--quick", action="store_true", help="four crystals, a narrow network, one step")
    options = parser.parse_args()
    if options.quick:
        options.crystals, options.steps = 4, 1
    found = {}
    print(f"{'freed memory':14}{'user':>9}{'system':>9}{'faults':>10}{'peak':>12}")
    for name, keep in (("given back", False), ("kept", True)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[name] = pool.apply(measure, (options,), {"keep": keep})
        user, system, faults, peak = found[name]
        print(f"{name:14}{user:8.2f}s{system:8.2f}s{faults:10,}{peak:8.0f} MiB")
    (before, after) = (sum(found[name][:2]) for name in ("given back", "kept"))
    print(f"ratio: {before / after:.2f} by CPU seconds")


if __name__ == "__main__":
    main()
