"""The nodes through the host's real executor: words, canvases and pictures; all that is refused, in one sentence."""

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sora_pack.sora_core.autoencoder import VideoVAE
from sora_pack.sora_core.checkpoint import save_vae
from sora_pack.sora_core.config import VAEConfig
from sora_pack.tests.host.executor import refusal
from sora_pack.tests.host.prompts import canvas, decode, extend, frames, ksample, load, node, picture, place, sample, save, words

# -- words ---------------------------------------------------------------------------------------------------------------------------


def test_unknown_words_are_named(graph):
    graph.run({**load(), **words("a red dragon")}, ["words", 0])
    assert "dragon" in graph.history["outputs"]["words"]["text"][0]
    graph.run({**load(), **words("a red ball")}, ["words", 0])
    assert graph.history["outputs"]["words"]["text"] == ["The model knows all words."]


def test_empty_prompt_is_zero_rows(graph):
    (rows, _), *_ = graph.run({**load(), **words("")}, ["words", 0])
    assert rows.shape == (1, 64, 4096) and not rows.any()


def test_host_text_node_gives_the_same(graph):
    prompt = {**load(), **words("a red ball rolls"), "host": node("CLIPTextEncode", clip=["load", 1], text="a red ball rolls")}
    ours, theirs = graph.run(prompt, ["words", 0], ["host", 0])
    assert torch.equal(ours[0][0], theirs[0][0]) and ours[0][0].dtype == torch.float32


def test_weights_in_brackets(graph):
    plain, heavy, escaped = (
        graph.run({**load(), **words(text)}, ["words", 0])[0][0] for text in ("red ball", "(red ball:1.5)", r"\(red ball\)")
    )
    assert torch.allclose(heavy, plain * torch.where(plain.any(-1, keepdim=True), 1.5, 1.0), atol=1e-5)
    assert not torch.equal(escaped, plain)


def test_leading_space_does_not_shift_weights(graph):
    one, two = (graph.run({**load(), **words(text)}, ["words", 0])[0][0] for text in ("red (ball:2)", "   red (ball:2)"))
    assert torch.equal(one, two)


def test_long_prompt(graph):
    sentence = refusal(graph, {**load(), **words("a " * 50_000)}, ["words", 0])
    assert "99,999" in sentence or "100,000" in sentence
    assert "1,024" in sentence and "text" in sentence
    linked = {**load(), "host": node("CLIPTextEncode", clip=["load", 1], text="a " * 50_000)}
    assert "1,024" in refusal(graph, linked, ["host", 0])
    whole, padded = (graph.run({**load(), **words(text)}, ["words", 0])[0][0] for text in ("a" * 1024, f" {'a' * 1024}\n"))
    assert torch.equal(whole, padded), "space around the words does not count"


class OtherClip:
    """That of Wan reads 512 tokens, more than our 1,024 bytes."""

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        return [[tokens, {}]]


def test_a_long_prompt_for_another_encoder(pack):
    from sora_pack.nodes.encode_prompt import SoraPrompt

    assert SoraPrompt.execute(OtherClip(), "a " * 900).result[0] == [["a " * 900, {}]]


def test_long_shots(graph):
    shots = node("SoraStoryboard", clip=["load", 1], vae=["load", 2], script="[0-2 s] a ball\n[2-4 s] " + "a " * 900, fps=8.0)
    sentence = refusal(graph, {**load(), "shots": shots}, ["shots", 0])
    assert "line 2" in sentence and "1,024" in sentence


def test_long_shots_for_another_encoder(graph):
    from sora_pack.nodes.storyboard import SoraStoryboard

    vae = graph.run(load(), ["load", 2])
    text = ("a " * 900).strip()
    assert SoraStoryboard.execute(OtherClip(), vae, f"[0-2 s] {text}", 8.0).result[0] == [[text, {}]]


def test_a_checkpoint_without_text_encoder_or_vae(graph):
    """The host's loaders hand on None for what is not in the file."""
    from sora_pack.nodes.canvas import SoraCanvas
    from sora_pack.nodes.encode_prompt import SoraPrompt
    from sora_pack.nodes.storyboard import SoraStoryboard

    clip, vae = graph.run(load(), ["load", 1], ["load", 2])
    for run in (lambda: SoraPrompt.execute(None, "a ball"), lambda: SoraStoryboard.execute(None, vae, "[0-2 s] a ball", 8.0)):
        with pytest.raises(ValueError, match="clip: the checkpoint holds no text encoder: connect 'Load CLIP'"):
            run()
    for run in (lambda: SoraCanvas.execute(None, 1.0, 8.0), lambda: SoraStoryboard.execute(clip, None, "[0-2 s] a ball", 8.0)):
        with pytest.raises(ValueError, match="vae: the checkpoint holds none: connect 'Load VAE'"):
            run()


