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
