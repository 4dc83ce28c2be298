"""Where the installer takes PyTorch from."""

import importlib.util
import json
import subprocess

import pytest

CPU = "https://download.pytorch.org/whl/cpu"


def report(*names):
    return json.dumps({"install": [{"metadata": {"name": name}} for name in names]})


@pytest.fixture
def installer(repository, monkeypatch):
    """The module scripts/install.py on a machine without a CUDA device and without settings."""
    spec = importlib.util.spec_from_file_location("install_script", repository / "scripts" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("TORCH_INDEX_URL", raising=False)
    monkeypatch.setattr(module, "has_cuda_device", lambda: False)
    return module


@pytest.fixture
def pip(installer, monkeypatch):
    """Stands for pip: keeps its arguments, answers with ``answer`` and ``code``."""

    class Pip:
        def __init__(self):
            self.answer = report("torch")
            self.code = 0
            self.calls = []

        def __call__(self, *arguments, quiet=True):
            self.calls.append(arguments)
            return subprocess.CompletedProcess(arguments, self.code, self.answer)

    stand_in = Pip()
    monkeypatch.setattr(installer, "pip", stand_in)
    return stand_in


def test_torch_is_pinned(installer):
    assert installer.pinned("torch") == "torch==2.13.0"
    with pytest.raises(SystemExit, match="does not pin nothing-like-this"):
        installer.pinned("nothing-like-this")


def test_cuda_packages_are_recognised(installer):
    text = report("torch", "nvidia-cublas", "NVIDIA-nccl-cu13", "cuda-bindings", "numpy")
    assert installer.cuda_packages(text) == ["cuda-bindings", "nvidia-cublas", "nvidia-nccl-cu13"]


def test_a_cpu_build_comes_from_pips_own_index(installer, pip):
    assert installer.torch_index("torch==1") is None
    assert "--dry-run" in pip.calls[0]


def test_cuda_packages_without_a_device_lead_to_the_cpu_index(installer, pip, capsys):
    pip.answer = report("torch", "nvidia-cublas")
    assert installer.torch_index("torch==1") == CPU
    assert "no CUDA device" in capsys.readouterr().out


def test_with_a_device_pip_decides(installer, pip, monkeypatch):
    monkeypatch.setattr(installer, "has_cuda_device", lambda: True)
    assert installer.torch_index("torch==1") is None
    assert pip.calls == []


def test_the_variable_decides_before_everything_else(installer, pip, monkeypatch):
    monkeypatch.setenv("TORCH_INDEX_URL", "https://example.org/whl")
    assert installer.torch_index("torch==1") == "https://example.org/whl"
    assert pip.calls == []
    installer.install_torch()
    assert pip.calls == [("install", "--index-url", "https://example.org/whl", "torch==2.13.0")]


def test_an_index_that_fails_names_the_remedy(installer, pip, monkeypatch):
    monkeypatch.setenv("TORCH_INDEX_URL", "https://example.org/whl")
    pip.code = 1
    with pytest.raises(SystemExit, match="set TORCH_INDEX_URL"):
        installer.install_torch()


def test_a_version_that_does_not_exist_stops(installer, pip):
    pip.code = 1
    with pytest.raises(SystemExit, match="pip finds no torch==9"):
        installer.torch_index("torch==9")


def test_the_project_is_installed_with_the_constraints(installer, pip, repository):
    assert installer.main(["dev", "llm"]) == 0
    constraints = str(repository / "constraints.txt")
    assert pip.calls[-1] == ("install", "-c", constraints, "--editable", f"{repository}[dev,llm]")


def test_an_old_python_is_refused(installer, pip, monkeypatch, capsys):
    monkeypatch.setattr(installer.sys, "version_info", (3, 10, 0))
    assert installer.main([]) == 1
    assert "Python 3.11 to 3.13" in capsys.readouterr().out
    assert pip.calls == []
