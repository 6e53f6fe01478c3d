"""Nodes and files that tests give to the host beside its own."""

from pathlib import Path

import pytest
import torch

from sora_pack.tests.host.tiny_host_models import STRIDES, tiny_vae, write_host_model


@pytest.fixture
def clip_node(graph):
    """A node that gives frames no 8-bit format can hold."""
    from comfy_api.latest import io

    class NoisyClip(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            inputs = [io.Int.Input(name) for name in ("count", "width", "height", "seed", "channels")]
            return io.Schema(node_id="NoisyClip", category="test", inputs=inputs, outputs=[io.Image.Output()])

        @classmethod
        def execute(cls, count, width, height, seed, channels):
            return io.NodeOutput(torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(seed)))

    graph.nodes.NODE_CLASS_MAPPINGS["NoisyClip"] = NoisyClip


@pytest.fixture(scope="session")
def host_files(graph):
    """Names of the files, by kind of model."""
    import folder_paths

    folder = next(path for path in map(Path, folder_paths.get_folder_paths("diffusion_models")) if (path / "tiny.safetensors").exists())
    names = {name: write_host_model(folder, name) for name in STRIDES}
    folder_paths.filename_list_cache.pop("diffusion_models", None)
    yield names
    for name in names.values():
        (folder / name).unlink()
    folder_paths.filename_list_cache.pop("diffusion_models", None)


@pytest.fixture
def host_sources(graph):
    """Nodes that give a VAE of some strides, words with all that the text encoder of a model gives, and a text encoder."""
    from comfy_api.latest import io

    def source(node_id: str, output, make) -> type[io.ComfyNode]:
        class Source(io.ComfyNode):
            @classmethod
            def define_schema(cls):
                return io.Schema(node_id=node_id, category="test", inputs=[io.String.Input("name")], outputs=[output.Output()])

            @classmethod
            def execute(cls, name):
                return io.NodeOutput(make(name))

        return Source

    def rows(name: str) -> list:
        mask = {"attention_mask": torch.ones(1, 8, dtype=torch.long)} if name.startswith("ltx") else {}
        words = torch.randn(1, 8, 4096, generator=torch.Generator().manual_seed(6))
        return [[words, {"pooled_output": torch.ones(1, 768), **mask}]]

    graph.nodes.NODE_CLASS_MAPPINGS |= {
        "TinyVAE": source("TinyVAE", io.Vae, lambda name: tiny_vae(STRIDES[name])),
        "Rows": source("Rows", io.Conditioning, rows),
        "TinyCLIP": source("TinyCLIP", io.Clip, Letters),
    }


class Letters:
    """A text encoder: a row for each letter; like HunyuanVideo's it masks some texts and not others, like LTX-Video's it masks all."""

    def __init__(self, name: str):
        self.name = name

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list:
        count = len(text)
        rows = torch.randn(1, count, 4096, generator=torch.Generator().manual_seed(count))
        mask = {"attention_mask": torch.ones(1, count, dtype=torch.long)} if self.name == "ltxv" or count % 2 else {}
        return [[rows, {"pooled_output": torch.full((1, 768), float(count)), **mask}]]
