"""Accelerators, found without torch."""

import subprocess

import pytest

from crystalfm.config import devices
from crystalfm.config.compose import Composer
from crystalfm.config.preflight import preflight
from crystalfm.config.problems import ConfigError


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_DEVICE_FOLDER", tmp_path)
    monkeypatch.setattr(devices.shutil, "which", lambda _name: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def test_no_device(machine):
    assert devices.num_cuda_devices() == 0


def test_device_nodes_are_counted(machine):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (machine / name).touch()
    assert devices.num_cuda_devices() == 2


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,1,2", 2), ("GPU-1a2b", 1)])
def test_visible_devices_limit_the_count(machine, monkeypatch, visible, count):
    (machine / "nvidia0").touch()
    (machine / "nvidia1").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.num_cuda_devices() == count


def test_rocm(machine):
    (machine / "kfd").touch()
    (machine / "dri").mkdir()
    (machine / "dri" / "renderD128").touch()
    assert devices.num_cuda_devices() == 1


def test_nvidia_smi_where_there_are_no_device_nodes(machine, monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda _name: "/bin/nvidia-smi")
    answer = subprocess.CompletedProcess([], 0, stdout="GPU 0: A\nGPU 1: B\n")
    monkeypatch.setattr(devices.subprocess, "run", lambda *_args, **_kwargs: answer)
    assert devices.num_cuda_devices() == 2


def test_a_hanging_nvidia_smi_counts_as_none(machine, monkeypatch):
    def hang(*_args, **_kwargs):
        raise subprocess.TimeoutExpired("nvidia-smi", 5)

    monkeypatch.setattr(devices.shutil, "which", lambda _name: "/bin/nvidia-smi")
    monkeypatch.setattr(devices.subprocess, "run", hang)
    assert devices.num_cuda_devices() == 0


def test_mps_is_a_mac(monkeypatch):
    monkeypatch.setattr(devices.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(devices.platform, "machine", lambda: "arm64")
    assert devices.has_mps()
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
    assert not devices.has_mps()


def test_cpu_build_of_torch(monkeypatch):
    monkeypatch.setattr(devices.metadata, "version", lambda _name: "2.13.0+cpu")
    assert devices.torch_is_cpu_only()
    monkeypatch.setattr(devices.metadata, "version", lambda _name: "2.13.0")
    assert not devices.torch_is_cpu_only()


@pytest.fixture(scope="module")
def composer():
    with Composer("train") as composer:
        yield composer


def problems(composer, *overrides):
    """Return the keys with a problem and what is wrong."""
    try:
        preflight(composer, list(overrides))
    except ConfigError as error:
        return {problem.key: problem.message for problem in error.problems}
    return {}


@pytest.fixture
def two_gpus(machine, monkeypatch):
    for name in ("nvidia0", "nvidia1"):
        (machine / name).touch()
    monkeypatch.setattr(devices, "torch_is_cpu_only", lambda: False)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("option", ["default", "cpu", "gpu", "ddp", "fsdp"])
def test_every_trainer_fits_a_machine_with_two_gpus(composer, option):
    assert problems(composer, f"trainer={option}") == {}
    assert problems(composer, f"trainer={option}", "trainer.devices=2") == {}


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("option", ["default", "cpu", "ddp", "fsdp"])
def test_every_trainer_but_gpu_fits_a_machine_without_one(composer, option):
    assert problems(composer, f"trainer={option}", "trainer.devices=2") == {}
    assert problems(composer, "trainer=gpu").keys() == {"trainer.accelerator"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.precision=16-mixed", "16-mixed does not work with fsdp"),
        ("trainer.compile=true", "a compiled network cannot gather"),
        ("callbacks.ema_decay=0.99", "cannot be averaged"),
        ("data.eval_batch_size=1", "1 does not work with fsdp"),
    ],
)
def test_what_does_not_go_with_shared_weights(composer, override, message):
    key = override.partition("=")[0]
    found = problems(composer, "trainer=fsdp", "trainer.accelerator=cpu", override)
    assert found.keys() == {key}
    assert message in found[key]
    assert problems(composer, "trainer=ddp", "trainer.accelerator=cpu", override) == {}


@pytest.mark.parametrize("precision", ["auto", "32-true", "bf16-mixed", "bf16-true"])
def test_precisions_of_shared_weights(composer, precision):
    assert problems(composer, "trainer=fsdp", "trainer.accelerator=cpu", f"trainer.precision={precision}") == {}
