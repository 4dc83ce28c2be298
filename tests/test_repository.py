"""Rules the whole repository keeps."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import crystalfm
from crystalfm.config.python_source import parse_python

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "crystalfm"
SOURCES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted([*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60

FORBIDDEN = {
    "unsafe checkpoint loading": r"weights_only\s*=\s*False",
    "pickle": r"\bpickle\.loads?\(|allow_pickle\s*=\s*True",
    "unverified TLS": r"_create_unverified_context|verify\s*=\s*False",
    "a shell": r"shell\s*=\s*True|\bos\.(system|popen)\(",
    "bare except": r"except\s*:|except\s+BaseException\b",
    "eval or exec": r"(?<![\w.])(eval|exec)\(",
    "unfiltered archive extraction": r"\.extractall\((?!.*filter)",
    "remote code": r"trust_remote_code\s*=\s*True",
    "print": r"(?<![\w.])print\(",
    "assert": r"^\s*assert\b",
    "a note to self": r"#.*\b(TODO|FIXME|HACK|XXX)\b",
    "a silenced type error": r"#\s*type:\s*ignore",
}
"""What no line of the package may hold."""

HEAVY = (
    "torch",
    "lightning",
    "transformers",
    "rdkit",
    "pandas",
    "sklearn",
    "xgboost",
    "matplotlib",
    "requests",
)
"""What help and configuration checks must not wait for."""

FOREIGN_PATH = re.compile(r"(?<![\w.:/~$}-])/(work|tmp|opt|root|home|mnt|srv)/[\w.-]")
"""An absolute path of somebody's machine."""


def relative(path):
    return str(path.relative_to(ROOT))


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def parse(path):
    return parse_python(path.read_text(encoding="utf-8"))


def public_nodes(tree):
    """Module-level functions and classes, and methods of those classes, whose names are public."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for node in tree.body:
        if not isinstance(node, kinds) or node.name.startswith("_"):
            continue
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, kinds) and not member.name.startswith("_"):
                    yield f"{node.name}.{member.name}", member


def speaks_for_itself(node):
    """Overloads and property setters are documented on the function they belong to."""
    marks = [ast.unparse(mark) for mark in getattr(node, "decorator_list", [])]
    return any(mark.endswith(("overload", ".setter")) for mark in marks)


def test_there_is_something_to_check():
    assert len(SOURCES) > 10
    assert (PACKAGE / "contracts.py") in SOURCES


@pytest.mark.parametrize("rule", FORBIDDEN)
def test_no_line_of_the_package_holds(rule):
    pattern = re.compile(FORBIDDEN[rule])
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def swallowed(tree):
    """Lines of handlers that catch every exception and can end without raising again."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and node.type is not None
        and "Exception" in {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)}
        and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    ]


def test_no_exception_is_swallowed():
    assert [f"{relative(path)}:{line}" for path in SOURCES for line in swallowed(parse(path))] == []
    assert swallowed(parse_python("try:\n    f()\nexcept (OSError, Exception):\n    pass\n")) == [3]
    assert swallowed(parse_python("try:\n    f()\nexcept Exception as e:\n    raise E from e\n")) == []


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("unsafe checkpoint loading", "torch.load(path, weights_only=False)"),
        ("pickle", "np.load(path, allow_pickle=True)"),
        ("a shell", "run(command, shell=True)"),
        ("bare except", "    except BaseException:"),
        ("eval or exec", "value = eval(text)"),
        ("unfiltered archive extraction", "archive.extractall(folder)"),
        ("print", "    print(value)"),
        ("a note to self", "x = 1  # TODO later"),
    ],
)
def test_the_rules_recognise_what_they_forbid(rule, line):
    assert re.search(FORBIDDEN[rule], line)


@pytest.mark.parametrize("line", ["model.eval()", "console.print(table)", 'archive.extractall(folder, filter="data")'])
def test_the_rules_let_pass_what_is_fine(line):
    assert not [rule for rule, pattern in FORBIDDEN.items() if re.search(pattern, line)]


