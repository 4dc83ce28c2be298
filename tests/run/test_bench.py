"""What bench reports is what happened: rows, tokens, time by phase, arithmetic; and it leaves nothing else behind."""

from __future__ import annotations

import csv
import json
import multiprocessing
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_helpers import SIZES, TINY_GENERATOR, write_salts
from lightning.pytorch.profilers import Profiler
from rich.console import Console
from run_helpers import TINY, MakeConfig, molecules
from torch import nn

from crystalfm.assets.store import AssetStore
from crystalfm.cli.main import main
from crystalfm.config import bench as bench_config
from crystalfm.config import devices
from crystalfm.config.preflight import check_config
from crystalfm.config.problems import ConfigError
from crystalfm.contracts import UserError
from crystalfm.data.batches import RecordDataset
from crystalfm.report.throughput import throughput_table
from crystalfm.run import bench as bench_module
from crystalfm.run import throughput
from crystalfm.run.bench import BenchError, add_scaling, bench, measure, measured_config, measured_session
from crystalfm.run.folder import RunFolder
from crystalfm.run.language.session import LanguageSession
from crystalfm.run.network import NetworkSession
from crystalfm.run.prepare import PreparedData
from crystalfm.run.throughput import (
    StepMeasurements,
    ThroughputMeter,
    combine,
    count_flops,
    count_tokens,
    device_peak_flops,
)
from crystalfm.run.trainer_session import TrainerSession

NUM_TRAINED = 48
"""Training rows of the table of 60: six batches of eight an epoch."""

EPOCH = ["bench.warmup=6", "bench.steps=6", "bench.processes=[1]"]
"""Warm up for one epoch and measure the next one, so that every row is counted once."""


Started = tuple[TrainerSession, ThroughputMeter, PreparedData]


def started(make_config: MakeConfig, folder: Path, *overrides: str) -> Started:
    """Return a session about to measure, its meter, and its data."""
    cfg = measured_config(make_config(*EPOCH, *overrides, config="bench"))
    store = AssetStore(folder / "assets", offline=True)
    return measured_session(cfg, RunFolder(folder / "run"), store, Console(quiet=True))


def measurements(run: Started) -> StepMeasurements:
    """Train and return what the meter found."""
    session, meter, _ = run
    session.fit(None)
    assert meter.measured is not None
    return meter.measured


def network(run: Started) -> nn.Module:
    """Return the network that is trained."""
    session = run[0]
    assert isinstance(session, (NetworkSession, LanguageSession))
    return session.module


def test_one_epoch_is_counted_exactly(make_config: MakeConfig, tmp_path: Path) -> None:
    run = started(make_config, tmp_path)
    measured, prepared = measurements(run), run[2]
    lengths = prepared.stores["smiles"].lengths
    assert lengths is not None
    assert len(prepared.splits.train) == measured.num_rows == NUM_TRAINED
    assert measured.num_tokens == int(lengths[prepared.splits.train].sum())
    assert measured.num_padded_tokens >= measured.num_tokens
    assert measured.num_batches == len(measured.step_seconds) == 6
    assert sum(measured.step_seconds) == pytest.approx(measured.seconds)
    assert all(seconds > 0 for seconds in measured.phase_seconds.values())
    assert sum(measured.phase_seconds.values()) < measured.seconds
    assert measured.flops > 0
    assert measured.peak_memory_gib > 0.05
    assert measured.peak_device_memory_gib is None


def test_nothing_but_metrics_is_written(make_config: MakeConfig, tmp_path: Path) -> None:
    overrides = ["callbacks.checkpoint_every_n_steps=1", "callbacks.early_stopping_patience=1", "logger=tensorboard"]
    run = started(make_config, tmp_path, *overrides)
    before = {name: tensor.clone() for name, tensor in network(run).state_dict().items()}
    measurements(run)
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["metrics.csv"]
    after = network(run).state_dict()
    assert any(not torch.equal(tensor, after[name]) for name, tensor in before.items())  # it did train


