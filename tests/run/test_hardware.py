"""What ``auto`` means on machines of many kinds."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from omegaconf import DictConfig, OmegaConf

from crystalfm.run.parallel import hardware
from crystalfm.run.parallel.sharding import ShardedStrategy


def trainer(**changed: object) -> DictConfig:
    settings = {"accelerator": "auto", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "auto"}
    return OmegaConf.create({"trainer": settings | {"deterministic": False} | changed})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without GPU and without bfloat16, to be changed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: False)
    return monkeypatch


def with_gpus(machine: pytest.MonkeyPatch, number: int, *, bf16: bool = True) -> None:
    machine.setattr(torch.cuda, "is_available", lambda: True)
    machine.setattr(torch.cuda, "device_count", lambda: number)
    machine.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("processor : 0\nflags : sse avx512_bf16\n", True),
        ("Features : asimd bf16\n", True),
        ("flags : sse avx512f\n", False),
        ("model name : avx512_bf16\n", False),
        (None, False),
    ],
)
def test_bfloat16_of_a_cpu(tmp_path: Path, text: str | None, known: bool) -> None:
    info = tmp_path / "cpuinfo"
    if text is not None:
        info.write_text(text)
    assert hardware.cpu_has_bf16(info) is known


def test_precision_follows_the_cpu(machine: pytest.MonkeyPatch) -> None:
    assert hardware.resolve_precision(trainer()) == "32-true"
    machine.setattr(hardware, "cpu_has_bf16", lambda: True)
    assert hardware.resolve_precision(trainer()) == "bf16-mixed"
    assert hardware.resolve_precision(trainer(strategy="fsdp", devices=2)) == "bf16-mixed"
    assert hardware.resolve_precision(trainer(precision="64-true")) == "64-true"
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    assert hardware.resolve_precision(trainer()) == "32-true"


def test_precision_follows_the_gpu(machine: pytest.MonkeyPatch) -> None:
    with_gpus(machine, 1)
    assert hardware.resolve_precision(trainer()) == "bf16-mixed"
    assert hardware.resolve_precision(trainer(accelerator="cpu")) == "32-true"
    with_gpus(machine, 1, bf16=False)
    assert hardware.resolve_precision(trainer(accelerator="gpu")) == "32-true"


def test_devices_are_counted(machine: pytest.MonkeyPatch) -> None:
    assert hardware.num_devices(trainer(devices="auto")) == 1
    assert hardware.num_devices(trainer(devices=3)) == 3
    with_gpus(machine, 8)
    assert hardware.num_devices(trainer(devices="auto")) == 8
    assert hardware.num_devices(trainer(devices=-1)) == 8
    assert hardware.num_devices(trainer(devices=[0, 5])) == 2
    assert hardware.num_devices(trainer(devices="auto", accelerator="cpu")) == 1


def test_strategy_follows_the_number_of_devices(machine: pytest.MonkeyPatch) -> None:
    assert hardware.resolve_strategy(trainer(devices="auto")) == "auto"
    assert isinstance(hardware.resolve_strategy(trainer(devices=2)), DDPStrategy)
    assert isinstance(hardware.resolve_strategy(trainer(num_nodes=2)), DDPStrategy)
    with_gpus(machine, 4)
    assert isinstance(hardware.resolve_strategy(trainer(devices="auto")), DDPStrategy)
    assert isinstance(hardware.resolve_strategy(trainer(strategy="ddp")), DDPStrategy)


def test_unused_parameters_are_looked_for_when_asked() -> None:
    for name, expected in (("ddp", False), ("ddp_find_unused_parameters_true", True)):
        strategy = hardware.resolve_strategy(trainer(devices=2, strategy=name))
        assert isinstance(strategy, DDPStrategy)
        assert strategy._ddp_kwargs["find_unused_parameters"] is expected


def test_weights_are_shared_among_all_processes_of_all_machines(machine: pytest.MonkeyPatch) -> None:
    with_gpus(machine, 4)
    strategy = hardware.resolve_strategy(trainer(strategy="fsdp", devices="auto", num_nodes=2))
    assert isinstance(strategy, ShardedStrategy)
    assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == (8, 1)
    assert not strategy._save_distributed_checkpoint


@pytest.mark.parametrize(("devices", "first"), [(2, 1), ("auto", 1), ([3, 4], [3])])
def test_one_process_takes_the_first_device(devices: object, first: object) -> None:
    arguments = hardware.one_device_arguments(trainer(devices=devices, strategy="fsdp", num_nodes=2))
    assert (arguments["devices"], arguments["num_nodes"], arguments["strategy"]) == (first, 1, "auto")


@pytest.mark.parametrize("make", [DDPStrategy, lambda: ShardedStrategy(3)])
def test_processes_to_start(make) -> None:
    strategy = make()
    strategy.parallel_devices = [torch.device("cpu")] * 3
    strategy.cluster_environment = SimpleNamespace(creates_processes_externally=False)
    assert hardware.local_processes(SimpleNamespace(strategy=strategy)) == 3
    strategy.cluster_environment = SimpleNamespace(creates_processes_externally=True)
    assert hardware.local_processes(SimpleNamespace(strategy=strategy)) is None
    assert hardware.local_processes(SimpleNamespace(strategy=SingleDeviceStrategy("cpu"))) is None


def test_cpu_processes_of_one_command_share_its_threads(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch, "get_num_threads", lambda: 8)
    for name in ("LOCAL_RANK", "RANK", "NODE_RANK", "SLURM_PROCID", "SLURM_NTASKS"):
        machine.delenv(name, raising=False)
    assert hardware.threads_of_a_process(trainer(num_threads=None)) is None
    assert hardware.threads_of_a_process(trainer(num_threads=3, devices=2)) == 3
    assert hardware.threads_of_a_process(trainer(num_threads=None, devices=2)) == 4
    assert hardware.threads_of_a_process(trainer(num_threads=None, devices=16)) == 1
    machine.setenv("LOCAL_RANK", "1")
    assert hardware.threads_of_a_process(trainer(num_threads=None, devices=2)) is None
    machine.delenv("LOCAL_RANK")
    with_gpus(machine, 2)
    assert hardware.threads_of_a_process(trainer(num_threads=None, devices=2)) is None


def test_the_cache_of_kernels_is_bounded_unless_somebody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    hardware.bound_kernel_cache()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    hardware.bound_kernel_cache()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