# -- canvas --------------------------------------------------------------------------------------------------------------------------


def test_canvas_says_what_it_is(graph):
    latent = graph.run({**load(), **canvas(seconds=1.1)}, ["canvas", 0])
    assert latent["samples"].shape == (1, 16, 4, 4, 8) and not latent["samples"].any()
    assert graph.history["outputs"]["canvas"]["text"][0] == "64x32\n13 frames, 1.5 s\n4 latent cells, 32 tokens"


@pytest.mark.parametrize("aspect, shape", [("1:1", (8, 8)), ("16:9", (6, 10)), ("9:16", (10, 6)), ("4:3", (6, 8)), ("21:9", (6, 14))])
def test_aspect_ratios(graph, aspect, shape):
    prompt = {
        **load(),
        "canvas": node("SoraCanvas", vae=["load", 2], seconds=1.0, fps=8.0, size=aspect, batch=2, **{"size.resolution": 64}),
    }
    latent = graph.run(prompt, ["canvas", 0])
    assert latent["samples"].shape == (2, 16, 3, *shape)


def test_still(graph):
    latent, image = graph.run({**load(), **words(), **canvas(seconds=0.0), **sample(), **frames()}, ["canvas", 0], ["frames", 0])
    assert latent["samples"].shape[2] == 1 and image.shape == (1, 32, 64, 3)


@pytest.mark.parametrize(
    "change, parts",
    [
        ({"width": 500}, ["width 500", "496 or 512"]),
        ({"height": 40}, ["height 40", "32 or 48"]),
        ({"seconds": -2.0}, ["seconds", "-2", "use 0 (one picture) to 600"]),
        ({"seconds": 1e9}, ["seconds", "to 600"]),
        ({"fps": 0.0}, ["fps", "min of 1"]),
        ({"width": -16}, ["size.width", "min of 16"]),
        ({"width": 4096, "height": 4096, "seconds": 600.0, "fps": 120.0}, ["4096x4096 and 600 s", "GB", "use at most"]),
    ],
)
def test_refused_canvas(graph, change, parts):
    sentence = refusal(graph, {**load(), **canvas(**change)}, ["canvas", 0])
    assert all(part in sentence for part in parts), sentence
    assert graph.run({**load(), **canvas()}, ["canvas", 0])["samples"].shape[2] == 3  # and the server keeps serving


def test_unknown_aspect_ratio(graph):
    prompt = {**load(), "canvas": node("SoraCanvas", vae=["load", 2], seconds=1.0, fps=8.0, size="5:4", batch=1)}
    assert "use one of 1:1, 16:9" in refusal(graph, prompt, ["canvas", 0])
    around = {**load(), **picture(), **extend(video="picture", size="as_given")}
    sentence = refusal(graph, around, ["canvas", 0])
    assert "21:9 or custom; around a given video also 'as given'" in sentence, sentence


def test_canvas_of_a_picture_vae(graph):
    prompt = {
        "load": node("VAELoader", vae_name="pixel_space"),
        "canvas": node("SoraCanvas", vae=["load", 0], seconds=1.0, fps=8.0, size="1:1", batch=1),
    }
    assert "not for video" in refusal(graph, prompt, ["canvas", 0])


# -- pictures ------------------------------------------------------------------------------------------------------------------------


def test_picture_at_the_begin_is_known_and_comes_back(graph):
    prompt = {**load(), **words(), **canvas(), **picture(), **place(), **sample("placed"), **frames()}
    placed, made, image, video = graph.run(prompt, ["placed", 0], ["sample", 0], ["picture", 0], ["frames", 0])
    assert placed["noise_mask"].flatten().tolist() == [0, 1, 1]
    assert torch.equal(made["samples"][:, :, 0], placed["samples"][:, :, 0])
    assert not torch.equal(made["samples"][:, :, 1], placed["samples"][:, :, 1])
    assert torch.equal(video[:1], image), "the given frame comes back bit for bit"