def test_accumulated_batches_belong_to_one_step(make_config: MakeConfig, tmp_path: Path) -> None:
    overrides = ["trainer.accumulate_grad_batches=2", "bench.warmup=3", "bench.steps=3"]
    measured = measurements(started(make_config, tmp_path, *overrides))
    assert (measured.num_batches, len(measured.step_seconds), measured.num_rows) == (6, 3, NUM_TRAINED)
    assert sum(measured.step_seconds) == pytest.approx(measured.seconds)


DELAY_SECONDS = 0.1


def slow_data(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    original = RecordDataset.__getitems__

    def late(self: RecordDataset, rows: list[int]) -> Any:
        time.sleep(DELAY_SECONDS)
        return original(self, rows)

    monkeypatch.setattr(RecordDataset, "__getitems__", late)


def slow_network(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    module.register_forward_pre_hook(lambda module, inputs: time.sleep(DELAY_SECONDS))


def slow_gradient(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    parameter = next(item for item in module.parameters() if item.requires_grad)
    parameter.register_hook(lambda gradient: time.sleep(DELAY_SECONDS))


def slow_clipping(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "configure_gradient_clipping", lambda *_, **__: time.sleep(DELAY_SECONDS), raising=True)


@pytest.mark.parametrize(
    ("slow", "phase"),
    [(slow_data, "waiting"), (slow_network, "forward"), (slow_gradient, "backward"), (slow_clipping, "optimizer")],
)
def test_a_delay_shows_where_it_is(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: Any, phase: str
) -> None:
    run = started(make_config, tmp_path, "bench.warmup=1", "bench.steps=4")
    slow(network(run), monkeypatch)
    measured = measurements(run)
    delayed = 4 * DELAY_SECONDS
    assert delayed <= measured.phase_seconds[phase] <= measured.seconds
    elsewhere = {name: seconds for name, seconds in measured.phase_seconds.items() if name != phase}
    assert all(seconds < delayed for seconds in elsewhere.values()), elsewhere
    shares = combine([vars(measured)])["shares"]
    assert 0.3 < shares[phase] <= 1
    assert all(0 <= share <= 1 for share in shares.values())


def test_measure_writes_what_it_found(make_config: MakeConfig, tmp_path: Path) -> None:
    target = tmp_path / "measured.json"
    returned = measure(make_config(*EPOCH, "data.limit=40", config="bench"), tmp_path / "run", target)
    found = json.loads(target.read_text())
    assert returned == {"rows_per_second": found["rows_per_second"]}
    assert found["rows_per_second"] * found["seconds"] == pytest.approx(found["rows"])
    assert found["tokens_per_second"] * found["seconds"] == pytest.approx(found["tokens"])
    assert found["tflops_per_second"] * found["seconds"] == pytest.approx(found["gflop_per_step"] * 6 / 1000)
    assert 0 <= found["padding_share"] < 1
    assert 0 < found["step_seconds_median"] <= found["step_seconds_p90"]
    assert (found["processes"], found["device"], found["precision"], found["mfu"]) == (1, "cpu", "32-true", None)
    assert (found["train_rows"], found["batch_size"], found["steps"]) == (32, 8, 6)
    assert found["parameters"] == found["trainable_parameters"] > 0


def test_a_generator_is_measured_too(make_config: MakeConfig, tmp_path: Path) -> None:
    salts = [f"data.path={write_salts(tmp_path / 'salts')}", "model.conditions=[formula]", "model.translate=false"]
    plain = ["model.infill_fraction=0", "model.max_conditions=0"]
    words = [*EPOCH, *TINY_GENERATOR, *salts, *plain]
    cfg = measured_config(make_config(*words, config="bench", tiny=False))
    store = AssetStore(tmp_path / "assets", offline=True)
    run = measured_session(cfg, RunFolder(tmp_path / "run"), store, Console(quiet=True))
    measured, prepared = measurements(run), run[2]
    costs = prepared.stores["crystal_text"].costs
    assert costs is not None
    assert measured.num_rows == SIZES["train"]
    assert measured.num_tokens == int(costs[prepared.splits.train].sum())
    assert measured.num_padded_tokens > measured.num_tokens
    assert measured.flops > 0
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["metrics.csv"]


def test_a_training_that_ends_early_is_told(make_config: MakeConfig, tmp_path: Path) -> None:
    cfg = make_config(*EPOCH, "trainer.limit_train_batches=0", config="bench")
    with pytest.raises(UserError, match="ended before the measurement"):
        measure(cfg, tmp_path / "run", tmp_path / "measured.json")
    assert not (tmp_path / "measured.json").exists()


def test_cores_are_shared(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)

    def threads(*overrides: str) -> int | None:
        found: int | None = measured_config(make_config(*overrides, config="bench")).trainer.num_threads
        return found

    assert threads("bench.processes=[1]") == 8
    assert threads("bench.processes=[2]") == 4
    assert threads("bench.processes=[16]") == 1
    assert threads("bench.processes=[2]", "trainer.num_threads=3") == 3


def test_tokens_are_counted_without_padding() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    description = torch.tensor([[True, False], [False, False]])
    row = torch.tensor([4, 5])
    batch = {"row": row, "smiles.mask": mask, "description.mask": description, "smiles.present": row > 0}
    assert count_tokens(batch).tolist() == [5, 10]
    assert count_tokens({"row": row}).tolist() == [0, 0]
    packed = torch.tensor([[0, 0, 1], [2, -1, -1]])
    assert count_tokens({"row": row, "crystal_text.segments": packed}).tolist() == [4, 6]


class Linear(nn.Module):
    """A layer whose arithmetic is known."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.layer(batch["x"])

    def training_loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self(batch).sum()


class Attention(Linear):
    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        x = batch["x"]
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_arithmetic_of_a_layer() -> None:
    # Forward, and the gradient of the weights; the input needs none.
    assert count_flops(Linear(), {"x": torch.ones(7, 3)}, nullcontext()) == 2 * 2 * 7 * 3 * 5


def test_arithmetic_of_attention_on_a_cpu() -> None:
    x = torch.ones(2, 4, 16, 8, requires_grad=True)
    product = 2 * 2 * 4 * 16 * 16 * 8
    # Two products forward; backward four, and one of the forward pass again.
    assert count_flops(Attention(), {"x": x}, nullcontext()) == 7 * product


def test_peak_of_a_known_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA A100-SXM4-80GB")
    cuda = torch.device("cuda")
    assert device_peak_flops(cuda, "bf16-mixed") == device_peak_flops(cuda, "16-true") == 312e12
    assert device_peak_flops(cuda, "64-true") == 9.7e12
    assert device_peak_flops(torch.device("cpu"), "bf16-mixed") is None


def part(**changes: Any) -> dict[str, Any]:
    phases = {"waiting": 0.5, "forward": 1.0, "backward": 2.0, "optimizer": 0.25}
    known = StepMeasurements(4.0, [1.0, 1.0, 1.0, 1.0], phases, 4, 32, 100, 200, 1.5, None, 8e12, None)
    return {**vars(known), **changes}


def test_processes_are_added_up() -> None:
    found = combine([part(), part(seconds=5.0, num_rows=28, num_tokens=150)], peak_tflops=2.0)
    assert (found["rows"], found["tokens"], found["seconds"], found["peak_memory_gib"]) == (60, 250, 5.0, 3.0)
    assert (found["rows_per_second"], found["tokens_per_second"], found["padding_share"]) == (12, 50, 0.375)
    assert found["gflop_per_step"] == 4000
    assert found["tflops_per_second"] == pytest.approx(16 / 5)
    assert found["mfu"] == pytest.approx(16 / 5 / (2 * 2.0))
    assert found["shares"]["waiting"] == pytest.approx((0.5 / 4 + 0.5 / 5) / 2)


def test_on_a_gpu_no_phase_but_waiting_is_told() -> None:
    parts = [part(peak_device_memory_gib=memory, peak_flops=312e12) for memory in (3.0, 4.0)]
    found = combine(parts)
    assert found["shares"].keys() == {"waiting"}
    assert found["peak_device_memory_gib"] == 4.0
    assert found["mfu"] == pytest.approx(16e12 / 4 / 624e12)


def test_without_tokens_there_is_no_rate_of_them() -> None:
    found = combine([part(num_tokens=0, num_padded_tokens=0)])
    assert (found["tokens_per_second"], found["padding_share"]) == (None, None)


def test_scaling_is_per_unit_of_hardware() -> None:
    on_cpu = [
        {"processes": number, "num_threads": 4 // number, "on_gpu": False, "rows_per_second": rate}
        for number, rate in ((1, 100.0), (2, 150.0))
    ]
    on_gpu = [{**run, "on_gpu": True} for run in on_cpu]
    add_scaling(on_cpu)
    add_scaling(on_gpu)
    assert [(run["speedup"], run["scaling_efficiency"]) for run in on_cpu] == [(1.0, 1.0), (1.5, 1.5)]
    assert [(run["speedup"], run["scaling_efficiency"]) for run in on_gpu] == [(1.0, 1.0), (1.5, 0.75)]


def shown(runs: list[dict[str, Any]]) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(throughput_table(runs))
    return captured.get()


def test_table_leaves_out_what_nobody_has() -> None:
    run = {
        "processes": 1,
        "num_threads": 2,
        "on_gpu": False,
        "parameters": 1_500_000,
        "device": "cpu",
        **combine([part()]),
    }
    add_scaling([run])
    text = shown([run])
    assert "1.5 M" in text
    assert "2,000" in text  # GFLOP
    assert "12.5 %" in text  # waiting
    for absent in ("MFU", "device memory", "speed-up", "None"):
        assert absent not in text
    two = {**run, "processes": 2, "rows_per_second": 12_000.0, "speedup": 1500.0}
    assert "speed-up" in shown([run, two])
    assert "12,000" in shown([run, two])


class FakeProcesses:
    """Stands in for the processes that measure: writes a result, or fails."""

    CODE = """
import json, os, sys
number = int(sys.argv[1])
if number == 2 and sys.argv[2]:
    print("out of luck")
    sys.exit(int(sys.argv[2]))
found = {"processes": number, "num_threads": 1, "on_gpu": False, "rows_per_second": 10.0 * number, "batch_size": 8,
         "shares": {}, "job": os.environ.get("SLURM_JOB_NAME"), "parent": os.environ["CRYSTALFM_PARENT_PID"]}
open(os.environ["CRYSTALFM_BENCH_RESULT"], "w").write(json.dumps(found))
"""

    def __init__(self, code: str = "") -> None:
        self.code = code

    def __call__(self, folder: Path, overrides: list[str]) -> list[str]:
        number = overrides[0].removeprefix("bench.processes=[").removesuffix("]")
        return [sys.executable, "-c", self.CODE, number, self.code]


def test_results_of_all_processes(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "rank_command", FakeProcesses())
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    output = tmp_path / "elsewhere" / "result.json"
    returned = bench(make_config(f"bench.output={output}", config="bench"), tmp_path / "run")
    assert returned == {"rows_per_second_1": 10.0, "rows_per_second_2": 20.0}
    report = json.loads(output.read_text())
    assert [run["scaling_efficiency"] for run in report["runs"]] == [1.0, 1.0]
    assert {run["job"] for run in report["runs"]} == {"bash"}  # no rank of the SLURM job
    assert report["hardware"]["cores"] >= 1
    assert report["environment"]["versions"]["torch"]
    assert report["config"]["bench"]["steps"] == 50
    assert not (tmp_path / "run" / "bench.json").exists()


@pytest.mark.parametrize(("code", "exit_code"), [("3", 3), ("2", 2)])
def test_a_failed_measurement_is_told_and_earlier_ones_kept(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, exit_code: int
) -> None:
    monkeypatch.setattr(bench_module, "rank_command", FakeProcesses(code))
    with pytest.raises(BenchError, match=f"with 2 processes ended with exit code {code}") as caught:
        bench(make_config(config="bench"), tmp_path / "run")
    assert "out of luck" in str(caught.value)
    assert caught.value.exit_code == exit_code
    report = json.loads((tmp_path / "run" / "bench.json").read_text())
    assert [run["processes"] for run in report["runs"]] == [1]


def test_what_bench_refuses(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="bench measures the training of networks"):
        bench(make_config("model=xgboost", config="bench"), tmp_path / "run")
    with pytest.raises(UserError, match="is a folder"):
        bench(make_config(f"bench.output={tmp_path}", config="bench"), tmp_path / "run")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match="starts its processes itself"):
        bench(make_config(config="bench"), tmp_path / "run")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bench.processes=[0,1]", "numbers from 1 on"),
        ("bench.processes=[]", "numbers from 1 on"),
        ("bench.processes=[2,2]", "numbers from 1 on"),
        ("bench.processes=two", "bench.processes"),
        ("bench.steps=0", "bench.steps"),
        ("bench.stps=5", "did you mean 'steps'"),
        ("bench.peak_tflops=0", "bench.peak_tflops"),
        ("ckpt=auto", "from its start"),
        ("trainer.num_nodes=2", "one machine"),
        ("encoder@encoders.smiles=morgan", "cannot encode smiles"),
    ],
)
def test_configuration_is_checked(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)" + message):
        check_config("bench", ["data=qm9", override])


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "torch_is_cpu_only", lambda: False)
    monkeypatch.setattr(devices, "has_mps", lambda: False)
    found = []
    for gpus in (0, 1, 2, 8):
        monkeypatch.setattr(devices, "num_cuda_devices", lambda gpus=gpus: gpus)
        found.append(bench_config.process_counts("auto", "auto"))
    assert found == [[1, 2], [1], [1, 2], [1, 2, 8]]
    assert bench_config.process_counts("auto", "cpu") == [1, 2]
    assert bench_config.process_counts([4, 1], "auto") == [1, 4]
    with pytest.raises(ConfigError, match="16 processes, but this process sees 8 GPUs"):
        check_config("bench", ["data=qm9", "bench.processes=[1,16]"])


def test_memory_of_loader_processes_is_seen() -> None:
    assert throughput._loader_memory_gib() == 0
    worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(30,))
    worker.start()
    try:
        deadline = time.monotonic() + 20
        while throughput._loader_memory_gib() == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert throughput._loader_memory_gib() > 0
    finally:
        worker.kill()
        worker.join()


def test_the_timer_hears_lightnings_own_names() -> None:
    timer = throughput.PhaseTimer()
    assert isinstance(timer, Profiler)
    for action in ("[Callback]Some.training_step", "run_training_batch", "[LightningModule]M.train_dataloader"):
        timer.start(action)
        timer.stop(action)
    assert set(timer.seconds.values()) == {0.0}
    timer.stop("[Strategy]S.backward")  # begun before anybody listened
    with timer.profile("[LightningModule]M.optimizer_step"), timer.profile("[Strategy]S.backward"):
        time.sleep(0.02)
    assert timer.seconds["backward"] >= 0.02
    assert timer.seconds["optimizer"] < 0.02


@pytest.mark.slow
def test_one_and_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with Path("molecules.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "smiles", "energy", "gap"])
        writer.writerows([f"m{i}", smiles, len(smiles), 0.1 * i] for i, smiles in enumerate(molecules(60)))
    own = ["data.path=molecules.csv", "data.id_column=name", "paths.cache=cache", "bench.steps=5", "bench.warmup=1"]
    assert main(["bench", *TINY, *own, "trainer.num_threads=1"]) == 0
    (folder,) = (tmp_path / "runs" / "bench").iterdir()
    report = json.loads((folder / "bench.json").read_text())
    one, two = report["runs"]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert (one["device"], two["device"]) == ("cpu", "2 x cpu")
    assert (one["num_threads"], two["num_threads"]) == (1, 1)
    assert one["data_hash"] == two["data_hash"]
    assert one["parameters"] == two["parameters"]
    assert (one["rows"], two["rows"]) == (40, 5 * 16)
    assert two["speedup"] == pytest.approx(two["rows_per_second"] / one["rows_per_second"])
    assert two["peak_memory_gib"] > 1.5 * one["peak_memory_gib"]
    assert np.isclose(two["tflops_per_second"] * two["seconds"] * 1000, two["gflop_per_step"] * 5)
    assert list((tmp_path / "runs").iterdir()) == [tmp_path / "runs" / "bench"]
    assert list(tmp_path.rglob("*.ckpt")) == []
    assert "waiting for data" in capsys.readouterr().out
