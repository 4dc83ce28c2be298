"""The registry file is complete, and names that could leave a folder are refused."""

from __future__ import annotations

import re

import pytest

from crystalfm.assets.places import HubPlace, MirrorPlace, UrlPlace, WheelPlace, is_weight_file, wanted_hub_files
from crystalfm.assets.registry import ASSETS, is_safe_name, read_asset

EXPECTED = {
    "qm9", "qm9_moleculenet", "chebi20", "minilm", "rxnfp", "smollm2_135m", "chemberta", "selfies_ted",
    "gpt2", "gpt2_large", "bert", "matbert", "llama2_7b", "llama3_8b", "mp_20", "perov_5", "perov_5_parquet",
    "carbon_24", "carbon_24_parquet", "jarvis_dft_3d_2022", "jarvis_dft_3d_2021", "jarvis_dft_3d_subset",
    "jarvis_hybrid_splits", "jarvis_sample", "alignn_ff", "alignn_mp_e_form", "alignn_jv_formation_energy_peratom",
}  # fmt: skip
DIGEST = re.compile(r"[0-9a-f]{64}")


def test_every_asset_is_there() -> None:
    assert set(ASSETS) >= EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_asset_is_complete(name: str) -> None:
    asset = ASSETS[name]
    assert asset.kind in {"data", "weights"}
    assert asset.title
    assert asset.licence
    assert asset.citation
    assert asset.required
    assert isinstance(asset.places[0], MirrorPlace)
    assert asset.mirror_folders[0] == name
    assert len(set(asset.mirror_folders)) == len(asset.mirror_folders)
    for file in asset.files:
        assert file.sha256 is None or DIGEST.fullmatch(file.sha256)
        assert (file.size is None) == (file.sha256 is None)


@pytest.mark.parametrize("name", ["qm9", "minilm", "rxnfp", "smollm2_135m"])
def test_wheel_assets_are_pinned(name: str) -> None:
    asset = ASSETS[name]
    wheel = asset.wheel
    assert isinstance(wheel, WheelPlace)
    assert DIGEST.fullmatch(wheel.sha256)
    assert wheel.filename.endswith("-py3-none-any.whl")
    assert f"-{wheel.version}-" in wheel.filename
    assert asset.is_pinned
    assert asset.approx_bytes == sum(file.size or 0 for file in asset.files)


def test_sample_of_jarvis_is_pinned_in_a_source_archive() -> None:
    asset = ASSETS["jarvis_sample"]
    place = asset.wheel
    assert isinstance(place, WheelPlace)
    assert place.is_source
    assert place.label == "sdist alignn==2026.8.11"
    assert place.filename == f"{place.distribution}-{place.version}.tar.gz"
    assert asset.is_pinned
    assert len(asset.files) == 71


def test_addresses_may_have_names_of_their_own() -> None:
    places = [place for place in ASSETS["jarvis_dft_3d_2022"].places if isinstance(place, UrlPlace)]
    assert [place.url("jdft_3d-12-12-2022.json.zip") for place in places] == [
        "https://ndownloader.figshare.com/files/38521619"
    ]
    assert UrlPlace("https://example.org/", ("a.csv",)).url("a.csv") == "https://example.org/a.csv"


def test_no_pickled_settings_are_taken_from_wheels() -> None:
    names = {file.name for asset in ASSETS.values() for file in asset.files}
    pickled = {name for name in names if name.endswith((".pt", ".pkl", ".pickle")) or "training_args" in name}
    assert pickled == {"best_model.pt"}  # weights of ALIGNN-FF, of which only the tensors are loaded


@pytest.mark.parametrize("name", [name for name in ASSETS if name.startswith("alignn_") and name != "alignn_ff"])
def test_published_alignn_checkpoints_have_an_address_and_no_checksum_yet(name: str) -> None:
    asset = ASSETS[name]
    (file,) = asset.files
    (place,) = [place for place in asset.places if isinstance(place, UrlPlace)]
    assert re.fullmatch(r"https://ndownloader\.figshare\.com/files/3145\d{4}", place.url(file.name))
    assert file.name == f"{name.removeprefix('alignn_')}_alignn.zip"
    assert not asset.is_pinned


def test_hub_assets_accept_their_repository_names_in_a_mirror() -> None:
    assert ASSETS["gpt2"].mirror_folders == ("gpt2", "openai-community/gpt2")
    assert ASSETS["bert"].mirror_folders == ("bert", "google-bert/bert-base-uncased", "bert-base-uncased")
    assert isinstance(ASSETS["llama2_7b"].hub, HubPlace)
    assert ASSETS["llama2_7b"].hub.gated


def test_pytorch_weights_only_where_no_safetensors_exist() -> None:
    common = ["config.json", "tokenizer.json", "README.md", "onnx/model.safetensors", "training_args.bin"]
    assert wanted_hub_files([*common, "model.safetensors", "pytorch_model.bin"]) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert wanted_hub_files([*common, "pytorch_model.bin"]) == [
        "config.json",
        "pytorch_model.bin",
        "tokenizer.json",
    ]
    assert is_weight_file("pytorch_model-00001-of-00002.bin")
    assert not is_weight_file("model.safetensors.index.json")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a\\..\\x", "C:x", ""])
def test_unsafe_names(name: str) -> None:
    assert not is_safe_name(name)
    table = {"kind": "data", "title": "t", "licence": "l", "citation": "c", "files": [{"name": name}]}
    with pytest.raises(ValueError, match="bad file name"):
        read_asset("bad", table)


def test_safe_name() -> None:
    assert is_safe_name("1_Pooling/config.json")


def test_unknown_key_in_the_registry_is_refused() -> None:
    with pytest.raises(ValueError, match="license"):
        read_asset("bad", {"license": "MIT"})
