"""Accelerators, found without torch."""

import subprocess

import pytest

from crystalfm.config import devices


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
