"""Memory of bfloat16 steps whose batches differ in length, with oneDNN's kernel cache as it comes and made small.

oneDNN compiles a kernel for every shape of a matrix product and keeps 1,024 of them. Each case is a process of its own:
one linear layer of the size of a small language model's output, forward and backward.

    python benchmarks/kernel_cache.py [--steps 40] [--capacity 8]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

_WIDTH, _VOCABULARY, _ROWS = 576, 16_384, 256
_CAPACITY = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


def _step_sizes(case: str, steps: int) -> list[int]:
    return [_ROWS if case == "fixed" else _ROWS - steps // 2 + step for step in range(steps)]


def measure(case: str, steps: int) -> None:
    """Print the process's memory in MB before the first step and after the last."""
    import psutil
    import torch

    torch.set_num_threads(1)
    process = psutil.Process()
    layer = torch.nn.Linear(_WIDTH, _VOCABULARY, bias=False)
    before = process.memory_info().rss
    for rows in _step_sizes(case, steps):
        inputs = torch.randn(rows, _WIDTH, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = layer(inputs)
        outputs.float().sum().backward()
        layer.weight.grad = None
    print(round(before / 2**20), round(process.memory_info().rss / 2**20))


def main() -> None:
    """Measure the three cases and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--capacity", type=int, default=8, help="kernels kept in the third case")
    parser.add_argument("--case", choices=["fixed", "varying"], help="measure one case in this process")
    arguments = parser.parse_args()
    if arguments.case is not None:
        measure(arguments.case, arguments.steps)
        return
    grown = {}
    for name, case, capacity in (
        ("one length", "fixed", None),
        ("lengths differ", "varying", None),
        (f"lengths differ, {arguments.capacity} kernels kept", "varying", arguments.capacity),
    ):
        environment = {key: value for key, value in os.environ.items() if key != _CAPACITY}
        if capacity is not None:
            environment[_CAPACITY] = str(capacity)
        command = [sys.executable, __file__, "--case", case, "--steps", str(arguments.steps)]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        before, after = (int(part) for part in done.stdout.split())
        grown[name] = after - before
        print(f"{name:40s} {before:6d} MB -> {after:6d} MB")
    fixed, varying, small = grown.values()
    print(f"growth against one length: lengths differ {varying / fixed:.2f}, few kernels kept {small / fixed:.2f}")


if __name__ == "__main__":
    main()
