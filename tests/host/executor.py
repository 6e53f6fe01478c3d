"""Runs API-format prompts through the host's own validation and executor, in this process.

outputs = graph.run({"1": {"class_type": ..., "inputs": {...}}, ...}, ["3", 0])     # the value(s) of output 0 of node 3
"""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

EXTRAS = (
    *("nodes_custom_sampler", "nodes_video", "nodes_images", "nodes_mask", "nodes_latent", "nodes_hunyuan", "nodes_mochi"),
    *("nodes_easycache", "nodes_context_windows", "nodes_hooks", "nodes_model_advanced", "nodes_lt"),
)
PACK_FOLDERS = ("diffusion_models", "vae", "text_encoders")


class FakeServer:
    """As much of the host's server as the executor uses; `events` is what a page would have been sent."""

    client_id, last_node_id, sockets_metadata = None, None, {}

    def __init__(self):
        self.events = []

    def send_sync(self, event, data, sid=None):
        self.events.append((event, data))


class Refused(Exception):
    """The prompt did not pass validation; the text is what the page shows."""


class Failed(Exception):
    """A node failed, or was interrupted (`kind`); the text is its message."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


class Graph:
    def __init__(self, nodes):
        import execution

        self.nodes, self.execution, self.caught = nodes, execution, {}
        self.server = FakeServer()
        self.executor = execution.PromptExecutor(
            self.server, cache_type=execution.CacheType.CLASSIC, cache_args={"ram": 0, "ram_inactive": 0, "lru": 0}
        )
        nodes.NODE_CLASS_MAPPINGS["Catch"] = self._catch()

    def _catch(graph):  # noqa: N805 (the class inside has a self of its own)
        from comfy_api.latest import io

        class Catch(io.ComfyNode):
            """An output node that keeps what it is given."""

            @classmethod
            def define_schema(cls):
                inputs = [io.AnyType.Input("value"), io.String.Input("name")]
                return io.Schema(node_id="Catch", category="test", inputs=inputs, outputs=[], is_output_node=True)

            @classmethod
            def execute(cls, value, name):
                graph.caught.setdefault(name, []).append(value)
                return io.NodeOutput()

        return Catch

    def queue(self, prompt: dict) -> dict:
        """Validates and executes; returns the host's history of it. Raises Refused or Failed."""
        number = uuid.uuid4().hex
        valid, error, outputs, node_errors = asyncio.run(self.execution.validate_prompt(number, prompt, None))
        details = [f"{e['message']}: {e['details']}" for node in node_errors.values() for e in node["errors"]]
        if not valid or details:
            raise Refused("; ".join(details) or str(error))
        self.executor.execute(prompt, number, {}, outputs)
        for kind, data in self.executor.status_messages:
            if kind in ("execution_error", "execution_interrupted"):
                raise Failed(kind, data.get("exception_message", "").strip())
        return self.executor.history_result

    def run(self, prompt: dict, *links):
        """The values at `links` ([node id, output number]); a list for each output that is one. One link gives its value alone."""
        self.caught.clear()
        names = [uuid.uuid4().hex for _ in links]  # never the same, so the host does not take them from its cache
        catches = {name: {"class_type": "Catch", "inputs": {"value": list(link), "name": name}} for name, link in zip(names, links)}
        self.history = self.queue({**prompt, **catches})
        values = [caught if len(caught := self.caught[name]) > 1 else caught[0] for name in names]
        return values[0] if len(values) == 1 else values


def refusal(graph, prompt: dict, link) -> str:
    """The sentence a prompt is refused with, at once or by a node."""
    with pytest.raises((Refused, Failed)) as refused:
        graph.run(prompt, list(link))
    return str(refused.value)


def note(graph, name: str = "canvas") -> str:
    """What a node of the last run shows."""
    return graph.history["outputs"][name]["text"][0]


@pytest.fixture(scope="session")
def graph(host, pack, root):
    """A Graph in which the pack and some of the host's extra nodes are registered, and the tiny model is on file."""
    import folder_paths
    from comfy.cli_args import args

    from sora_pack.nodes import build_extension
    from sora_pack.tests.tiny_model import write_tiny_model

    write_tiny_model(Path(args.base_directory) / "models")

    async def register():
        extras = Path(host.__file__).parent / "comfy_extras"
        for name in EXTRAS:
            assert await host.load_custom_node(str(extras / f"{name}.py"), module_parent="comfy_extras")
        extension = build_extension()
        await extension.on_load()
        for node in await extension.get_node_list():
            host.NODE_CLASS_MAPPINGS[node.GET_SCHEMA().node_id] = node

    asyncio.run(register())
    for kind in PACK_FOLDERS:
        folder_paths.filename_list_cache.pop(kind, None)
    return Graph(host)
