"""The pack in the real server: it loads fast and whole, every node explains itself, nothing is written into the host."""

import itertools
import json
import re
import urllib.request
from pathlib import Path

import pytest

from sora_pack.scripts.server import PACK_NAME, PromptError
from sora_pack.sora_core.pipeline import SHIPPED
from sora_pack.sora_core.video_file import video_facts
from sora_pack.tests.host.prompts import canvas, decode, load, node, sample, save, words

NODES = sorted(page.stem for page in (Path(__file__).parents[2] / "web/docs").glob("*.md"))  # tests/unit/test_words.py: that is all of them
LANGUAGE = "zh"


@pytest.fixture(scope="module")
def described(host_before, server):
    return server.get("/object_info")


def fetch(server, path):
    with urllib.request.urlopen(f"{server.url}{path}", timeout=30) as answer:
        return answer.read().decode()


def inputs_of(info):
    """(name, options) of every input, the nested ones of dynamic combos included."""

    def walk(group, prefix):
        for kind in ("required", "optional"):
            for name, entry in group.get(kind, {}).items():
                options = entry[1] if len(entry) > 1 else {}
                yield prefix + name, options
                for option in options.get("options", []):
                    if isinstance(option, dict):
                        yield from walk(option["inputs"], f"{prefix}{name}.")

    return list(walk(info["input"], ""))


def test_import_is_whole(server):
    """How long it takes is a row of benchmarks/speed.py, against the clock of a quiet machine."""
    line = re.search(rf"([\d.]+) seconds( \(IMPORT FAILED\))?: .*custom_nodes\W+{PACK_NAME}\s", server.log_text())
    assert line, f"the server did not report the pack:\n{server.log_tail()}"
    assert line[2] is None, f"the pack failed to load:\n{server.log_tail(40)}"


def test_every_node_is_registered(described):
    ours = {name for name, info in described.items() if info["python_module"] == f"custom_nodes.{PACK_NAME}"}
    assert sorted(ours) == NODES


@pytest.mark.parametrize("name", NODES)
def test_node_explains_itself(described, name):
    info = described[name]
    assert info["category"].startswith("Sora/")
    assert info["display_name"] and info["display_name"] != name
    assert info["description"]
    assert info["search_aliases"]
    silent = [field for field, options in inputs_of(info) if not options.get("tooltip")]
    assert not silent, f"inputs without a tooltip: {silent}"
    assert all(info["output_tooltips"]) and len(info["output_tooltips"]) == len(info["output"])


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("page", ["{}.md", "{}/" + LANGUAGE + ".md"])
def test_help_page_is_served(server, name, page):
    text = fetch(server, f"/extensions/{PACK_NAME}/docs/{page.format(name)}")
    assert text.startswith("# ") and len(text) > 200
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            fetch(server, f"/extensions/{PACK_NAME}/docs/{page.format(name).rpartition('/')[0]}/{target}")


@pytest.mark.parametrize("name", NODES)
def test_node_speaks_chinese(server, described, name):
    words = server.get("/i18n")[LANGUAGE]["nodeDefs"][name]
    assert words["display_name"] and words["description"]
    for field, _ in inputs_of(described[name]):
        entry = words["inputs"].get(field.replace(".", "_"), {})
        assert entry.get("name") and entry.get("tooltip"), f"{name}.{field} has no Chinese name or tooltip"


def test_templates_are_offered(server):
    names = server.get("/workflow_templates")[PACK_NAME]
    assert {"text_to_video", "image_to_video"} <= set(names)
    for name in names:
        workflow = json.loads(fetch(server, f"/api/workflow_templates/{PACK_NAME}/{name}.json"))
        assert workflow["nodes"], f"{name} is not in UI format"
        with urllib.request.urlopen(f"{server.url}/api/workflow_templates/{PACK_NAME}/{name}.jpg", timeout=30) as answer:
            assert answer.read(2) == b"\xff\xd8", f"{name}.jpg is not a JPEG"


def test_refused_prompt_names_the_field(server, described):
    # A canvas needs a VAE; the server must say so in the field's name, and go on serving.
    prompt = {"1": {"class_type": "SoraCanvas", "inputs": {}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}
    with pytest.raises(PromptError) as refused:
        server.queue(prompt)
    assert "vae" in json.dumps(refused.value.details)  # the sentence is of whichever missing field the host found first
    assert server.get("/queue") == {"queue_running": [], "queue_pending": []}


BEGIN = {**load(SHIPPED.name), **words(), **canvas(height=64), **decode(), **save()}
GOOD = {**BEGIN, **sample(steps=1, guidance=1.0)}
SEEDS = itertools.count(1)  # never the same, so that the server has something to do


def serves(server) -> bool:
    """Whether a good prompt gives its video."""
    (video,) = server.files(server.queue({**GOOD, **sample(steps=1, guidance=1.0, seed=next(SEEDS))}))
    return video_facts(video).frames == 9


@pytest.mark.parametrize(
    "bad, says",
    [
        ({**GOOD, **load("nothing.safetensors")}, "no file 'nothing.safetensors'"),
        ({**GOOD, **load("torn.safetensors")}, "torn"),
        ({**GOOD, **canvas(width=500)}, "width 500 is not a multiple of 16: use 496 or 512"),
        ({**GOOD, **canvas(seconds=-2.0)}, "use 0 (one picture) to 600"),
        ({**GOOD, "canvas": node("EmptyLatentImage", width=64, height=64, batch_size=1)}, "picture's latent of 4 axes"),
    ],
)
def test_bad_prompts_leave_it_serving(server, bad, says):
    whole = SHIPPED.read_bytes()
    torn = server.base / "models/diffusion_models/torn.safetensors"
    torn.parent.mkdir(parents=True, exist_ok=True)
    torn.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PromptError) as refused:
        server.queue(bad)
    torn.unlink()
    assert says in str(refused.value) and serves(server)


def test_interrupt_stops_a_run_and_the_next_is_clean(server):
    steps = []

    def stop(kind, data):
        if kind == "progress" and data["max"] == 500:
            steps.append(data["value"])  # not every one: the host sends few of the quick ones
            if max(steps[:-1], default=0) < 2 <= data["value"]:
                server.interrupt()

    with pytest.raises(PromptError, match="interrupted"):
        server.queue({**BEGIN, **sample(steps=500)}, stop)
    assert 2 <= max(steps) < 500 and serves(server)
    assert server.get("/queue") == {"queue_running": [], "queue_pending": []}


def test_host_folder_is_as_it_was(host_before, server, host_listing):
    assert host_listing() == host_before
