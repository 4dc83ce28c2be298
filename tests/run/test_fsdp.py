"""Processes that share the weights: the numbers of one process, checkpoints like any other's, exact resume."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from rank_runs import NO_DROPOUT, Runs, assert_close, ended, predictions_of
from run_helpers import MakeConfig, last_state
from torch import nn
from torch.distributed.fsdp import FSDPModule

from crystalfm.contracts import UserError
from crystalfm.models.sharding import is_sharded, sharded_units
from crystalfm.run.checkpoints.checkpointing import require_plain
from crystalfm.run.evaluate import evaluate
from crystalfm.run.train import train

SETTINGS = [
    *NO_DROPOUT,
    "llm.num_layers=2",
    "optimizer.lr=0.01",
    "trainer.max_epochs=3",
    "trainer.gradient_clip_val=0.5",
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Two runs of two processes: one uninterrupted, one stopped in mid-epoch and resumed."""
    runs = Runs(tmp_path_factory.mktemp("fsdp"), "fsdp")
    whole = ended(runs(*SETTINGS, "name=whole"), 0)
    assert whole.stderr == ""
    assert "2 x cpu" in whole.stdout
    stopped = ended(runs(*SETTINGS, "name=parts", fault="signal:1:4"), 143)
    assert "Traceback" not in stopped.stderr
    assert last_state(runs.only("parts"))["global_step"] == 5
    ended(runs(*SETTINGS, "name=parts", "ckpt=auto"), 0)
    return runs


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(shared: Runs, make_config: MakeConfig, tmp_path: Path) -> None:
    one = tmp_path / "one"
    train(make_config(*SETTINGS, f"data.path={shared.table(60)}", "data.batch_size=16"), one)
    assert_close(one, shared.only("whole"))
    first, second = (last_state(folder)["state_dict"] for folder in (one, shared.only("whole")))
    assert {name: weights.shape for name, weights in first.items()} == {
        name: weights.shape for name, weights in second.items()
    }


@pytest.mark.slow
def test_resume_in_mid_epoch_is_exact(shared: Runs) -> None:
    whole, parts = shared.only("whole"), shared.only("parts")
    uninterrupted, resumed = last_state(whole), last_state(parts)
    assert uninterrupted["state_dict"].keys() == resumed["state_dict"].keys()
    for name, weights in uninterrupted["state_dict"].items():
        assert torch.equal(weights, resumed["state_dict"][name]), name
    (one,), (two,) = uninterrupted["optimizer_states"], resumed["optimizer_states"]
    assert [group["params"] for group in one["param_groups"]] == [group["params"] for group in two["param_groups"]]
    assert one["state"].keys() == two["state"].keys()
    for name, moments in one["state"].items():
        assert moments["step"] == 9
        assert all(torch.equal(moments[key], two["state"][name][key]) for key in ("exp_avg", "exp_avg_sq")), name
    assert (whole / "metrics.csv").read_text() == (parts / "metrics.csv").read_text()
    assert predictions_of(whole) == predictions_of(parts)


@pytest.mark.slow
def test_a_checkpoint_is_one_plain_file_that_one_process_evaluates(
    shared: Runs, make_config: MakeConfig, tmp_path: Path
) -> None:
    folder = shared.only("whole")
    for name in ("best.ckpt", "last.ckpt"):
        checkpoint = torch.load(folder / "checkpoints" / name, weights_only=True)
        assert {type(tensor) for tensor in checkpoint["state_dict"].values()} == {torch.Tensor}
        require_plain(checkpoint)
    evaluate(make_config(f"ckpt={folder}", "trainer=cpu", config="evaluate", tiny=False), tmp_path / "evaluation")
    whole, alone = predictions_of(folder), predictions_of(tmp_path / "evaluation")
    tested = [row for row, split in enumerate(whole["split"]) if split == "test"]
    assert [whole["id"][row] for row in tested] == alone["id"]
    expected = torch.tensor([whole["gap_hartree_predicted"][row] for row in tested])
    torch.testing.assert_close(torch.tensor(alone["gap_hartree_predicted"]), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_another_number_of_processes_is_refused(shared: Runs, make_config: MakeConfig) -> None:
    folder = shared.only("parts")
    overrides = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.precision=32-true", "name=parts"]
    cfg = make_config(*SETTINGS, *overrides, f"data.path={shared.table(60)}", f"ckpt={folder}", "trainer.devices=1")
    with pytest.raises(UserError, match=r"trainer\.devices: 2 -> 1"):
        train(cfg, folder)


def test_one_process_trains_shared_weights_and_goes_on(make_config: MakeConfig, tmp_path: Path) -> None:
    alone = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.precision=bf16-mixed", "optimizer.name=sgd"]
    alone += ["scheduler=constant", "scheduler.warmup_steps=9"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*FSDP.*")
        train(make_config(*alone, "trainer.max_epochs=2"), tmp_path / "whole")
        train(make_config(*alone, "trainer.max_epochs=1"), tmp_path / "parts")
        train(make_config(*alone, "trainer.max_epochs=2", f"ckpt={tmp_path / 'parts'}"), tmp_path / "parts")
    whole, parts = (last_state(tmp_path / name) for name in ("whole", "parts"))
    assert whole["global_step"] == parts["global_step"] > 0
    assert all(torch.equal(weights, parts["state_dict"][name]) for name, weights in whole["state_dict"].items())
    assert predictions_of(tmp_path / "whole") == predictions_of(tmp_path / "parts")


def test_the_layers_of_outer_stacks_are_gathered_one_at_a_time() -> None:
    layer = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)]))
    network = nn.ModuleDict({"llm": nn.Sequential(nn.ModuleList([layer, nn.Identity()]), nn.Linear(2, 2))})
    assert list(sharded_units(network)) == [layer]
    assert not is_sharded(network)


