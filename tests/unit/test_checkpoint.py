import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sora_pack.sora_core import checkpoint
from sora_pack.sora_core.autoencoder import VideoVAE
from sora_pack.sora_core.checkpoint import (
    CheckpointError,
    load_text,
    load_transformer,
    load_vae,
    read_header,
    read_layout,
    save_model,
    save_vae,
)
from sora_pack.sora_core.config import PRESETS, ModelHeader, TextConfig, TransformerConfig, VAEConfig
from sora_pack.sora_core.files import FullDisk
from sora_pack.sora_core.text import ByteTextEncoder
from sora_pack.sora_core.transformer import SpacetimeTransformer

CONFIG = TransformerConfig(dim=128, ffn_dim=96, num_layers=2, text_dim=64)
HEADER = ModelHeader(name="tiny", noise="frame", shift=3.0, native_fps=8.0, words=("ball", "球"), preview_factors=((0.1, 0.2, 0.3),) * 17)


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(0)
    return SpacetimeTransformer(CONFIG).state_dict()


@pytest.fixture
def path(tmp_path, tensors):
    save_model(tmp_path / "model.safetensors", tensors, HEADER)
    return tmp_path / "model.safetensors"


def refused(path, load=load_transformer):
    with pytest.raises(CheckpointError) as error:
        load(path)
    message = str(error.value)
    assert path.name in message and "\n" not in message and len(message) < 300
    return message


# -- right files -------------------------------------------------------------------------------------------------------------------


def test_a_transformer_comes_back(path, tensors):
    model, header = load_transformer(path)
    assert header == HEADER and model.config == CONFIG and not model.training
    assert all(torch.equal(t, tensors[n]) for n, t in model.state_dict().items())
    assert json.loads(read_header(path)["sora"])["name"] == "tiny"


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model."])
def test_public_prefixes(tmp_path, tensors, prefix):
    save_file({prefix + n: t for n, t in tensors.items()} | {"vae.something": torch.zeros(1)}, tmp_path / "public.safetensors")
    model, header = load_transformer(tmp_path / "public.safetensors")
    assert model.config == CONFIG and header == ModelHeader()
    assert header.shift == 8 and header.native_fps == 16 and header.noise == "video"


