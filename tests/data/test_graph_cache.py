"""Cached crystal graphs: made once, found again, never stale, never half written."""

import logging
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest

from crystalfm.chem.crystal_graph import GraphSettings
from crystalfm.chem.crystals import CrystalError, make_crystal
from crystalfm.chem.graph_arrays import GraphArrays, build_arrays
from crystalfm.data import graph_cache
from crystalfm.data.graph_cache import build_graphs, cached_graphs


def crystals(count):
    rng = np.random.default_rng(0)
    return [
        make_crystal(np.eye(3) * rng.uniform(3, 6, 3), [26, 8], [[0, 0, 0], [0.5, 0.5, rng.uniform(0.3, 0.7)]])
        for _ in range(count)
    ]


def structures(count):
    return [crystal.to_json() for crystal in crystals(count)]


def assert_equal(graphs, others):
    for name in GraphArrays.names():
        np.testing.assert_array_equal(getattr(graphs, name), getattr(others, name), err_msg=name)
        assert getattr(graphs, name).dtype == getattr(others, name).dtype


@pytest.fixture
def builds(monkeypatch):
    """Return a list that grows with every build."""
    made = []
    build = graph_cache.build_graphs

    def counted(strings, settings, **options):
        made.append(len(strings))
        return build(strings, settings, **options)

    monkeypatch.setattr(graph_cache, "build_graphs", counted)
    return made


@pytest.mark.parametrize("settings", [GraphSettings(), GraphSettings("radius", cutoff_angstrom=0.1)])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_graphs_are_built_once_and_mapped_from_then_on(tmp_path, builds, settings, count):
    first = cached_graphs(tmp_path, structures(count), settings)
    second = cached_graphs(tmp_path, structures(count), settings)
    assert builds == [count]
    assert_equal(first, build_arrays(crystals(count), settings))
    assert_equal(second, first)
    assert not second.vector.flags.writeable


def test_other_structures_order_settings_or_versions_make_other_graphs(tmp_path, builds, monkeypatch):
    strings = structures(3)
    cached_graphs(tmp_path, strings, GraphSettings())
    cached_graphs(tmp_path, strings[:2], GraphSettings())
    cached_graphs(tmp_path, strings[::-1], GraphSettings())
    cached_graphs(tmp_path, strings, GraphSettings(as_alignn=True))
    monkeypatch.setattr("crystalfm.chem.crystal_graph.GRAPH_VERSION", -1)
    cached_graphs(tmp_path, strings, GraphSettings())
    monkeypatch.setattr(graph_cache, "version", lambda name: "0")
    cached_graphs(tmp_path, strings, GraphSettings())
    assert len(builds) == 6
    assert len(list((tmp_path / "crystal_graphs").glob("*.safetensors"))) == 6


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_file_is_made_again_with_a_warning(tmp_path, builds, caplog, damage):
    expected = cached_graphs(tmp_path, structures(4), GraphSettings())
    expected = GraphArrays.of({name: array.copy() for name, array in expected.arrays().items()})
    (path,) = (tmp_path / "crystal_graphs").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-5] ^= 1
    path.unlink()
    path.write_bytes({"cut": content[:-7], "empty": b"", "foreign": b"\x02\0\0\0\0\0\0\0{}"}.get(damage, content))
    with caplog.at_level(logging.WARNING):
        again = cached_graphs(tmp_path, structures(4), GraphSettings())
    assert "damaged and made again" in caplog.text
    assert_equal(again, expected)
    assert builds == [4, 4]


def test_the_file_is_one_that_safetensors_reads(tmp_path):
    from safetensors.numpy import load_file

    graphs = cached_graphs(tmp_path, structures(2), GraphSettings())
    (path,) = (tmp_path / "crystal_graphs").glob("*.safetensors")
    loaded = load_file(path)
    assert_equal(graphs, GraphArrays.of(loaded))


def test_a_failed_build_leaves_nothing_behind(tmp_path):
    with pytest.raises(CrystalError):
        cached_graphs(tmp_path, [*structures(2), "no crystal"], GraphSettings())
    assert [path.name for path in (tmp_path / "crystal_graphs").iterdir() if path.suffix != ".lock"] == []


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch, caplog):
    def refuse(path):
        raise PermissionError("read-only")

    monkeypatch.setattr(graph_cache, "file_lock", refuse)
    graphs = cached_graphs(tmp_path, structures(2), GraphSettings())
    assert_equal(graphs, build_arrays(crystals(2), GraphSettings()))
    assert "cannot be written" in caplog.text


def test_several_processes_build_the_same_in_the_same_order(monkeypatch, caplog):
    monkeypatch.setattr(graph_cache, "_CHUNK_CRYSTALS", 3)
    with caplog.at_level(logging.INFO):
        graphs = build_graphs(structures(8), GraphSettings(), num_workers=2)
    assert "8 built" in caplog.text
    assert "by 2 processes" in caplog.text
    assert_equal(graphs, build_arrays(crystals(8), GraphSettings()))


def test_an_error_in_another_process_is_the_same_error(monkeypatch):
    monkeypatch.setattr(graph_cache, "_CHUNK_CRYSTALS", 2)
    with pytest.raises(CrystalError, match="not a crystal's JSON"):
        build_graphs([*structures(3), "no crystal"], GraphSettings(), num_workers=2)


def test_few_crystals_start_no_process(monkeypatch):
    monkeypatch.setattr(graph_cache, "ProcessPoolExecutor", None)
    assert len(build_graphs(structures(5), GraphSettings(), num_workers=8)) == 5


def build_in_a_child(queue):
    graph_cache._CHUNK_CRYSTALS = 2
    queue.put(len(build_graphs(structures(5), GraphSettings(), num_workers=2)))


def test_a_process_that_may_not_have_children_builds_itself():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=build_in_a_child, args=(queue,), daemon=True)
    child.start()
    assert queue.get(timeout=60) == 5
    child.join(timeout=60)


def test_a_script_without_a_guard_builds_itself(tmp_path):
    # Spawned processes run such a script again and end; the graphs must come all the same.
    script = tmp_path / "script.py"
    script.write_text(
        "from crystalfm.chem.crystals import make_crystal\n"
        "from crystalfm.chem.crystal_graph import GraphSettings\n"
        "from crystalfm.data import graph_cache\n"
        "graph_cache._CHUNK_CRYSTALS = 1\n"
        "text = make_crystal([[3, 0, 0], [0, 3, 0], [0, 0, 3]], [26], [[0, 0, 0]]).to_json()\n"
        "print('built', len(graph_cache.build_graphs([text] * 4, GraphSettings(), num_workers=2)))\n",
        encoding="utf-8",
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert "built 4" in result.stdout


def test_building_needs_no_torch():
    code = "import sys, crystalfm.data.graph_cache; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
