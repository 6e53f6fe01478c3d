"""What a user does in the browser: open a template, press Run, watch the video; add our nodes by search and connect them."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import TimeoutError, expect

from sora_pack.scripts.environment import host_folder
from sora_pack.scripts.server import PACK_NAME
from sora_pack.scripts.workflow_api import to_api

WORKFLOWS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parents[2] / "workflows").glob("*.json"))}
TEMPLATES = list(WORKFLOWS)
LOADERS = ("UNETLoader", "CLIPLoader", "VAELoader")  # of files that a user has and this machine has not
DOUBLE_CLICKS = 20  # the page takes two clicks for one double click only within 300 ms, which a busy machine misses now and then
RUN_LIMIT = 1_800_000  # milliseconds; a two-core machine may be busy with something else
SET_STEPS = """steps => {
    const sampler = app.graph.nodes.find(node => node.type === 'SoraSampler')
    sampler.widgets.find(widget => widget.name === 'steps').value = steps
}"""


# What the node that saves shows: its own <video>, or the <img> that it draws.
SHOWN = """() => {
    const node = app.graph.nodes.find(node => ['SaveVideo', 'SaveImage'].includes(node.type))
    return node.imgs?.[0] ?? node.widgets.find(widget => widget.name === 'video-preview')?.element.querySelector('video')
}"""
SECONDS = {"one_minute": 60, "storyboard": 9, "text_to_image": 0}
# Words to search for, what they must find, and where it is put on the page.
NODES = (
    ("sora load", "SoraLoadModel", 200, 200),
    ("sora prompt", "SoraPrompt", 460, 180),
    ("sora canvas", "SoraCanvas", 460, 520),
    ("sora place image", "SoraPlaceImage", 760, 640),
    ("sora sampler", "SoraSampler", 760, 180),
    ("sora noise", "SoraNoise", 1040, 640),
    ("sora decode", "SoraDecode", 1040, 200),
    ("sora decode frames", "SoraDecodeFrames", 1040, 420),
    ("save video", "SaveVideo", 1300, 200),
)
LINKS = (
    ("SoraLoadModel", "CLIP", "SoraPrompt", "clip"),
    ("SoraLoadModel", "VAE", "SoraCanvas", "vae"),
    ("SoraLoadModel", "MODEL", "SoraSampler", "model"),
    ("SoraPrompt", "CONDITIONING", "SoraSampler", "positive"),
    ("SoraCanvas", "LATENT", "SoraSampler", "latent"),
    ("SoraLoadModel", "VAE", "SoraDecode", "vae"),
    ("SoraSampler", "LATENT", "SoraDecode", "latent"),
    ("SoraDecode", "VIDEO", "SaveVideo", "video"),
)
SET_SECONDS = """seconds => {
    const canvas = app.graph.nodes.find(node => node.type === 'SoraCanvas')
    canvas.widgets.find(widget => widget.name === 'seconds').value = seconds
}"""


def open_template(page, name):
    """By the template browser, as a user does."""
    page.get_by_text("Templates", exact=True).first.click()
    page.get_by_text(PACK_NAME, exact=True).first.click()
    page.get_by_test_id(f"template-workflow-{name}").click()
    expect(page.get_by_test_id("template-workflows-content")).to_have_count(0)
    page.wait_for_function("name => app.extensionManager.workflow.activeWorkflow?.path.endsWith(`${name}.json`)", arg=name)
    page.wait_for_function("() => app.graph.nodes.length > 0")


def add_by_search(page, words, x, y):
    """Double-click the canvas, type, take the first result and put it down there. Returns its node id."""
    box = page.get_by_placeholder("Add a node...")
    for _ in range(DOUBLE_CLICKS):
        page.mouse.dblclick(x, y)
        try:
            box.wait_for(timeout=3000)
            break
        except TimeoutError:
            continue
    box.fill(words)
    page.locator("#results-list [role=option]").first.wait_for()
    page.wait_for_function("() => !document.querySelector('#results-list')?.matches('[aria-busy=true]')")
    before = page.evaluate("() => app.graph.nodes.map(node => node.id)")
    page.keyboard.press("Enter")
    expect(box).to_have_count(0)
    page.mouse.move(x, y)
    page.mouse.click(x, y)  # the new node hangs on the pointer until it is put down
    added = page.evaluate("before => app.graph.nodes.map(node => node.id).filter(id => !before.includes(id))", before)
    assert len(added) == 1, f"searching '{words}' added {len(added)} nodes"
    return added[0]


def connect(page, source, output, target, slot):
    """Drag a link with the mouse from an output to an input, both by name."""
    ends = page.evaluate(
        """([source, output, target, slot]) => {
            const place = (node, isInput, name) => {
                const slots = isInput ? node.inputs : node.outputs
                const index = slots.findIndex(entry => entry.name === name)
                const at = isInput ? node.getInputPos(index) : node.getOutputPos(index)
                const [x, y] = app.canvas.ds.convertOffsetToCanvas(at)
                const frame = app.canvas.canvas.getBoundingClientRect()
                return [x + frame.left, y + frame.top]
            }
            return [place(app.graph.getNodeById(source), false, output), place(app.graph.getNodeById(target), true, slot)]
        }""",
        [source, output, target, slot],
    )
    page.mouse.move(*ends[0])
    page.mouse.down()
    page.mouse.move(*ends[1], steps=8)
    page.mouse.up()
    linked = page.evaluate(
        """([id, slot]) => {
            const entry = app.graph.getNodeById(id).inputs.find(entry => entry.name === slot)
            return entry.link === null ? null : app.graph.links.get(entry.link).origin_id
        }""",
        [target, slot],
    )
    assert linked == source, f"{slot} is linked to {linked}, not to {source}"


def run_and_watch(page):
    """Press Run, wait for the end, play the video in the node that saves it, or see its picture. Returns [seconds long, width, height]."""
    page.evaluate("""() => {
        window.outcome = null
        for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
            app.api.addEventListener(kind, event => { window.outcome = [kind, event.detail?.exception_message ?? ''] })
    }""")
    page.get_by_test_id("queue-button").click()
    page.wait_for_function("() => window.outcome || app.lastNodeErrors", timeout=RUN_LIMIT)
    assert page.evaluate("() => app.lastNodeErrors") in (None, {})
    assert page.evaluate("() => window.outcome") == ["execution_success", ""]
    page.wait_for_function(f"() => ({SHOWN})()")
    if page.evaluate(f"() => ({SHOWN})().tagName") == "IMG":
        return page.evaluate(f"async () => {{ const x = ({SHOWN})(); await x.decode(); return [0, x.naturalWidth, x.naturalHeight] }}")
    page.wait_for_function(f"() => {{ const x = ({SHOWN})(); return x.isConnected && x.offsetWidth > 0 && x.readyState >= 3 }}")
    page.evaluate(f"() => {{ const x = ({SHOWN})(); x.muted = true; return x.play() }}")
    page.wait_for_function(f"() => ({SHOWN})().currentTime > 0.2")
    return page.evaluate(f"() => {{ const x = ({SHOWN})(); return [x.duration, x.videoWidth, x.videoHeight] }}")


@pytest.fixture(scope="module")
def template(request, open_page, server):
    """A template, opened in a page of its own: (its name, the page). The tests of one template share it, one after the other."""
    # The picture that every ComfyUI has in its input folder, and that templates name.
    server.upload(host_folder() / "input" / "example.png")
    with open_page() as page:
        open_template(page, request.param)
        yield request.param, page


def of(names):
    """Parameters for `template`, which pytest then takes one after the other, all tests of a template together."""
    return pytest.mark.parametrize("template", names, indirect=True, scope="module")


@of(TEMPLATES)
def test_template_opens_whole(template, picture):
    name, page = template
    unknown = page.evaluate("() => app.graph.nodes.map(node => node.type).filter(type => !LiteGraph.registered_node_types[type])")
    assert unknown == [] or set(unknown) <= {"Note", "MarkdownNote"}
    errors = page.evaluate("() => app.graph.nodes.filter(node => node.has_errors).map(node => node.type)")
    assert sorted(errors) == sorted(kind for kind in LOADERS if f'"{kind}"' in WORKFLOWS[name])
    if not errors:
        expect(page.get_by_test_id("error-overlay")).to_have_count(0)
    picture(page, f"template_{name}")


@of(TEMPLATES)
def test_conversion_agrees_with_the_page(template, server):
    name, page = template
    theirs = page.evaluate("async () => (await app.graphToPrompt()).output")
    for node in theirs.values():
        node.pop("_meta")
    assert to_api(json.loads(WORKFLOWS[name]), server.get("/object_info")) == theirs


@pytest.mark.slow
@of([name for name in TEMPLATES if "UNETLoader" not in WORKFLOWS[name]])
def test_page_queues_and_plays(template, picture):
    name, page = template
    if name != "text_to_video":  # one whole run is enough
        page.evaluate(SET_STEPS, 1)
    seconds, width, height = run_and_watch(page)
    assert width > 0 and height > 0
    assert abs(seconds - SECONDS[name]) < 0.5 if name in SECONDS else seconds > 0.5, f"{seconds} seconds"
    picture(page, f"video_{name}")


def test_nodes_are_found_connected_and_run(page, picture):
    """From an empty canvas to a video, with the mouse; fewer seconds and steps than a user would take."""
    page.evaluate("() => { app.graph.clear(); app.canvas.ds.reset(); app.canvas.ds.scale = 0.6 }")
    added = {kind: add_by_search(page, words, x, y) for words, kind, x, y in NODES}
    assert page.evaluate("() => app.graph.nodes.map(node => [node.type, node.id])") == [list(node) for node in added.items()]
    for source, output, target, slot in LINKS:
        connect(page, added[source], output, added[target], slot)
    picture(page, "nodes_by_search")
    page.evaluate(SET_STEPS, 1)
    page.evaluate(SET_SECONDS, 1)
    seconds, width, height = run_and_watch(page)
    assert (width, height) == (128, 128) and abs(seconds - 1) < 0.2
    picture(page, "video_of_nodes_by_search")


def test_shots_get_fields(page, picture):
    """A number of shots shows the fields of so many, with sockets for pictures, and they are queued under the names that the node reads."""
    page.evaluate("() => { app.graph.clear(); app.canvas.ds.reset() }")
    add_by_search(page, "sora storyboard", 500, 300)
    page.evaluate("""() => {
        const shots = app.graph.nodes[0].widgets.find(widget => widget.name === 'shots')
        shots.value = '2'
        shots.callback?.('2')
    }""")
    page.wait_for_function("() => app.graph.nodes[0].inputs.some(slot => slot.name === 'shots.picture_2')")
    slots = page.evaluate("() => app.graph.nodes[0].inputs.map(slot => [slot.name, slot.type, !!slot.widget])")
    assert ["shots.picture_1", "IMAGE", False] in slots and ["shots.words_2", "STRING", True] in slots, slots
    assert "shots.picture_3" not in [name for name, *_ in slots]
    queued = next(iter(page.evaluate("async () => (await app.graphToPrompt()).output").values()))["inputs"]
    assert {name: queued[name] for name in queued if name.startswith("shots")} == {
        "shots": "2",
        **{"shots.seconds_1": 3, "shots.words_1": "", "shots.seconds_2": 3, "shots.words_2": "", "shots.transition_2": "cut"},
    }
    picture(page, "storyboard_fields")


def test_plan_tells_the_costs_before_anything_is_made(page, picture):
    """Select the node, press the run button above it: the numbers stand on it, and nothing was sampled."""
    open_template(page, "one_minute")
    page.evaluate("""() => {
        window.ran = []
        app.api.addEventListener('executing', event => window.ran.push(String(event.detail)))
        app.api.addEventListener('execution_success', () => { window.done = true })
        const plan = app.graph.nodes.find(node => node.type === 'SoraPlan')
        app.canvas.selectNode(plan)
        app.canvas.centerOnNode(plan)
    }""")
    page.get_by_label("Execute to selected output nodes").click()
    page.wait_for_function("() => window.done", timeout=RUN_LIMIT)
    kinds = page.evaluate("() => window.ran.map(id => app.graph.getNodeById(id)?.type)")
    assert "SoraPlan" in kinds and "SoraSampler" not in kinds, kinds
    shown = page.evaluate("() => app.graph.nodes.find(node => node.type === 'SoraPlan').widgets.map(widget => String(widget.value)).join()")
    picture(page, "plan_alone")
    assert "foresight: 16 passes" in shown and "GB" in shown and "for each step" in shown, shown
