"""Texts of many crystals: the cache, workers, failures, resuming, and the data sets' setting."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from crystalfm.chem.crystals import make_crystal
from crystalfm.chem.description_process import Outcome
from crystalfm.contracts import UserError
from crystalfm.data import descriptions
from crystalfm.data.cdvae import Perov5
from crystalfm.data.crystal_folder import CrystalFolder
from crystalfm.data.description_cache import DescriptionCache, digest_of
from crystalfm.data.descriptions import GENERATORS, DescriptionSettings, Generator, describe_crystals
from crystalfm.data.jarvis import Jarvis
from crystalfm.data.materials_project import MaterialsProject

HERE = str(Path(__file__).parent)
ONE = DescriptionSettings("sequential")


def cube(edge, numbers=(11, 17)):
    return make_crystal(np.eye(3) * edge, list(numbers), [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]).to_json()


STRUCTURES = [cube(4.0), cube(4.0, (19, 35)), cube(4.1), cube(4.0)]
TEXTS = ["a crystal of ClNa", "a crystal of BrK", "a crystal of ClNa", "a crystal of ClNa"]


def fake(name, *, version=1, packages=()):
    return Generator("fake", f"fake_describers:{name}", version, packages, dict)


@pytest.fixture(autouse=True)
def log(monkeypatch, tmp_path):
    """File in which the describer ``slow`` leaves a line a crystal, that of its start included."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("FAKE_DESCRIBER_LOG", str(tmp_path / "described.txt"))
    return tmp_path / "described.txt"


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


def texts(done):
    return [outcome.text for outcome in done.outcomes]


def test_each_crystal_is_described_once_in_the_order_given(tmp_path, log):
    done = describe_crystals(STRUCTURES, fake("slow"), tmp_path, ONE)
    assert texts(done) == TEXTS
    assert (done.num_cached, done.num_made, done.num_failed) == (0, 3, 0)
    assert len(lines_of(log)) == 1 + 3


def test_second_call_makes_nothing_and_starts_no_process(tmp_path, monkeypatch):
    first = describe_crystals(STRUCTURES, fake("slow"), tmp_path, ONE)
    monkeypatch.setattr(descriptions, "DescriberProcess", None)
    second = describe_crystals(STRUCTURES[::-1], fake("slow"), tmp_path, ONE)
    assert texts(second) == texts(first)[::-1]
    assert (second.num_cached, second.num_made) == (3, 0)


def test_nothing_to_describe(tmp_path):
    done = describe_crystals([], fake("slow"), tmp_path, ONE)
    assert (done.outcomes, done.num_made) == ([], 0)
    assert list(tmp_path.iterdir()) == []


def test_small_crystals_come_first(tmp_path, log):
    large = make_crystal(np.eye(3) * 9.0, [19] * 8, np.random.default_rng(0).random((8, 3))).to_json()
    describe_crystals([large, cube(4.0)], fake("slow"), tmp_path, ONE)
    assert lines_of(log)[1:] == ["ClNa", "K"]


def test_another_version_of_the_generator_or_its_libraries_makes_new_texts(tmp_path):
    describe_crystals(STRUCTURES[:1], fake("slow"), tmp_path, ONE)
    newer = fake("slow", version=2)
    other = replace(newer, library_versions=lambda: {"robocrys": "9"})
    made = [describe_crystals(STRUCTURES[:1], one, tmp_path, ONE).num_made for one in (newer, other, newer)]
    assert made == [1, 1, 0]
    manifests = [json.loads(path.read_text()) for path in tmp_path.glob("descriptions/fake-*/manifest.json")]
    assert sorted((one["version"], one["libraries"]) for one in manifests if one["version"] == 1) == [(1, {})]
    assert {"robocrys": "9"} in [one["libraries"] for one in manifests]


