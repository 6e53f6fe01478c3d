"""The words around the nodes: help pages and translations are whole. (tests/host/test_server.py looks at what the server serves.)"""

import json
import re

import pytest

LANGUAGES = ["en", "zh"]


@pytest.fixture(scope="module")
def nodes(root):
    """Ids of the nodes, from their schemas' source."""
    sources = (path.read_text(encoding="utf-8") for path in (root / "nodes").glob("*.py"))
    return sorted(name for source in sources for name in re.findall(r'node_id="(\w+)"', source))


def test_every_node_has_its_pages(root, nodes):
    assert len(nodes) == 18
    for name in nodes:
        for page in (f"{name}.md", f"{name}/zh.md"):
            text = (root / "web/docs" / page).read_text(encoding="utf-8")
            assert text.startswith("# Sora") and len(text) > 200
    pages = {path.stem for path in (root / "web/docs").glob("*.md")}
    assert pages == set(nodes), "a page of a node that is gone"


def test_a_help_page_names_every_field(root):
    for name, words in json.loads((root / "locales/en/nodeDefs.json").read_text(encoding="utf-8")).items():
        # those of a dynamic field begin with its name and are explained with it
        fields = [field for field in words["inputs"] if not any(field.startswith(f"{other}_") for other in words["inputs"])]
        for page in (f"{name}.md", f"{name}/zh.md"):
            text = (root / "web/docs" / page).read_text(encoding="utf-8")
            assert [field for field in fields if not re.search(rf"\b{field}\b", text, re.ASCII)] == [], page


def test_users_read_of_comfyui(root):
    """What this repository calls the host has a name of its own."""
    pages = [root / "README.md", root / "locales/en/nodeDefs.json"]
    pages += [*(root / "web/docs").rglob("*.md"), *(root / "workflows").glob("*.json")]
    assert [str(page) for page in pages if re.search(r"\bhost\b", page.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_are_whole(root, nodes, language):
    words = json.loads((root / f"locales/{language}/nodeDefs.json").read_text(encoding="utf-8"))
    assert sorted(words) == nodes
    english = json.loads((root / "locales/en/nodeDefs.json").read_text(encoding="utf-8"))

    def check(here, there, path):
        if isinstance(there, dict):
            assert here.keys() == there.keys(), f"{language}: {path}"
            for key in there:
                check(here[key], there[key], f"{path}.{key}")
        else:
            assert here and not set("{}@|") & set(here), f"{language}: {path} is empty or has a sign that vue-i18n reads as code"

    check(words, english, "")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_category_has_a_name(root, language):
    sources = (path.read_text(encoding="utf-8") for path in (root / "nodes").glob("*.py"))
    parts = {part for source in sources for path in re.findall(r'category="([^"]+)"', source) for part in path.split("/")}
    named = json.loads((root / f"locales/{language}/main.json").read_text(encoding="utf-8"))["nodeCategories"]
    assert parts == set(named)


def test_the_readme_names_every_node(root, nodes):
    table = (root / "README.md").read_text(encoding="utf-8")
    words = json.loads((root / "locales/en/nodeDefs.json").read_text(encoding="utf-8"))
    # "Sora Join, Sora Loop" is one row
    assert [words[name]["display_name"] for name in nodes if words[name]["display_name"] not in table] == []


def test_contributing_names_every_file(root):
    house = (root / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")[1]
    named, room = {"nodes": [], "sora_core": []}, ""
    for line in house.splitlines():
        room = line.split("/")[0] if line[:1].strip() else room
        if room in named and (names := re.match(r"  (\w+(?:, \w+)*)  ", line)):
            named[room] += names[1].split(", ")
    for folder, names in named.items():
        files = [path.stem for path in (root / folder).glob("*.py") if not path.stem.startswith("__")]
        assert sorted(set(names)) == sorted(files), folder


def test_every_workflow_has_a_note_in_both_languages(root):
    for path in (root / "workflows").glob("*.json"):
        notes = [n["widgets_values"][0] for n in json.loads(path.read_text(encoding="utf-8"))["nodes"] if n["type"] == "MarkdownNote"]
        assert len(notes) == 1 and notes[0].startswith("# ") and re.search(r"\*\*中文\*\* .*[\u4e00-\u9fff]{4}", notes[0]), path.name
