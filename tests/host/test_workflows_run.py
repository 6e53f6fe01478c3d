"""Every workflow that ships runs in the host, here with small models and pictures; host models by files with random weights."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sora_pack.scripts.workflow_api import set_input, to_api
from sora_pack.tests.host.prompts import node

pytestmark = pytest.mark.usefixtures("host_sources")

FOLDER = Path(__file__).parents[2] / "workflows"
SMALL = {"SoraLoadModel": {"model": "tiny.safetensors"}, "SoraSampler": {"steps": 1}}
V1_NODES = ("LoadImage", "SaveImage", "UNETLoader", "CLIPLoader", "VAELoader", "CLIPTextEncode")
HOST_MODELS = {"wan_text_to_video": "wan_t2v", "wan_image_to_video": "wan_i2v", "wan22_5b_image_to_video": "wan22_5b"}


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


def small(prompt: dict, name: str, files: dict) -> dict:
    """The prompt of a workflow with the tiny models, small pictures and one step. A public text encoder cannot be made small."""
    for entry in prompt.values():
        entry["inputs"].update(SMALL.get(entry["class_type"], {}))
        if entry["class_type"] == "SoraCanvas":
            entry["inputs"].update(
                {"size": "custom", "size.width": 32, "size.height": 32} if name in HOST_MODELS else {"size.resolution": 32}
            )
    kind = HOST_MODELS.get(name)
    replaced = {"CLIPTextEncode": node("Rows", name=kind), "VAELoader": node("TinyVAE", name=kind)} if kind else {}
    prompt = {number: replaced.get(entry["class_type"], entry) for number, entry in prompt.items() if entry["class_type"] != "CLIPLoader"}
    return set_input(prompt, "UNETLoader", "unet_name", files[kind]) if kind else prompt


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_what_is_not_shown_is_as_it_comes(graph, info, host, name):
    """Who looks at a template does not see its advanced fields."""
    workflow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    kinds = {node["type"] for node in workflow["nodes"]} - {"MarkdownNote"}
    for entry in to_api(workflow, {kind: info(kind) for kind in kinds}).values():
        of_kind = info(entry["class_type"])["input"]
        for field, (_, *more) in (of_kind.get("required", {}) | of_kind.get("optional", {})).items():
            if more and more[0].get("advanced") and field in entry["inputs"] and entry["class_type"].startswith("Sora"):
                assert entry["inputs"][field] == more[0]["default"], f"{entry['class_type']}.{field}"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_workflow_runs(graph, info, example, host_files, name):
    workflow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    kinds = {node["type"] for node in workflow["nodes"]} - {"MarkdownNote"}
    prompt = small(to_api(workflow, {kind: info(kind) for kind in kinds}), name, host_files)
    saved = [files for output in graph.queue(prompt)["outputs"].values() for files in output.get("images", [])]
    assert len(saved) == (4 if name == "text_to_image" else 1)