def test_no_file_is_too_long():
    lengths = {relative(p): len(p.read_text(encoding="utf-8").splitlines()) for p in [*SOURCES, *SCRIPTS, *TESTS]}
    assert {path: length for path, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_no_function_is_too_long():
    found = [
        f"{relative(path)}:{node.lineno} {node.name}"
        for path in [*SOURCES, *SCRIPTS]
        for node in functions(parse(path))
        if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert found == []


def test_entry_points_are_thin():
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.glob("*.py")}
    assert {"train.py", "evaluate.py", "generate.py"} <= lengths.keys()
    assert {name: length for name, length in lengths.items() if length >= 60} == {}


def test_every_public_name_has_a_docstring():
    missing = [relative(path) for path in [*SOURCES, *SCRIPTS] if not ast.get_docstring(parse(path))]
    missing += [
        f"{relative(path)}: {name}"
        for path in SOURCES
        for name, node in public_nodes(parse(path))
        if not ast.get_docstring(node) and not speaks_for_itself(node)
    ]
    assert missing == []


def test_every_function_is_annotated():
    bare = []
    for path in [*SOURCES, *SCRIPTS]:
        for node in functions(parse(path)):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            untyped = [a.arg for a in given if a.annotation is None and a.arg not in {"self", "cls"}]
            if untyped or node.returns is None:
                bare.append(f"{relative(path)}:{node.lineno} {node.name} {untyped}")
    assert bare == []


def repository_texts():
    folders = ["src", "conf", "docs", "scripts", "benchmarks", ".ci"]
    named = [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "CITATION.cff",
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
    ]
    kinds = {".py", ".yaml", ".toml", ".md", ".cff", ".txt", ".sh", ""}
    listed = [path for folder in folders for path in sorted((ROOT / folder).rglob("*"))]
    return [path for path in [*listed, *(ROOT / name for name in named)] if path.is_file() and path.suffix in kinds]


def test_nothing_points_into_somebodys_machine():
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in repository_texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FOREIGN_PATH.search(line)
    ]
    assert found == []
    assert FOREIGN_PATH.search("cache: /home/somebody/.cache")
    assert not FOREIGN_PATH.search("https://example.org/home/page")


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == crystalfm.__version__ == citation["version"]
    assert project["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_four_papers_can_be_cited():
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"]
    identifiers = {entry.get("doi") or entry["identifiers"][0]["value"] for entry in references}
    assert identifiers == {
        "10.1039/D4DD00199K",
        "arXiv:2503.01022",
        "arXiv:2402.04379",
        "10.1038/s41524-023-01062-z",
    }
    assert all(entry["authors"] and entry["title"] and entry["year"] for entry in references)


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned_to_a_version_that_fits():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert len(pins) == len({normalised(name) for name in pins})
    pins = {normalised(name): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [text for extra in project["optional-dependencies"].values() for text in extra]
    for requirement in map(Requirement, wanted):
        assert normalised(requirement.name) in pins, f"{requirement} is not pinned"
        assert requirement.specifier.contains(pins[normalised(requirement.name)]), str(requirement)


def test_help_names_every_target():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE).group(1).split()
    assert set(phony) == {"help", "setup", "demo", "test", "check", "bench", "docs", "clean"}
    shown = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True).stdout
    assert [target for target in phony if f"make {target}" not in shown] == []


def test_light_rooms_import_without_heavy_libraries():
    light = [
        PACKAGE / "contracts.py",
        *(p for room in ("io", "assets", "config") for p in (PACKAGE / room).glob("*.py")),
    ]
    light += [PACKAGE / "report" / "tables.py", PACKAGE / "report" / "summary.py"]
    modules = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in light]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"heavy = set({HEAVY!r})\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.stderr == ""
    assert answer.stdout.split() == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_everything_it_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "crystalfm/py.typed",
        "crystalfm/conf/train.yaml",
        "crystalfm/conf/experiment/quickstart.yaml",
    } <= names
    in_tree = {
        f"crystalfm/conf/{path.relative_to(ROOT / 'conf').as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")
    }
    assert in_tree <= names
    data = {
        f"crystalfm/{p.relative_to(PACKAGE).as_posix()}" for p in PACKAGE.rglob("*") if p.suffix in {".py", ".toml"}
    }
    assert data <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_runs_from_any_folder(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}

    def python(*arguments):
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    where = python("-c", "import crystalfm; print(crystalfm.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(tmp_path)
    answer = python("-m", "crystalfm", "train", "--cfg", "job", "experiment=quickstart")
    assert answer.returncode == 0, answer.stderr
    assert yaml.safe_load(answer.stdout)["name"] == "quickstart"
