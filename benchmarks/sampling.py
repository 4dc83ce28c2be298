"""Valid crystals a second: our sampler against the plain way, with the same weights in one process.

The plain way is ``generate`` of transformers in batches, and throwing away what cannot be read; its batch size is the
best of those tried. Both write crystals until the number asked for is reached, in turns; each side's best turn counts.
A crystal is valid if it can be read, its cell has a volume, and no two atoms are nearer than 0.5 angstrom. The share of
the arithmetic limit is what the tokens written would take at 2 operations a parameter and token, at the speed of
matrix products of this network's shapes.

    python benchmarks/sampling.py --ckpt RUN_OR_FOLDER [--crystals 64] [--batches 8,16,32,64] [--threads 2] [--turns 2]
    python benchmarks/sampling.py                      # untrained: tokens a second of crystals of a set length

Without a checkpoint the weights are those of SmolLM2-135M, which writes nothing that can be read: then ``generate`` is
made to write as many tokens as a crystal of ``--atoms`` atoms has, and so is our side; validity is not compared.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from crystalfm.chem.crystal_text import CrystalTextError, CrystalTextFormat
from crystalfm.chem.crystals import CrystalError, checked
from crystalfm.generation.constraints import Constraint
from crystalfm.generation.engines.transformers_engine import TransformersEngine
from crystalfm.generation.prompts import PromptSettings, generation_prompt
from crystalfm.generation.sampling import Request, SamplingSettings
from crystalfm.generation.writer import CrystalWriter


@dataclass(frozen=True)
class Turn:
    """What a side wrote in a turn.

    Attributes:
        crystals: texts written, valid or not.
        readable: how many can be read.
        valid: how many are valid.
        tokens: tokens written, without padding.
        wall: seconds.
        cpu: seconds of computing, of all threads.
    """

    crystals: int
    readable: int
    valid: int
    tokens: int
    wall: float
    cpu: float

    @property
    def rate(self) -> float:
        """Valid crystals a second; of untrained weights all crystals."""
        return (self.valid or self.crystals) / self.wall

    def row(self, name: str, limit: float) -> str:
        """Return a row of the table; ``limit`` is in tokens a second."""
        return (
            f"{name:34s} {self.crystals:5d} {self.readable / self.crystals:7.1%} {self.valid / self.crystals:7.1%}"
            f" {self.rate:8.2f} {self.tokens / self.wall:8.0f} {self.tokens / self.cpu:9.0f}"
            f" {self.tokens / self.wall / limit:7.1%}"
        )


HEADER = f"{'side':34s} texts    read   valid  valid/s tokens/s    /CPU s   limit"


class Clock:
    """Wall-clock and CPU seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return the seconds."""
        return time.perf_counter() - self.start[0], time.process_time() - self.start[1]


def judged(texts: list[str], text_format: CrystalTextFormat) -> tuple[int, int]:
    """Return how many texts can be read, and how many of them are valid crystals."""
    readable = valid = 0
    for text in texts:
        try:
            crystal = text_format.read(text)
        except CrystalTextError:
            continue
        readable += 1
        try:
            checked(crystal)
        except CrystalError:
            continue
        valid += 1
    return readable, valid


class Bench:
    """Both sides with one writer.

    Args:
        writer: model and tokenizer.
        arguments: command line.
    """

    def __init__(self, writer: CrystalWriter, arguments: argparse.Namespace) -> None:
        self.writer = writer
        self.engine = TransformersEngine(writer, arguments.precision)
        self.arguments = arguments
        self.prompt = generation_prompt({}, writer.prompts)
        self.trained = arguments.ckpt is not None
        self.constraint = Constraint(max_atoms=arguments.max_atoms)
        self.length: int | None = None
        if not self.trained:
            atoms = arguments.atoms
            self.constraint = Constraint("formula", {"Na": atoms - 1, "Cl": 1}, max_atoms=atoms)
            sample = next(self.engine.sample([self.request(0)], self.settings(1)))
            self.length = sample.num_tokens

    def request(self, index: int) -> Request:
        """Return a request."""
        return Request(index, self.prompt, "generate", self.constraint)

    def settings(self, batch_size: int) -> SamplingSettings:
        """Return how tokens are drawn."""
        given = self.arguments
        return SamplingSettings(
            given.temperature, given.top_p, max_new_tokens=given.max_new_tokens, seed=given.seed, batch_size=batch_size
        )

    def ours(self, batch_size: int) -> Turn:
        """Write crystals with our sampler."""
        requests = [self.request(index) for index in range(self.arguments.crystals)]
        clock = Clock()
        samples = list(self.engine.sample(requests, self.settings(batch_size)))
        wall, cpu = clock.read()
        readable, valid = judged([sample.text for sample in samples], self.writer.prompts.text)
        valid = valid if self.trained else 0
        return Turn(len(samples), readable, valid, sum(sample.num_tokens for sample in samples), wall, cpu)

    @torch.inference_mode()
    def plain(self, batch_size: int) -> Turn:
        """Write crystals with ``generate``."""
        given = self.arguments
        tokenizer, model = self.writer.tokenizer, self.writer.model
        prompt = torch.tensor([self.writer.prompt_ids(self.prompt)] * batch_size)
        forced = {} if self.length is None else {"min_new_tokens": self.length}
        end = tokenizer.eos_token_id
        torch.manual_seed(given.seed)
        texts: list[str] = []
        tokens = 0
        clock = Clock()
        while len(texts) < given.crystals:
            written = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=True, temperature=given.temperature,
                top_p=given.top_p, top_k=0, max_new_tokens=self.length or given.max_new_tokens, eos_token_id=end,
                pad_token_id=end, **forced,
            )[:, prompt.shape[1] :].tolist()  # fmt: skip
            for ids in written:
                kept = ids[: ids.index(end)] if end in ids else ids
                tokens += min(len(kept) + 1, len(ids))
                texts.append(tokenizer.decode(kept, clean_up_tokenization_spaces=False))
        wall, cpu = clock.read()
        return Turn(len(texts), *judged(texts, self.writer.prompts.text), tokens, wall, cpu)

    def limit(self) -> float:
        """Return the tokens a second at which the network's matrix products would run without anything else."""
        config = self.writer.model.config
        weight = next(self.writer.model.parameters())
        width, inner = config.hidden_size, config.intermediate_size
        product = torch.randn(512, width, dtype=weight.dtype) @ torch.randn(width, inner, dtype=weight.dtype)
        first, second = torch.randn(512, width, dtype=weight.dtype), torch.randn(inner, width, dtype=weight.dtype)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(20):
                product = torch.nn.functional.linear(first, second)
            best = min(best, (time.perf_counter() - start) / 20)
        speed = 2 * product.shape[0] * width * inner / best
        parameters = sum(parameter.numel() for parameter in self.writer.model.parameters())
        print(f"matrix products: {speed / 1e12:.3f} TFLOP/s; {parameters / 1e6:.1f} M parameters")
        return speed / (2 * parameters)