def test_arguments_and_kind_of_a_generator_tell_its_texts_apart(tmp_path):
    greeters = [
        replace(fake("greeting"), arguments={"word": "hello", "times": times}, verb="greeted", kind="greetings")
        for times in (1, 2, 1)
    ]
    done = [describe_crystals(STRUCTURES[:1], greeter, tmp_path, ONE) for greeter in greeters]
    assert [texts(one) for one in done] == [["hello ClNa"], ["hello hello ClNa"], ["hello ClNa"]]
    assert [one.num_made for one in done] == [1, 1, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["greetings"]
    failed = describe_crystals([cube(4.0, (11, 35))], greeters[0], tmp_path, ONE)
    assert failed.outcomes[0].reason == "not greeted: ValueError: no bromides"


def test_failures_are_kept_with_their_reason_and_not_tried_again(tmp_path, monkeypatch):
    structures = [cube(4.0, (11, 35)), cube(4.0, (11, 9)), cube(4.0)]
    first = describe_crystals(structures, fake("moody"), tmp_path, ONE)
    assert [outcome.reason for outcome in first.outcomes] == [
        "not described: ValueError: no bromides",
        "not described: the process ended with SIGSEGV",
        "",
    ]
    assert first.num_failed == 2
    monkeypatch.setattr(descriptions, "DescriberProcess", None)
    assert describe_crystals(structures, fake("moody"), tmp_path, ONE).outcomes == first.outcomes


def test_what_ended_from_outside_is_tried_again(tmp_path):
    killed = [cube(4.0, (19, 9))]
    first = describe_crystals(killed, fake("moody"), tmp_path, ONE)
    assert first.outcomes[0].reason == "not described: the process ended with SIGKILL"
    assert describe_crystals(killed, fake("moody"), tmp_path, ONE).num_made == 1


def test_time_out_stands_until_the_limit_is_raised(tmp_path):
    hanging = [cube(4.0, (55, 17))]
    limits = [0.2, 0.2, 0.1, 0.3]
    found = [
        describe_crystals(hanging, fake("moody"), tmp_path, replace(ONE, time_limit_seconds=limit)) for limit in limits
    ]
    assert [done.num_made for done in found] == [1, 0, 0, 1]
    assert found[2].outcomes == found[0].outcomes == [Outcome(None, "not described within 0.2 seconds", 0.2)]
    assert found[3].outcomes[0].limit_seconds == 0.3


@pytest.mark.parametrize("jobs", [1, 2])
def test_workers_of_loky_stop_a_hanging_crystal_and_describe_the_others(tmp_path, jobs):
    structures = [cube(4.0 + 0.01 * step) for step in range(12)] + [cube(4.0, (19, 17))]
    settings = DescriptionSettings("loky", jobs, 1.0)
    done = describe_crystals(structures, fake("moody"), tmp_path, settings)
    assert texts(done) == ["a crystal of ClNa"] * 12 + [None]
    assert done.outcomes[-1].reason == "not described within 1 seconds"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_workers_of_a_local_cluster(tmp_path, backend, monkeypatch):
    package = {"dask": "distributed"}.get(backend, backend)
    if find_spec(package) is None:
        pytest.skip(f"needs the package {package}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # of the cluster's own processes
    structures = [cube(4.0 + 0.01 * step) for step in range(10)] + [cube(4.0, (19, 17)), cube(4.0, (11, 35))]
    done = describe_crystals(structures, fake("moody"), tmp_path, DescriptionSettings(backend, 2, 2.0))
    assert texts(done) == ["a crystal of ClNa"] * 10 + [None, None]
    assert [outcome.reason.split()[2] for outcome in done.outcomes[10:]] == ["within", "ValueError:"]


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_backend_that_is_not_installed_is_told(tmp_path, monkeypatch, backend):
    monkeypatch.setattr(descriptions, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"backend={backend}.*not installed") as error:
        describe_crystals(STRUCTURES, fake("slow"), tmp_path, DescriptionSettings(backend))
    assert "pip install" in error.value.remedy


def test_package_that_is_not_installed_is_told(tmp_path):
    with pytest.raises(UserError, match=r"data.description=fake: no_such_package is not installed") as error:
        describe_crystals(STRUCTURES, fake("slow", packages=("no_such_package",)), tmp_path, ONE)
    assert "crystalfm[describe]" in error.value.remedy


def test_progress_counts_up_to_all(tmp_path):
    seen = []
    many = [cube(4.0 + 0.01 * step) for step in range(9)]
    describe_crystals(many, fake("slow"), tmp_path, ONE, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (9, 9)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_killed_run_goes_on_where_it_stopped(tmp_path, log, monkeypatch):
    """A process is killed half-way; the next describes only what is not on disk yet."""
    many = [cube(4.0 + 0.01 * step) for step in range(60)]
    code = (
        f"import sys; sys.path.insert(0, {HERE!r})\n"
        "import json\n"
        "from pathlib import Path\n"
        "from crystalfm.data import descriptions as module\n"
        "module._COMMIT_SECONDS = 0.0\n"
        "generator = module.Generator('fake', 'fake_describers:slow', 1, (), dict)\n"
        "settings = module.DescriptionSettings('sequential')\n"
        f"module.describe_crystals(json.load(sys.stdin), generator, Path({str(tmp_path)!r}), settings)\n"
    )
    environment = {**os.environ, "FAKE_DESCRIBER_SECONDS": "0.05"}
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment, text=True) as process:
        process.stdin.write(json.dumps(many))
        process.stdin.close()
        while not log.is_file() or len(lines_of(log)) < 20:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    begun = len(lines_of(log))
    done = describe_crystals(many, fake("slow"), tmp_path, ONE)
    assert texts(done) == ["a crystal of ClNa"] * 60
    assert 12 <= done.num_cached < begun < 60
    assert done.num_made == 60 - done.num_cached


def test_interrupt_keeps_what_is_done(tmp_path, monkeypatch):
    calls = []

    def interrupted(done, total):
        calls.append(done)
        if len(calls) == 2:
            raise KeyboardInterrupt

    many = [cube(4.0 + 0.01 * step) for step in range(20)]
    with pytest.raises(KeyboardInterrupt):
        describe_crystals(many, fake("slow"), tmp_path, ONE, progress=interrupted)
    assert describe_crystals(many, fake("slow"), tmp_path, ONE).num_cached == calls[-1] == 8


# --------------------------------------------------------------------------- the cache

IDENTITY = {"generator": "fake", "version": 1}


def segments(cache):
    return sorted(cache.folder.glob("*.jsonl"))


def test_cache_reads_what_others_add(tmp_path):
    first, second = DescriptionCache(tmp_path, IDENTITY), DescriptionCache(tmp_path, IDENTITY)
    first.add({"a": Outcome("one")})
    assert second.outcomes() == {"a": Outcome("one")}
    first.add({"b": Outcome(None, "no")})
    assert second.outcomes() == {"a": Outcome("one"), "b": Outcome(None, "no")}


def test_text_with_every_kind_of_character_survives(tmp_path):
    text = 'Å \u2028 \n \x85 " \\ {} °'
    DescriptionCache(tmp_path, IDENTITY).add({"a": Outcome(text)})
    assert DescriptionCache(tmp_path, IDENTITY).outcomes()["a"].text == text


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: raw.replace(b"one", b"two"), bytes])
def test_damaged_segment_is_removed_and_made_again(tmp_path, damage, caplog):
    cache = DescriptionCache(tmp_path, IDENTITY)
    cache.add({"a": Outcome("one"), "b": Outcome("one")})
    (path,) = segments(cache)
    content = path.read_bytes()
    path.write_bytes(damage(content) if damage is not bytes else b"")
    again = DescriptionCache(tmp_path, IDENTITY)
    assert again.outcomes() == {}
    assert segments(again) == []
    assert "damaged segment" in caplog.text


