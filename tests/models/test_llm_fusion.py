import time

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from crystalfm.models.backbones import TinyBackbone
from crystalfm.models.settings import OptimizerSettings, SchedulerSettings

GOLDEN_LOSSES = (0.901929, 0.705041, 0.556927, 0.501801, 0.414724)


def _train(model, batch, num_steps, lr=1e-3):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    losses = []
    for _ in range(num_steps):
        loss, _ = model.loss(model(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_golden_losses_of_five_steps(make_model, make_batch):
    """Seeded model, batch and optimizer; tolerance 1e-4, for other CPUs' orders of summation."""
    losses = _train(make_model(), make_batch(32, absent=0.2), 5, lr=1e-2)
    assert losses == pytest.approx(GOLDEN_LOSSES, abs=1e-4)


def test_sixteen_samples_are_learned_by_heart(make_model, make_batch):
    start = time.monotonic()
    losses = _train(make_model(llm=TinyBackbone(width=32, num_layers=2, num_heads=4)), make_batch(16), 250, lr=3e-3)
    assert losses[-1] < 1e-3 * losses[0]
    assert time.monotonic() - start < 20


def test_a_validation_set_is_learned_not_memorised(make_model, make_batch, make_loader, make_trainer):
    model = make_model(optimizer=OptimizerSettings(lr=3e-3))
    trainer = make_trainer(max_epochs=20)
    trainer.fit(model, make_loader(make_batch(512, absent=0.0), 32), make_loader(make_batch(200, seed=9), 100))
    assert trainer.callback_metrics["val/r2_gap_hartree"] > 0.6
    assert trainer.callback_metrics["val/mae_mu"] < 1.8  # of a spread of 3


def test_checkpoints_open_without_code_and_have_clean_keys(make_model, make_batch, make_loader, make_trainer, tmp_path):
    model, loader = make_model(), make_loader(make_batch(8), 4)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(model, loader, loader)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    roots = {key.split(".")[0] for key in checkpoint["state_dict"]}
    assert roots == {"target_mean", "target_std", "network"}
    assert not [key for key in checkpoint["state_dict"] if "_orig_mod" in key or "module." in key]
    twin = make_model(seed=5)
    twin.load_state_dict(checkpoint["state_dict"])
    batch = make_batch(4, seed=3)
    assert torch.equal(twin.eval()(batch), model.eval()(batch))


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("scheduler", ["plateau", "cosine"])
def test_training_resumed_at_an_epoch_is_bitwise_the_same(
    make_model, make_batch, make_loader, make_trainer, tmp_path, ema, scheduler
):
    loader = make_loader(make_batch(24), 4)
    validation = make_loader(make_batch(16, seed=2), 8)

    def run(max_epochs, folder, resume=None):
        saver = ModelCheckpoint(dirpath=folder, save_top_k=-1, filename="{epoch}", every_n_epochs=1)
        averaging = [EMAWeightAveraging(decay=0.9, use_buffers=False)] if ema else []
        model = make_model(
            seed=1 if resume is None else 2,
            scheduler=SchedulerSettings(name=scheduler, patience=0, factor=0.7),
            optimizer=OptimizerSettings(lr=0.02),
        )
        trainer = make_trainer(max_epochs=max_epochs, enable_checkpointing=True, callbacks=[saver, *averaging])
        trainer.fit(model, loader, validation, ckpt_path=resume, weights_only=True if resume else None)
        return model, trainer

    whole, whole_trainer = run(4, tmp_path / "whole")
    resumed, trainer = run(4, tmp_path / "resumed", resume=tmp_path / "whole" / "epoch=1.ckpt")
    assert trainer.global_step == whole_trainer.global_step == 24
    assert trainer.optimizers[0].param_groups[0]["lr"] == whole_trainer.optimizers[0].param_groups[0]["lr"]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_averaged_weights_are_what_the_checkpoint_holds_and_what_validation_sees(
    make_model, make_batch, make_loader, make_trainer, tmp_path
):
    model, loader = make_model(optimizer=OptimizerSettings(lr=0.05)), make_loader(make_batch(24), 4)
    trainer = make_trainer(
        max_epochs=2,
        enable_checkpointing=True,
        callbacks=[
            EMAWeightAveraging(decay=0.8, use_buffers=False),
            ModelCheckpoint(dirpath=tmp_path, save_last=True),
        ],
    )
    trainer.fit(model, loader, loader)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    averaged, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert not torch.equal(averaged["network.head.weight"], current["network.head.weight"])
    assert torch.equal(averaged["target_mean"], model.target_mean)
    logged = trainer.callback_metrics["val/loss"].item()
    twin = make_model()
    twin.load_state_dict(averaged)
    (scores,) = make_trainer().validate(twin, loader, verbose=False)
    assert scores["val/loss"] == pytest.approx(logged, rel=1e-5)


def test_compiled_in_place_keeps_clean_keys(make_model):
    model = make_model()
    before = list(model.state_dict())
    model.network.compile()
    assert list(model.state_dict()) == before


def test_bfloat16_autocast_trains_and_predicts_in_float32(make_model, make_batch, make_loader, make_trainer):
    model, loader = make_model(), make_loader(make_batch(8), 4)
    trainer = make_trainer(max_epochs=1, precision="bf16-mixed")
    trainer.fit(model, loader, loader)
    assert trainer.callback_metrics["val/loss"].isfinite()
    (first, _) = trainer.predict(model, loader)
    assert first["prediction"].dtype == torch.float32
