"""Every workflow that ships runs in the host, here with the tiny model and small pictures."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sora_pack.scripts.workflow_api import set_input, to_api

FOLDER = Path(__file__).parents[2] / "workflows"
SMALL = {"SoraLoadModel": {"model": "tiny.safetensors"}, "SoraCanvas": {"size.resolution": 32}, "SoraSampler": {"steps": 1}}
V1_NODES = ("LoadImage", "SaveImage")


@pytest.fixture
def info(graph, host):
    """What the server's /object_info says of a node, for `to_api`."""

    def of(name):
        kind = host.NODE_CLASS_MAPPINGS[name]
        return {"input": kind.INPUT_TYPES()} if name in V1_NODES else kind.GET_NODE_INFO_V1()

    return of


@pytest.fixture
def example(graph):
    """The picture that every ComfyUI has in its input folder."""
    import folder_paths

    path = Path(folder_paths.get_input_directory()) / "example.png"
    Image.new("RGB", (60, 40), "orange").save(path)
    yield path
    path.unlink()


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_workflow_runs(graph, info, example, name):
    workflow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    kinds = {node["type"] for node in workflow["nodes"]} - {"MarkdownNote"}
    prompt = to_api(workflow, {kind: info(kind) for kind in kinds})
    for kind, fields in SMALL.items():
        for field, value in fields.items():
            prompt = set_input(prompt, kind, field, value)
    saved = [files for output in graph.queue(prompt)["outputs"].values() for files in output.get("images", [])]
    assert len(saved) == (4 if name == "text_to_image" else 1)