def test_many_segments_become_one(tmp_path, monkeypatch):
    monkeypatch.setattr("crystalfm.data.description_cache._MERGE_AT", 4)
    cache = DescriptionCache(tmp_path, IDENTITY)
    reader = DescriptionCache(tmp_path, IDENTITY)
    for number in range(3):
        cache.add({str(number): Outcome(f"text {number}")})
    reader.outcomes()
    cache.merge()
    assert len(segments(cache)) == 3
    cache.add({"3": Outcome(None, "too long", 2.0)})
    cache.merge()
    assert len(segments(cache)) == 1
    expected = {str(number): Outcome(f"text {number}") for number in range(3)} | {"3": Outcome(None, "too long", 2.0)}
    assert reader.outcomes() == DescriptionCache(tmp_path, IDENTITY).outcomes() == expected


def test_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "descriptions").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written") as error:
        describe_crystals(STRUCTURES, fake("slow"), tmp_path, ONE)
    assert "paths.cache" in error.value.remedy


def test_digest_is_that_of_the_whole_text():
    assert digest_of(cube(4.0)) != digest_of(cube(4.0) + " ")
    assert len(digest_of("")) == 32


# --------------------------------------------------------------------------- the data sets


@pytest.mark.parametrize("kind", [Jarvis, MaterialsProject, Perov5])
@pytest.mark.parametrize("name", [None, *GENERATORS])
def test_data_sets_of_crystals_offer_descriptions_where_they_are_to_be_made(kind, name):
    spec = kind(description=name).spec()
    assert ("description" in spec.fields) == ("description" in spec.modalities) == (name is not None)
    assert spec.fields[0] == "structure"


def test_folder_of_crystals_offers_descriptions_too(tmp_path):
    spec = CrystalFolder(path=str(tmp_path), targets=["gap"], description="chemnlp").spec()
    assert spec.fields == ("structure", "description")
