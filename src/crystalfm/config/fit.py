"""Whether data, model, encoders, files and devices of a checked tree go together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalfm.assets.registry import ASSETS
from crystalfm.config import devices
from crystalfm.config.bench import bench_problems
from crystalfm.config.build import (
    automatic_modalities,
    data_spec,
    modality_problems,
    requirements_of,
    usable_modalities,
)
from crystalfm.config.extras import missing_describer, missing_loggers, missing_packages, unfit_loggers
from crystalfm.config.generating import generating_problems
from crystalfm.config.judging import judging_problems
from crystalfm.config.problems import Problem, nearest, suggestion
from crystalfm.config.value_types import MISSING
from crystalfm.contracts import MODALITIES, DataSpec, UserError
from crystalfm.io.checkpoints import HUB_SCHEME
from crystalfm.models.settings import OptimizerSettings, SchedulerSettings

if TYPE_CHECKING:
    from crystalfm.config.options import Catalog

Tree = Mapping[str, Any]

SHARDED_PRECISIONS = ("auto", "32-true", "bf16-mixed", "bf16-true")
"""Precisions that Lightning offers for ``trainer.strategy=fsdp`` and that need no scaling of the loss."""


def check_fit(task: str, tree: Tree, catalog: Catalog, *, broken: set[str]) -> list[Problem]:
    """Return the problems between parts of the configuration.

    Args:
        task: ``train``, ``bench``, ``evaluate``, ``predict`` or ``generate``.
        tree: plain containers.
        catalog: the config groups.
        broken: keys with a problem already; what depends on them is not checked.
    """
    problems = [*_files(task, tree), *missing_loggers(tree), *unfit_loggers(task, tree)]
    if isinstance(tree.get("trainer"), dict) and not _below("trainer", broken):
        problems += _device(tree["trainer"])
    for key, settings in (("optimizer", OptimizerSettings), ("scheduler", SchedulerSettings)):
        if key in tree and not _below(key, broken):
            problems += _settings(key, settings, tree[key])
    if task in {"train", "bench"}:
        problems += _baselines(tree, catalog)
        problems += missing_packages(tree)
        problems += _encoders(tree, catalog, broken)
        problems += _heads(tree)
        problems += _pretrained(tree, broken)
        if not _below("trainer", broken):
            problems += _sharding(tree)
    if task == "evaluate":
        problems += judging_problems(tree, broken)
    if task == "generate":
        problems += generating_problems(tree, broken)
    if task == "bench" and not any(_below(key, broken) for key in ("bench", "trainer", "ckpt")):
        problems += bench_problems(tree)
    if isinstance(tree.get("data"), dict) and not _below("data", broken):
        problems += _data(tree, catalog, broken)
    return problems


def _below(key: str, broken: set[str]) -> bool:
    return any(name == key or name.startswith(f"{key}.") for name in broken)


def _settings(key: str, settings: type[Any], node: Tree) -> Iterator[Problem]:
    try:
        settings(**node)
    except UserError as error:
        yield Problem(_key_in(error.message, key), error.message, error.remedy or "")


def _files(task: str, tree: Tree) -> Iterator[Problem]:
    paths = tree.get("paths")
    mirror = paths.get("mirror") if isinstance(paths, dict) else None
    if isinstance(mirror, str) and not Path(mirror).expanduser().is_dir():
        yield Problem(
            "paths.mirror",
            f"the mirror {mirror} is not a folder",
            "give a folder that exists, or paths.mirror=null (it may come from CRYSTALFM_MIRROR)",
        )
    ckpt = tree.get("ckpt")
    if (
        isinstance(ckpt, str)
        and ckpt != MISSING
        and not _is_found_later(task, ckpt)
        and not Path(ckpt).expanduser().exists()
    ):
        yield Problem(
            "ckpt", f"{ckpt}: no such file or folder", _near_path(ckpt) or "give a run folder or a .ckpt file"
        )
    named = [("structures", tree.get("structures"))]
    for key in ("data", "reference"):
        node = tree.get(key)
        named += (
            [(f"{key}.{name}", node.get(name)) for name in ("path", "split_file")] if isinstance(node, dict) else []
        )
    infill = tree.get("infill")
    named += [
        ("resume", tree.get("resume")),
        ("infill.structure", infill.get("structure") if isinstance(infill, dict) else None),
    ]
    for key, value in named:
        if isinstance(value, str) and value != MISSING and not Path(value).expanduser().exists():
            yield Problem(key, f"{value}: no such file or folder", _near_path(value))


def _is_found_later(task: str, ckpt: str) -> bool:
    """Say whether ``ckpt`` is no path: the newest run, to go on from, or an address in the hub."""
    if task in {"train", "bench"}:
        return ckpt == "auto"
    return task in {"evaluate", "predict", "generate"} and ckpt.startswith(HUB_SCHEME)


def _near_path(path: str) -> str:
    """Suggest a neighbour in the first folder of the path that exists."""
    wanted = Path(path).expanduser()
    for child, parent in zip([wanted, *wanted.parents], wanted.parents, strict=False):
        if parent.is_dir():
            near = nearest(child.name, (item.name for item in parent.iterdir()))
            return f"did you mean '{parent / near}'?" if near else ""
    return ""


def _device(trainer: Tree) -> Iterator[Problem]:
    accelerator = trainer["accelerator"]
    yield from _accelerator("trainer.accelerator", accelerator)
    wanted = trainer["devices"]
    count = len(wanted) if isinstance(wanted, list) else wanted
    present = devices.num_cuda_devices() if accelerator in {"gpu", "cuda"} else None
    if present and isinstance(count, int) and count > present:
        yield Problem("trainer.devices", f"{count} GPUs asked for, this process sees {present}", "ask for fewer")
    if isinstance(count, int) and count < 1 and count != -1:
        yield Problem("trainer.devices", f"{wanted} devices", "use a number at least 1, a list of numbers, or auto")


def _sharding(tree: Tree) -> Iterator[Problem]:
    """Check what does not go together with weights that the processes share."""
    trainer, callbacks, data = (tree.get(key) for key in ("trainer", "callbacks", "data"))
    if not isinstance(trainer, dict) or trainer["strategy"] != "fsdp":
        return
    remedy = "leave it out, or use trainer=ddp"
    if trainer["precision"] not in SHARDED_PRECISIONS:
        allowed = ", ".join(SHARDED_PRECISIONS)
        yield Problem("trainer.precision", f"{trainer['precision']} does not work with fsdp", f"use one of: {allowed}")
    if trainer["accelerator"] == "mps":
        yield Problem("trainer.accelerator", "mps does not work with fsdp", "use trainer.strategy=auto")
    if trainer["compile"]:
        yield Problem("trainer.compile", "a compiled network cannot gather its weights layer by layer", remedy)
    if isinstance(callbacks, dict) and callbacks.get("ema_decay") is not None:
        yield Problem("callbacks.ema_decay", "weights that the processes share cannot be averaged", remedy)
    if isinstance(data, dict) and data.get("eval_batch_size") == 1:
        # The processes take every forward pass together; in batches of one row some would have a batch less.
        yield Problem("data.eval_batch_size", "1 does not work with fsdp", "use at least 2")


def _accelerator(key: str, accelerator: str) -> Iterator[Problem]:
    if accelerator == "mps" and not devices.has_mps():
        yield Problem(key, "mps needs a Mac with Apple's GPU", "use auto or cpu")
    if accelerator in {"gpu", "cuda"}:
        mps = accelerator == "gpu" and devices.has_mps()
        if not mps and devices.num_cuda_devices() == 0:
            yield Problem(
                key,
                f"{accelerator} is asked for, but this process sees no GPU",
                "use auto or cpu (trainer=cpu), or check CUDA_VISIBLE_DEVICES and the driver (nvidia-smi)",
            )
        elif not mps and devices.torch_is_cpu_only():
            yield Problem(key, "the installed PyTorch is a CPU build", "install a CUDA build of torch, or use cpu")


def _heads(tree: Tree) -> Iterator[Problem]:
    """Check every node with attention: its heads share the width evenly."""
    encoders = tree.get("encoders")
    nodes = {"llm": tree.get("llm")}
    nodes |= {f"encoders.{name}": node for name, node in encoders.items()} if isinstance(encoders, dict) else {}
    for key, node in nodes.items():
        width, heads = (node.get(name) if isinstance(node, dict) else None for name in ("width", "num_heads"))
        if isinstance(width, int) and isinstance(heads, int) and heads > 0 and width % heads:
            yield Problem(
                f"{key}.num_heads",
                f"{heads} heads: {heads} does not divide the width {width}",
                "choose a width that is a multiple of the number of heads",
            )


def _baselines(tree: Tree, catalog: Catalog) -> Iterator[Problem]:
    models = list(catalog.options.get("model", []))
    names = tree.get("baselines")
    for name in names if isinstance(names, list) else []:
        if name not in models:
            yield Problem("baselines", f"there is no model '{name}'", suggestion(str(name), models))


def _encoders(tree: Tree, catalog: Catalog, broken: set[str]) -> Iterator[Problem]:
    encoders = tree.get("encoders")
    for modality, node in encoders.items() if isinstance(encoders, dict) else ():
        key = f"encoders.{modality}"
        if isinstance(node, dict) and not _below(key, broken) and modality not in node["accepts"]:
            fitting = [
                name for name, option in catalog.nodes("encoder").items() if modality in option.get("accepts", [])
            ]
            yield Problem(
                key,
                f"the encoder '{node['name']}' cannot encode {modality} (it takes: {', '.join(node['accepts'])})",
                f"encoder@{key}=OPTION with one of: {', '.join(fitting)}",
            )


def _pretrained(tree: Tree, broken: set[str]) -> Iterator[Problem]:
    """Check that pretrained weights named by an encoder exist, where the run looks at its modality."""
    encoders, asked = tree.get("encoders"), tree.get("modalities")
    for modality, node in encoders.items() if isinstance(encoders, dict) else ():
        key = f"encoders.{modality}"
        unused = isinstance(asked, list) and modality not in asked
        if not isinstance(node, dict) or "weights" not in node or unused or _below(key, broken):
            continue
        weights = node["weights"]
        if weights is None:
            if node.get("frozen"):
                yield Problem(
                    f"{key}.frozen", "there is nothing to freeze", f"set {key}.weights, or {key}.frozen=false"
                )
        elif weights not in ASSETS and not Path(weights).expanduser().exists():
            remedy = _near_path(weights) if "/" in weights else suggestion(weights, ASSETS, label="assets")
            yield Problem(f"{key}.weights", f"{weights}: no such asset, file or folder", remedy)


def _data(tree: Tree, catalog: Catalog, broken: set[str]) -> Iterator[Problem]:
    try:
        spec = data_spec(tree["data"])
    except UserError as error:
        yield Problem(_key_in(error.message, "data"), error.message, error.remedy or "")
        return
    targets = tree["data"].get("targets")
    unknown = [name for name in targets or () if name not in {target.name for target in spec.targets}]
    for name in unknown:
        yield Problem(
            "data.targets",
            f"data set '{spec.name}' has no target '{name}'",
            suggestion(name, [target.name for target in spec.targets], label="targets"),
        )
    fusable = isinstance(tree.get("encoders"), dict) and isinstance(tree.get("model"), dict)
    if fusable and not any(_below(key, broken) for key in ("model", "modalities")):
        yield from _modalities(tree, spec, catalog)


def _key_in(message: str, prefix: str) -> str:
    """Return the key that a message starts with (``data.limit=0 is ...``), else ``prefix``."""
    found = re.match(rf"{re.escape(prefix)}\.[\w.]+", message)
    return found[0] if found else prefix


def _modalities(tree: Tree, spec: DataSpec, catalog: Catalog) -> Iterator[Problem]:
    asked = tree["modalities"]
    usable = usable_modalities(tree["model"], tree["encoders"], spec)
    unknown = [name for name in asked if name not in MODALITIES] if asked != "auto" else []
    for name in unknown:
        yield Problem("modalities", f"unknown modality '{name}'", suggestion(name, MODALITIES, label="modalities"))
    if unknown:
        return
    automatic = automatic_modalities(tree["model"], tree["encoders"], spec)
    chosen = automatic if asked == "auto" else list(asked)
    found = modality_problems(tree, spec, chosen)
    if found:
        remedies = [f"modalities that fit: {', '.join(usable)}"] if usable else _fitting_data(tree, catalog)
        if "description" in chosen and "description" not in spec.modalities and "description" in tree["data"]:
            remedies.insert(0, "set data.description=robocrys or data.description=chemnlp, which is null")
        for name in chosen:
            if name not in spec.modalities:
                providers = _providers(name, catalog)
                remedies.append(f"data sets with {name}: {', '.join(providers) or 'none yet'}")
        yield Problem("modalities", "; ".join(found), "; ".join(remedies))
    if "description" in chosen:
        yield from missing_describer(tree["data"])


def _fitting_data(tree: Tree, catalog: Catalog) -> list[str]:
    """Say which data sets have a modality that the model takes."""
    taken = requirements_of(tree["model"]).modalities
    found = dict.fromkeys(name for modality in taken for name in _providers(modality, catalog))
    return [f"data sets that fit {tree['model'].get('name')}: {', '.join(found) or 'none'}"]


def _providers(modality: str, catalog: Catalog) -> list[str]:
    """Return the data sets that have a modality, with the setting it takes."""
    field = MODALITIES[modality].source_field
    by_column, by_setting = (catalog.options_with("data", key) for key in (f"{field}_column", field))
    found = []
    for name, node in catalog.nodes("data").items():
        if name in by_column:
            found.append(f"{name} (data={name} data.{field}_column=...)")
            continue
        if name in by_setting:
            found.append(f"{name} (data={name} data.{field}=...)")
            continue
        try:
            provides = data_spec(node).modalities
        except UserError:
            continue
        if modality in provides:
            found.append(f"{name} (data={name})")
    return found