def writer_of(arguments: argparse.Namespace) -> CrystalWriter:
    """Return the model."""
    from crystalfm.assets.store import AssetStore

    store = AssetStore(
        os.environ.get("CRYSTALFM_CACHE", "~/.cache/crystalfm"), mirror=os.environ.get("CRYSTALFM_MIRROR")
    )
    if arguments.ckpt is not None:
        from crystalfm.run.language.restore import restore_writer

        writer = restore_writer(arguments.ckpt, store)
        merge = getattr(writer.model, "merge_and_unload", None)
        return writer if merge is None else replace(writer, model=merge().eval())
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = next(store.fetch("smollm2_135m").folder.rglob("*.gguf"))
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    return CrystalWriter(model.eval(), tokenizer, PromptSettings())


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", help="run of model=crystal_llm, or folder of crystalfm export")
    parser.add_argument("--crystals", type=int, default=64)
    parser.add_argument("--atoms", type=int, default=9, help="atoms of a crystal where there is no checkpoint")
    parser.add_argument("--max-atoms", type=int, default=20)
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--batches", default="8,16,32,64", help="batch sizes of the plain way")
    parser.add_argument("--batch", type=int, default=64, help="our batch size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench = Bench(writer_of(arguments), arguments)
    limit = bench.limit()
    kind = arguments.ckpt or f"untrained weights, {bench.length} tokens a crystal"
    print(f"{kind}; {bench.engine.model.dtype}, {arguments.threads} threads\n{HEADER}")
    plain: dict[int, Turn] = {}
    for size in map(int, arguments.batches.split(",")):
        plain[size] = bench.plain(size)
        print(plain[size].row(f"generate, batch {size}", limit), flush=True)
    size = max(plain, key=lambda tried: plain[tried].rate)
    best, ours = plain[size], bench.ours(arguments.batch)
    print(ours.row(f"crystalfm, batch {arguments.batch}", limit), flush=True)
    for _ in range(arguments.turns - 1):
        best = max(best, bench.plain(size), key=lambda turn: turn.rate)
        ours = max(ours, bench.ours(arguments.batch), key=lambda turn: turn.rate)
    print(best.row(f"best of generate, batch {size}", limit))
    print(ours.row("best of crystalfm", limit))
    per_cpu = ((ours.valid or ours.crystals) / ours.cpu) / ((best.valid or best.crystals) / best.cpu)
    print(f"ratio: {ours.rate / best.rate:.2f} by the clock, {per_cpu:.2f} by CPU seconds")


if __name__ == "__main__":
    main()
