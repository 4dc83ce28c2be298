"""Settings of classes, read from source."""

import ast
import inspect
import subprocess
import sys

import pytest

from crystalfm.config.schema import TrainerSettings
from crystalfm.config.signatures import _module, read_signature, require_allowed
from crystalfm.contracts import UserError
from crystalfm.data.dataset import Dataset, SharedSettings


def test_settings_and_runtime_arguments_of_a_model():
    signature = read_signature("crystalfm.models.llm_fusion.LLMFusion")
    assert {"encoders", "llm", "targets", "scaling", "optimizer", "scheduler"} == signature.runtime
    assert signature.settings["loss"].type.choices == ("mse", "mae", "huber", "smooth_l1")
    assert signature.settings["dropout"].default == "0.0"
    assert not signature.settings["dropout"].required


def test_required_settings_of_a_data_set():
    settings = read_signature("crystalfm.data.table.MoleculeTable").settings
    assert {name for name, setting in settings.items() if setting.required} == {"path", "targets"}
    assert settings["targets"].type.accepts(["gap"])
    assert "store" not in settings
    assert "seed" not in settings


def test_keywords_handed_on_to_a_base_class_are_read_there():
    taken = set(inspect.signature(Dataset.__init__).parameters) - {"self"}
    assert set(SharedSettings.__annotations__) == taken - {"targets", "batch_size", "eval_batch_size"}
    crystals = read_signature("crystalfm.data.crystal_folder.CrystalFolder")
    assert taken - {"store", "seed"} < set(crystals.settings)
    assert {"store", "seed"} <= crystals.runtime
    assert crystals.settings["test_fraction"].default == "0.1"
    # Where both list a keyword, the class's own counts.
    assert crystals.settings["batch_size"].default == "64"
    assert crystals.settings["targets"].required


def test_dataclass_fields_with_default_factories():
    settings = read_signature("crystalfm.models.settings.OptimizerSettings").settings
    assert settings["betas"].default == "[0.9, 0.999]"
    assert list(settings) == ["name", "lr", "weight_decay", "betas", "momentum"]


def test_defaults_are_those_of_the_class():
    settings = read_signature("crystalfm.config.schema.TrainerSettings").settings
    trainer = TrainerSettings()
    assert {name: ast.literal_eval(setting.default) for name, setting in settings.items()} == vars(trainer)


def test_aliases_and_base_classes_are_followed():
    module = _module("crystalfm.models.settings")
    assert module.lookup("LossName") is not None
    assert module.lookup("NoSuchAlias") is None
    assert read_signature("crystalfm.config.problems.ConfigError").runtime == {"problems"}
    assert read_signature("crystalfm.run.callbacks.NonFiniteLossError").settings["message"].required


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "torch.load",
        "torch.hub.load",
        "builtins.eval",
        "crystalfm",
        "crystalfm.x",
        "crystalfmx.a.B",
        "crystalfm.models..LLMFusion",
        "crystalfm.models.llm_fusion.LLMFusion()",
        "",
        "crystalfm.config.__import__('os').x",
    ],
)
def test_targets_outside_the_package_are_refused(path):
    with pytest.raises(UserError, match="is refused"):
        require_allowed(path)


@pytest.mark.parametrize("path", ["crystalfm.models.llm_fusion.NoSuchModel", "crystalfm.no_such_module.Thing"])
def test_unknown_classes(path):
    with pytest.raises(UserError, match="there is no such class"):
        read_signature(path)


def test_reading_imports_nothing():
    code = (
        "import sys; from crystalfm.config.signatures import read_signature;"
        "read_signature('crystalfm.models.llm_fusion.LLMFusion');"
        "read_signature('crystalfm.encoders.tokens.TokenTransformerEncoder');"
        "sys.exit(any(name in sys.modules for name in ('torch', 'crystalfm.models.llm_fusion', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
