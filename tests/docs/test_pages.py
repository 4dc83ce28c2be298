"""Pages lead where they say."""

import re
import subprocess
import sys

import pytest
from documented import PAGES, ROOT, commands

LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


def anchors(text):
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    broken = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        if not other.exists() or (anchor and anchor not in anchors(other.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


def test_every_page_is_reachable_from_the_readme_or_the_index():
    linked = set()
    for start in (ROOT / "README.md", ROOT / "docs" / "index.md"):
        for target in LINK.findall(start.read_text(encoding="utf-8")):
            linked.add((start.parent / target.partition("#")[0]).resolve())
    assert {page for page in PAGES if page.name not in {"README.md", "index.md"}} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_fences_are_closed_and_named(page):
    fences = re.findall(r"^```.*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert all(fence != "```" for fence in fences[::2])


def test_the_two_commands_stand_in_the_readme():
    lines = {command.line for command in commands() if command.page == "README.md"}
    assert {"make demo", "make test"} <= lines


def test_the_results_section_can_be_filled():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"<!-- results:quickstart -->\n.+?\n<!-- /results:quickstart -->", text, re.DOTALL)


def test_the_table_of_keys_is_current():
    script = ROOT / "scripts" / "key_table.py"
    answer = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert answer.stderr == ""
    assert answer.returncode == 0, "docs/keys.md is out of date: make docs"