def test_types(tmp_path, tensors):
    mixed = {n: t if t.ndim == 1 else t.bfloat16() for n, t in tensors.items()}
    save_model(tmp_path / "half.safetensors", mixed)
    model, _ = load_transformer(tmp_path / "half.safetensors")
    assert model.patch_embedding.weight.dtype == torch.float32
    assert {p.dtype for n, p in model.named_parameters() if not n.startswith("patch_embedding")} == {torch.bfloat16}
    model, _ = load_transformer(tmp_path / "half.safetensors", torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_are_found_for_every_preset(name):
    model = SpacetimeTransformer(PRESETS[name], device="meta")
    shapes = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    assert checkpoint.detect_transformer(shapes, name) == PRESETS[name]


@pytest.mark.parametrize("dim, ffn, blocks", [(1536, 8960, 30), (5120, 13824, 40)])
def test_the_public_files_have_their_sizes(dim, ffn, blocks):
    """Wan 2.1 text to video 1.3B and 14B, by shapes as they are published."""
    shapes = {
        "patch_embedding.weight": (dim, 16, 1, 2, 2),
        "text_embedding.0.weight": (dim, 4096),
        "time_embedding.0.weight": (dim, 256),
        "head.head.weight": (64, dim),
        **{f"blocks.{i}.ffn.0.weight": (ffn, dim) for i in range(blocks)},
    }
    found = checkpoint.detect_transformer(shapes, "file")
    assert (found.dim, found.ffn_dim, found.num_layers, found.num_heads) == (dim, ffn, blocks, dim // 128)
    whole = {n: tuple(t.shape) for n, t in SpacetimeTransformer(found, device="meta").state_dict().items()}
    assert whole.items() >= shapes.items() and f"blocks.{blocks}.ffn.0.weight" not in whole


@pytest.mark.parametrize("config", [VAEConfig(dim=8), VAEConfig(dim=96), VAEConfig(8, 4, (1, 1, 3), 1, (True, False))])
def test_sizes_of_a_vae_are_found(config):
    model = VideoVAE(config, device="meta")
    assert checkpoint.detect_vae({n: tuple(t.shape) for n, t in model.state_dict().items()}, "vae") == config


def test_a_vae_comes_back(tmp_path):
    vae = VideoVAE(VAEConfig(dim=8))
    save_vae(tmp_path / "vae.safetensors", vae)
    back = load_vae(tmp_path / "vae.safetensors")
    assert back.config == vae.config and all(torch.equal(t, vae.state_dict()[n]) for n, t in back.state_dict().items())
    assert load_vae(tmp_path / "vae.safetensors", torch.bfloat16).conv1.weight.dtype == torch.bfloat16


def test_a_text_encoder_comes_back(tmp_path):
    encoder = ByteTextEncoder(TextConfig(dim=128, num_layers=1, num_heads=2, pieces=300, stride=3)).eval()
    save_model(tmp_path / "text.safetensors", encoder.state_dict(), HEADER)
    back = load_text(tmp_path / "text.safetensors")
    assert back.config == encoder.config
    assert torch.equal(back.encode(["a ball"]), encoder.encode(["a ball"]))


# -- wrong files -------------------------------------------------------------------------------------------------------------------


def test_no_file(tmp_path):
    assert "does not exist" in refused(tmp_path / "nothing.safetensors")


def test_pickles_are_refused_unopened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    torch.save({"x": torch.zeros(1)}, tmp_path / "zip.ckpt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    (tmp_path / "named.safetensors").write_bytes(pickle.dumps(Bomb(), protocol=4))
    for name in ("zip.ckpt", "old.pt", "named.safetensors"):
        assert "pickle" in refused(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "start, says",
    [(b"GGUF\x03\0\0\0", "GGUF"), (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"), (b"<!DOCTYPE html>", "web page"),
     (b"", "0 bytes"), (b"\x10\0\0", "3 bytes"), (b"\xff" * 200, "not a safetensors")],
)  # fmt: skip
def test_other_formats_are_named(tmp_path, start, says):
    (tmp_path / "model.safetensors").write_bytes(start)
    assert says in refused(tmp_path / "model.safetensors")


@pytest.mark.parametrize("kind", [torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.bool, torch.float8_e4m3fn])
def test_a_file_of_other_types_is_not_called_torn(tmp_path, kind):
    save_file({"a": torch.zeros(3, 5).to(kind)}, tmp_path / "m.safetensors")
    assert read_layout(tmp_path / "m.safetensors")[1]["a"].shape == (3, 5)


@pytest.mark.parametrize("keep", [20, 0.3, 0.999])
def test_torn_files(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: keep if keep > 1 else int(len(data) * keep)])
    assert "torn" in refused(path)


def test_bytes_behind_the_end(path):
    path.write_bytes(path.read_bytes() + b"\0" * 7)
    assert "torn" in refused(path)


@pytest.mark.parametrize("entry", [b'{"a": 3}', b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', b"{nope", b'{"a": {}}'])
def test_damaged_headers(tmp_path, entry):
    (tmp_path / "m.safetensors").write_bytes(len(entry).to_bytes(8, "little") + entry + b"\0" * 4)
    assert "damaged" in refused(tmp_path / "m.safetensors")


def test_a_damaged_header_key(tmp_path, tensors):
    for wrong in ("{", "[]", '{"words": 3}'):
        save_file(tensors, tmp_path / "m.safetensors", {"sora": wrong})
        assert "'sora'" in refused(tmp_path / "m.safetensors")


def changed(tmp_path, tensors, change):
    tensors = dict(tensors)
    change(tensors)
    save_file(tensors, tmp_path / "m.safetensors")
    return refused(tmp_path / "m.safetensors")


def test_missing_foreign_and_misshapen_tensors_are_named(tmp_path, tensors):
    def drop(t):
        del t["blocks.1.cross_attn.norm_q.weight"], t["blocks.1.ffn.2.bias"]

    assert "lacks 'blocks.1.cross_attn.norm_q.weight' and 1 more" in changed(tmp_path, tensors, drop)
    assert "'extra.weight'" in changed(tmp_path, tensors, lambda t: t.update({"extra.weight": torch.zeros(1)}))
    message = changed(tmp_path, tensors, lambda t: t.update({"blocks.0.self_attn.k.bias": torch.zeros(127)}))
    assert "'blocks.0.self_attn.k.bias' has the shape [127] where [128] is right" in message
    assert "lacks 'blocks.0." in changed(tmp_path, tensors, lambda t: [t.pop(n) for n in list(t) if n.startswith("blocks.0.self")])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_that_are_not_finite_are_named(tmp_path, tensors, value, dtype):
    weight = tensors["blocks.1.ffn.0.weight"].to(dtype, copy=True)
    weight[3, 5] = value
    message = changed(tmp_path, tensors, lambda t: t.update({"blocks.1.ffn.0.weight": weight}))
    assert "'blocks.1.ffn.0.weight' holds values that are not finite" in message


def test_types_that_are_not_read_are_named(tmp_path, tensors):
    weight = tensors["blocks.1.ffn.0.weight"].to(torch.float8_e4m3fn)
    assert "F8_E4M3" in changed(tmp_path, tensors, lambda t: t.update({"blocks.1.ffn.0.weight": weight}))
    assert "I64" in changed(tmp_path, tensors, lambda t: t.update({"head.head.bias": torch.zeros(64, dtype=torch.int64)}))


@pytest.mark.parametrize(
    "name, says",
    [("vace_blocks.0.ffn.0.bias", "VACE"), ("img_emb.proj.0.weight", "image-to-video"), ("blocks.0.cross_attn.k_img.bias", "image"),
     ("control_adapter.conv.weight", "camera"), ("blocks.0.attn1.to_q.weight", "diffusers"), ("blocks.0.ffn.0.scale_weight", "fp8")],
)  # fmt: skip
def test_other_models_of_the_family_are_named(tmp_path, tensors, name, says):
    assert says in changed(tmp_path, tensors, lambda t: t.update({name: torch.zeros(2)}))


def test_a_model_with_more_inputs_than_outputs_is_no_text_to_video(tmp_path, tensors):
    wide = torch.zeros(128, 36, 1, 2, 2)
    assert "takes 36 channels and gives 16" in changed(tmp_path, tensors, lambda t: t.update({"patch_embedding.weight": wide}))


def test_entirely_other_files(tmp_path):
    save_file({"layer.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    assert "no Wan 2.1 text-to-video" in refused(tmp_path / "other.safetensors")
    assert "no Wan 2.1 VAE" in refused(tmp_path / "other.safetensors", load_vae)
    assert "no text encoder" in refused(tmp_path / "other.safetensors", load_text)


def test_files_in_the_wrong_place_are_named(tmp_path, path):
    save_vae(tmp_path / "vae.safetensors", VideoVAE(VAEConfig(dim=8)))
    save_model(tmp_path / "text.safetensors", ByteTextEncoder(TextConfig(dim=64, num_layers=1, num_heads=1)).state_dict())
    assert "is a VAE" in refused(tmp_path / "vae.safetensors")
    assert "text encoder" in refused(tmp_path / "text.safetensors")
    assert "no Wan 2.1 VAE" in refused(path, load_vae)


# -- writing -----------------------------------------------------------------------------------------------------------------------


def test_writing_is_whole_or_not_at_all(tmp_path, tensors, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(path, tensors, HEADER)
    before = path.read_bytes()

    def fail(part, data):
        with part.open("wb") as file:
            file.write(data[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(FullDisk, match="The disk is full: model.safetensors was not written"):
        save_model(path, tensors, HEADER)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_model_file_may_be_read_by_whoever_may_read_other_files(tmp_path, path):
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_is_written_is_plain_safetensors(path, tensors):
    assert load_file(path).keys() == tensors.keys()
    assert read_header(path).keys() == {"format", "sora"}


def test_check_state_takes_tensors_and_shapes():
    expected = {"a": (2, 3), "b": (4,)}
    checkpoint.check_state({"a": torch.zeros(2, 3), "b": (4,)}, expected, "it")
    with pytest.raises(CheckpointError, match=r"it: 'b' has the shape \[5\] where \[4\] is right"):
        checkpoint.check_state({"a": (2, 3), "b": (5,)}, expected, "it")