def test_picture_later_is_a_guide(graph):
    prompt = {**load(), **words(), **canvas(), **picture(), **place(second=0.6), **sample("placed"), **frames()}
    placed, made, video = graph.run(prompt, ["placed", 0], ["sample", 0], ["frames", 0])
    assert "noise_mask" not in placed and placed["sora"].canvas.guides[0].frame == 5
    assert made["samples"].shape == placed["samples"].shape and video.shape == (9, 32, 64, 3)
    assert "frame 5 of 9" in graph.history["outputs"]["placed"]["text"][0]
    plain = graph.run({**load(), **words(), **canvas(), **sample()}, ["sample", 0])
    assert not torch.equal(plain["samples"], made["samples"]), "the guide is seen"


@pytest.mark.parametrize("fit", ["cover", "contain", "stretch"])
def test_fit(graph, fit):
    prompt = {**load(), **canvas(), **picture(width=100, height=20, color=0xFFFFFF), **place(fit=fit)}
    still = next(graph.run(prompt, ["placed", 0])["sora"].sources[0].read(0, 0, 1))[0]
    assert still.shape == (32, 64, 3)
    assert still[16, 32].min() > 0.99
    assert (still[0].max() == 0) == (fit == "contain")


def test_a_picture_for_each_video(graph):
    pictures = {
        **picture("one", color=0xFF0000),
        **picture("two", color=0x00FF00),
        "both": node("ImageBatch", image1=["one", 0], image2=["two", 0]),
    }
    prompt = {**load(), **words(), **canvas(batch=2), **pictures, **place(image="both"), **sample("placed"), **frames()}
    one, two = graph.run(prompt, ["frames", 0])
    assert one[0, 0, 0].tolist() == [1, 0, 0] and two[0, 0, 0].tolist() == [0, 1, 0]
    three = {**prompt, **canvas(batch=3)}
    assert "2 pictures for 3 videos: give 1 or 3" in refusal(graph, three, ["placed", 0])


def test_picture_behind_the_end(graph):
    sentence = refusal(graph, {**load(), **canvas(), **picture(), **place(second=1.2)}, ["placed", 0])
    assert "second 1.2" in sentence and "use 0 to 1" in sentence


def test_place_on_no_canvas(graph):
    latent = node("EmptyHunyuanLatentVideo", width=64, height=32, length=9, batch_size=1)
    sentence = refusal(graph, {**load(), "canvas": latent, **picture(), **place()}, ["placed", 0])
    assert "Sora Canvas" in sentence


# -- files that are refused ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model_file(graph, host):
    """Puts bytes into models/diffusion_models under a name, and takes them away again."""
    import folder_paths

    folder = next(p for p in map(Path, folder_paths.get_folder_paths("diffusion_models")) if (p / "tiny.safetensors").exists())
    written = []

    def write(name, data=None, tensors=None, metadata=None):
        path = folder / name
        if tensors is not None:
            save_file(tensors, path, metadata)
        else:
            path.write_bytes(data)
        written.append(path)
        folder_paths.filename_list_cache.pop("diffusion_models", None)
        return name

    write.folder = folder
    yield write
    for path in set(written):
        path.unlink()
    folder_paths.filename_list_cache.pop("diffusion_models", None)


def tiny(folder):
    """Tensors and header of the tiny model."""
    path = folder / "tiny.safetensors"
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return load_file(path), json.loads(file.read(length))["__metadata__"]


def test_pickle(graph, model_file):
    name = model_file("evil.pt", pickle.dumps({"a": 1}))
    assert "pickle" in refusal(graph, load(name), ["load", 0])
    disguised = model_file("evil.safetensors", b"PK\x03\x04" + bytes(100))
    assert "pickle" in refusal(graph, load(disguised), ["load", 0])