def test_a_part_of_a_tensor_is_not_plain() -> None:
    class Part(torch.Tensor):
        pass

    with pytest.raises(TypeError, match=r"checkpoint\['w'\] holds a Part"):
        require_plain({"w": torch.ones(2).as_subclass(Part)})


RANK = """
import os
import sys
import torch
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaModel
from crystalfm.contracts import UserError
from crystalfm.encoders.networks import CachedVectors
from crystalfm.models.backbones import TransformersBackbone
from crystalfm.models.fusion import FusionNetwork
from crystalfm.models.pretrained import PretrainedSettings
from crystalfm.models.sharding import load_weights, shard_weights, sharded_units

RANK = int(sys.argv[1])
GPT2 = GPT2Config(vocab_size=1, n_positions=4, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
LLAMA = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2)
DEFAULTS = dict(
    asset="tiny", positions="keep", causal=True, trainable=None, lora_rank=None, lora_alpha=16.0, lora_dropout=0.0,
    num_layers=None, dropout=0.0, gradient_checkpointing=False, weights_dtype="float32",
)

def network(kind, **changed):
    torch.manual_seed(0)
    model = LlamaModel(LLAMA) if kind == "llama" else GPT2Model(GPT2)
    llm = TransformersBackbone(model, PretrainedSettings(**(DEFAULTS | changed)))
    return FusionNetwork(encoders={name: CachedVectors(name, 5) for name in ("smiles", "text")}, llm=llm, num_targets=1)

def train(model, rows):
    generator = torch.Generator().manual_seed(1)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0, momentum=0.9)
    norms = []
    for _ in range(2):
        batch = {f"{name}.embedding": torch.randn(6, 5, generator=generator)[rows] for name in ("smiles", "text")}
        batch |= {"smiles.present": torch.ones(6, dtype=torch.bool)[rows]}
        batch |= {"text.present": (torch.rand(6, generator=generator) > 0.5)[rows]}
        model(batch).square().mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 0.1)
        norms.append(float(norm.full_tensor() if isinstance(norm, DTensor) else norm))
        optimizer.step()
        optimizer.zero_grad()
    return torch.tensor(norms)

def complete(model):
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))

def compare(kind, **changed):
    one, two = network(kind, **changed), network(kind, **changed)
    assert len(list(sharded_units(two))) == 2
    before = {name: weight.clone() for name, weight in two.state_dict().items()}
    shard_weights(two, MESH)
    shard_weights(two, MESH)
    assert all(isinstance(weight, DTensor) for weight in two.parameters())
    held = sum(weight.to_local().numel() for weight in two.parameters())
    assert abs(held / sum(weight.numel() for weight in one.parameters()) - 0.5) < 0.05
    torch.testing.assert_close(train(two, slice(RANK * 3, RANK * 3 + 3)), train(one, slice(None)), rtol=1e-4, atol=1e-6)
    after = complete(two)
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(after[name], weight, rtol=1e-4, atol=1e-5)
    trained = {name for name, weight in one.named_parameters() if weight.requires_grad}
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed <= trained and len(changed) > len(trained) / 2, trained - changed
    load_weights(two, before)
    assert all(torch.equal(weight, before[name]) for name, weight in complete(two).items())

distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=RANK, world_size=2)
MESH = init_device_mesh("cpu", (2,))
compare("gpt2", gradient_checkpointing=True)
compare("gpt2", positions="zero", trainable="norms")
compare("llama", lora_rank=2, gradient_checkpointing=True, weights_dtype="bfloat16")
try:
    shard_weights(network("llama", weights_dtype="bfloat16"), MESH)
except UserError as error:
    assert "FusionNetwork has trained weights of several types (bfloat16, float32)" in str(error), error
else:
    raise SystemExit(9)
distributed.destroy_process_group()
# As ranks do: threads that gloo has left can abort the interpreter while it ends.
os._exit(0)
"""


@pytest.mark.slow
def test_pretrained_models_with_adapters_frozen_parts_and_clipping(tmp_path: Path) -> None:
    """Weights after two clipped steps are those of one process that has the whole batch."""
    pytest.importorskip("peft")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(number), str(tmp_path / "meeting")], stderr=subprocess.PIPE, text=True
        )
        for number in range(2)
    ]
    results = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
    assert [code for _, code in results] == [0, 0], results


def test_nothing_is_shared_without_the_strategy(make_config: MakeConfig, tmp_path: Path) -> None:
    from crystalfm.run.network import NetworkSession

    seen: list[bool] = []
    original = NetworkSession.fit

    def fit(self: NetworkSession, resume_from: Path | None) -> object:
        fitted = original(self, resume_from)
        seen.append(any(isinstance(part, FSDPModule) for part in self.module.modules()))
        return fitted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetworkSession, "fit", fit)
        train(make_config("trainer.max_epochs=1"), tmp_path / "plain")
        train(make_config("trainer.max_epochs=1", "trainer.strategy=fsdp"), tmp_path / "shared")
    assert seen == [False, True]
