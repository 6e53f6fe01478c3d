"""Pieces of API-format prompts for the tests: {node id: {"class_type", "inputs"}}."""

from __future__ import annotations


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def load(model: str = "tiny.safetensors", precision: str = "float32") -> dict:
    return {"load": node("SoraLoadModel", model=model, precision=precision)}


def canvas(seconds=1.0, fps=8.0, width=64, height=32, batch=1, name="canvas") -> dict:
    """9 frames, 3 cells, 24 tokens by default."""
    size = {"size": "custom", "size.width": width, "size.height": height}
    return {name: node("SoraCanvas", vae=["load", 2], seconds=seconds, fps=fps, batch=batch, **size)}


def words(text="a red ball") -> dict:
    return {"words": node("SoraPrompt", clip=["load", 1], text=text)}


def sample(latent="canvas", model=("load", 0), **more) -> dict:
    settings = {"seed": 7, "steps": 3, "guidance": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, **more}
    return {"sample": node("SoraSampler", model=list(model), positive=["words", 0], latent=[latent, 0], **settings)}


def ksample(latent="canvas", model=("load", 0), **more) -> dict:
    settings = {"seed": 7, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, **more}
    ends = {"positive": ["words", 0], "negative": ["words", 0], "latent_image": [latent, 0]}
    return {"sample": node("KSampler", model=list(model), **ends, **settings)}


def custom_sample(latent="canvas", model=("load", 0), sampler_name="euler", guidance=3.0, steps=3) -> dict:
    """SamplerCustomAdvanced with SoraNoise and our model's noise levels; CFG against the same words."""
    return {
        "noise": node("SoraNoise", latent=[latent, 0], seed=7),
        "guider": node("CFGGuider", model=list(model), positive=["words", 0], negative=["words", 0], cfg=guidance),
        "solver": node("KSamplerSelect", sampler_name=sampler_name),
        "sigmas": node("BasicScheduler", model=["load", 0], scheduler="simple", steps=steps, denoise=1.0),
        "sample": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["solver", 0],
            sigmas=["sigmas", 0],
            latent_image=[latent, 0],
        ),
    }


def plan(kind="auto", latent="canvas", **more) -> dict:
    settings = {"model": ["load", 0], "window": 0, "overlap": 3, "distance": 4, **more}
    return {"plan": node("SoraPlan", latent=[latent, 0], plan=kind, **settings)}


def decode(latent="sample", vae=("load", 2), seam="carry") -> dict:
    return {"video": node("SoraDecode", vae=list(vae), latent=[latent, 0], seam=seam)}


def frames(latent="sample", vae=("load", 2), start=0.0, end=0.0, seam="carry") -> dict:
    return {"frames": node("SoraDecodeFrames", vae=list(vae), latent=[latent, 0], from_second=start, to_second=end, seam=seam)}


def picture(name="picture", width=64, height=32, color=0x3366CC) -> dict:
    """A flat picture of the host's, in node `name`."""
    return {name: node("EmptyImage", width=width, height=height, batch_size=1, color=color)}


def place(second=0.0, image="picture", latent="canvas", fit="cover", name="placed") -> dict:
    return {name: node("SoraPlaceImage", vae=["load", 2], latent=[latent, 0], image=[image, 0], second=second, fit=fit)}


def save(video="video", prefix="video/test") -> dict:
    return {"save": node("SaveVideo", video=[video, 0], filename_prefix=prefix, format="auto", codec="auto")}


# -- verbs ---------------------------------------------------------------------------------------------------------------------------

LENGTH = 14  # frames of a given clip: three cells and one frame more
FORM = {"size": "as given", "fit": "cover", "fps": 0.0, "image_fps": 8.0}


def clip(name="clip", count=LENGTH, width=32, height=32, seed=0, channels=3) -> dict:
    """Frames of noise as IMAGE (see the fixture clip_node)."""
    return {name: node("NoisyClip", count=count, width=width, height=height, seed=seed, channels=channels)}


def verb(kind, video="clip", name="canvas", **fields) -> dict:
    """A node of a verb named "canvas", so that samplers find it."""
    return {name: node(kind, vae=["load", 2], video=[video, 0], **{**FORM, **fields})}


def extend(direction="forward", seconds=1.0, **fields) -> dict:
    return verb("SoraExtend", direction=direction, seconds=seconds, **fields)


def fill(start=0.5, end=1.0, length=0.0, **fields) -> dict:
    return verb("SoraFill", from_second=start, to_second=end, length=length, **fields)


def remix(strength="mild", **fields) -> dict:
    return verb("SoraRemix", strength=strength, **fields)


def begin(host_files, name) -> dict:
    """MODEL, VAE and words of a host model, under the names that the other prompts use."""
    return {
        "unet": node("UNETLoader", unet_name=host_files[name], weight_dtype="default"),
        "load": node("TinyVAE", name=name),
        "words": node("Rows", name=name),
        "sigmas": node("BasicScheduler", model=["unet", 0], scheduler="simple", steps=2, denoise=1.0),
    }


def vae_first(prompt: dict) -> dict:
    """The prompts take the VAE from output 2 of the loader; here it is output 0."""
    for entry in prompt.values():
        entry["inputs"] = {name: ["load", 0] if value == ["load", 2] else value for name, value in entry["inputs"].items()}
    return prompt