def test_torn(graph, model_file):
    whole = (model_file.folder / "tiny.safetensors").read_bytes()
    name = model_file("torn.safetensors", whole[: len(whole) // 2])
    assert "torn" in refusal(graph, load(name), ["load", 0])
    assert "torn" in refusal(graph, load(model_file("start.safetensors", whole[:1000])), ["load", 0])


def test_lacks_keys(graph, model_file):
    tensors, metadata = tiny(model_file.folder)
    del tensors["blocks.1.ffn.0.bias"]
    name = model_file("lacks.safetensors", tensors=tensors, metadata=metadata)
    assert "lacks 'blocks.1.ffn.0.bias'" in refusal(graph, load(name), ["load", 0])


def test_nan(graph, model_file):
    tensors, metadata = tiny(model_file.folder)
    tensors["blocks.0.ffn.0.weight"][3, 5] = float("nan")
    name = model_file("nan.safetensors", tensors=tensors, metadata=metadata)
    sentence = refusal(graph, load(name), ["load", 0])
    assert "blocks.0.ffn.0.weight" in sentence and "NaN" in sentence


def test_other_model(graph, model_file):
    name = model_file("other.safetensors", tensors={"a": torch.zeros(1)})
    assert "not a model of this pack" in refusal(graph, load(name), ["load", 0])
    tensors, metadata = tiny(model_file.folder)
    claims = model_file("claims.safetensors", tensors={"img_emb.proj.0.bias": torch.zeros(3), **tensors}, metadata=metadata)
    assert "image-to-video" in refusal(graph, load(claims), ["load", 0])


def test_missing_companion(graph, model_file):
    tensors, metadata = tiny(model_file.folder)
    metadata["sora"] = json.dumps({**json.loads(metadata["sora"]), "vae": "gone.safetensors"})
    name = model_file("lonely.safetensors", tensors=tensors, metadata=metadata)
    sentence = refusal(graph, load(name), ["load", 0])
    assert "gone.safetensors" in sentence and "models/vae" in sentence


@pytest.mark.parametrize("kind, field", [("vae", "vae"), ("text_encoders", "text")])
@pytest.mark.parametrize("fault, says", [("torn", "torn"), ("pickle", "pickle"), ("lacks", "lacks"), ("nan", "NaN")])
def test_broken_companion(graph, model_file, kind, field, fault, says):
    """A VAE or a text encoder is looked at as a transformer is."""
    tensors, metadata = tiny(model_file.folder)
    name = f"broken_{field}.safetensors"
    metadata["sora"] = json.dumps({**json.loads(metadata["sora"]), field: name})
    model = model_file("broken.safetensors", tensors=tensors, metadata=metadata)
    whole, broken = model_file.folder.parent / kind / f"tiny_{field}.safetensors", f"../{kind}/{name}"
    inside = load_file(whole)
    tensor = next(key for key in inside if key.endswith("bias") and inside[key].numel() > 3)
    if fault == "torn":
        model_file(broken, whole.read_bytes()[:-100])
    elif fault == "pickle":
        model_file(broken, b"PK\x03\x04" + bytes(100))
    elif fault == "lacks":
        model_file(broken, tensors={key: value for key, value in inside.items() if key != tensor})
    else:
        inside[tensor][3] = float("nan")
        model_file(broken, tensors=inside)
    sentence = refusal(graph, load(model), ["load", 0])
    assert name in sentence and says in sentence and (fault in ("torn", "pickle") or tensor in sentence), sentence
    graph.run(load(), ["load", 0])


def test_unknown_name(graph):
    assert "no file 'nothing.safetensors'" in refusal(graph, load("nothing.safetensors"), ["load", 0])


def test_only_files_of_our_format_are_listed(graph, host, model_file):
    model_file("other.safetensors", tensors={"a": torch.zeros(1)})
    options = host.NODE_CLASS_MAPPINGS["SoraLoadModel"].INPUT_TYPES()["required"]["model"][1]["options"]
    assert "tiny.safetensors" in options and "other.safetensors" not in options


def test_a_link_to_nowhere_is_passed_over(graph, host, model_file):
    """A disk that is not mounted: the host still lists its links."""
    link = model_file.folder / "unmounted.safetensors"
    link.symlink_to(model_file.folder / "nowhere" / "model.safetensors")
    model_file("null.safetensors", _with_null_metadata())
    try:
        options = host.NODE_CLASS_MAPPINGS["SoraLoadModel"].INPUT_TYPES()["required"]["model"][1]["options"]
        assert "tiny.safetensors" in options and not {link.name, "null.safetensors"} & set(options)
        assert f"no file '{link.name}'" in refusal(graph, load(link.name), ["load", 0])
    finally:
        link.unlink()


def _with_null_metadata() -> bytes:
    header = b'{"__metadata__":null,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return len(header).to_bytes(8, "little") + header + bytes(4)


def test_foreign_files_are_read_once(graph, host, model_file, monkeypatch):
    """A folder of public models has megabytes of headers, and the host asks for a schema several times in a run."""
    from sora_pack.nodes import load_model

    read, inner = [], load_model.read_header
    monkeypatch.setattr(load_model, "read_header", lambda path: read.append(path.name) or inner(path))
    names = [model_file("foreign.safetensors", tensors={"a": torch.zeros(1)}), model_file("broken.safetensors", b"<html>")]
    for _ in range(3):
        host.NODE_CLASS_MAPPINGS["SoraLoadModel"].INPUT_TYPES()
    assert sorted(name for name in read if name in names) == sorted(names)
    model_file(names[1], tensors={"other": torch.zeros(5)})
    host.NODE_CLASS_MAPPINGS["SoraLoadModel"].INPUT_TYPES()
    assert read.count(names[1]) == 2, "a file that has changed is read again"


def test_a_changed_companion_is_loaded_anew(graph, host, model_file):
    loader = host.NODE_CLASS_MAPPINGS["SoraLoadModel"]
    vae = model_file.folder.parent / "vae/tiny_vae.safetensors"
    before, times = loader.fingerprint_inputs("tiny.safetensors", "auto"), vae.stat()
    assert before == loader.fingerprint_inputs("tiny.safetensors", "auto")
    os.utime(vae, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
    assert before != loader.fingerprint_inputs("tiny.safetensors", "auto")
    os.utime(vae, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert loader.fingerprint_inputs(None, "auto") == "auto", "a linked name is no constant"


def test_shipped_files_come_first(graph, host, root):
    shipped = sorted((root / "sora_core/weights/diffusion_models").glob("*.safetensors"))
    options = host.NODE_CLASS_MAPPINGS["SoraLoadModel"].INPUT_TYPES()["required"]["model"][1]["options"]
    assert options[: len(shipped)] == [path.name for path in shipped]


# -- things that do not belong together ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, taker",
    [
        ("sample", sample()),
        ("noise", {"noise": node("SoraNoise", latent=["canvas", 0], seed=1)}),
        ("placed", {**picture(), **place()}),
        ("video", decode("canvas")),
        ("frames", frames("canvas")),
    ],
)
def test_latent_of_a_picture(graph, name, taker):
    latent = {"canvas": node("EmptyLatentImage", width=64, height=64, batch_size=1)}
    assert "picture's latent of 4 axes" in refusal(graph, {**load(), **words(), **latent, **taker}, [name, 0])


def test_latent_of_another_vae(graph):
    latent = node("EmptyMochiLatentVideo", width=64, height=32, length=7, batch_size=1)
    prompt = {**load(), **words(), "canvas": latent, **sample()}
    sentence = refusal(graph, prompt, ["sample", 0])
    assert "12 channels" in sentence and "needs 16" in sentence


def test_vae_of_another_model_of_the_same_shape(graph, model_file, monkeypatch):
    """Latents of Wan's VAE and of ours have one shape, and mean other things."""
    import folder_paths

    from sora_pack.nodes import host_models

    other = model_file.folder.parent / "vae/narrow.safetensors"
    save_vae(other, VideoVAE(VAEConfig(dim=8)))
    folder_paths.filename_list_cache.pop("vae", None)
    try:
        narrow = {**load(), **words(), **canvas(), **sample(), "vae": node("VAELoader", vae_name=other.name)}
        narrow["canvas"]["inputs"]["vae"] = ["vae", 0]
        assert "VAE that belongs to the MODEL" in refusal(graph, narrow, ["sample", 0])
    finally:
        other.unlink()
        folder_paths.filename_list_cache.pop("vae", None)
    name = model_file("public.safetensors", tensors=tiny(model_file.folder)[0])
    public = {**load(), **words(), **canvas(), **sample(model=("unet", 0), steps=1)}
    public["unet"] = node("UNETLoader", unet_name=name, weight_dtype="default")
    graph.run(public, ["sample", 0])  # narrow enough to be one of ours that has lost its header
    monkeypatch.setattr(host_models, "PUBLIC_WIDTH", 128)
    public["sample"]["inputs"]["seed"] = 8
    assert "VAE that belongs to the MODEL" in refusal(graph, public, ["sample", 0])


def test_words_of_another_encoder(graph):
    prompt = {**load(), **canvas(), "words": node("Foreign"), **sample()}
    graph.nodes.NODE_CLASS_MAPPINGS["Foreign"] = foreign_conditioning()
    assert "768 wide" in refusal(graph, prompt, ["sample", 0])


def foreign_conditioning():
    from comfy_api.latest import io

    class Foreign(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Foreign", category="test", inputs=[], outputs=[io.Conditioning.Output()])

        @classmethod
        def execute(cls):
            return io.NodeOutput([[torch.zeros(1, 77, 768), {}]])

    return Foreign


def test_the_server_keeps_serving(graph):
    refusal(graph, {**load(), **canvas(width=500)}, ["canvas", 0])
    history = graph.queue({**load(), **words(), **canvas(), **ksample(), **decode(), **save()})
    assert history["outputs"]["save"]["animated"] == [True]
