"""What the repository promises to whoever installs it: which rooms know the host, what is installed, under which licence."""

import ast
import re
import sys

import pytest

HOST = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "execution", "server"}


def imported(path) -> set[str]:
    """First parts of all that a file imports, at its top or inside functions; relative imports are left out."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_the_core_does_not_know_the_host(root):
    files = sorted((root / "sora_core").rglob("*.py"))
    assert len(files) > 60
    assert {str(path): found for path in files if (found := imported(path) & HOST)} == {}
    upwards = [str(path) for path in files if re.search(r"from \.{2,}nodes|import_module", path.read_text(encoding="utf-8"))]
    assert upwards == []


def test_torch_is_the_hosts(root):
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]
    assert {re.split(r"[\[<>=]", line)[0] for line in needed} == {"einops", "safetensors", "imageio"}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_the_registry_finds_what_it_needs(root):
    import tomllib

    facts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert facts["project"]["dependencies"] == [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]
    assert facts["tool"]["comfy"].keys() >= {"PublisherId", "DisplayName", "requires-comfyui"}
    licence = (root / facts["project"]["license"]["file"]).read_text(encoding="utf-8")
    assert "GNU GENERAL PUBLIC LICENSE" in licence and "Version 3" in licence
    assert "python3 scripts/test.py" in (root / ".ci/run").read_text(encoding="utf-8")
