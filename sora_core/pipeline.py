"""A model with all its parts: words and pictures in, frames out, without the host. For scripts, sheets and tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .autoencoder import VideoVAE, denormalise, frames_of, normalise, pixels_of
from .canvas import Canvas, Latents, blank, check_whole_tokens, encode_given, result_frames
from .checkpoint import CheckpointError, load_text, load_transformer, load_vae, model_header
from .config import ModelHeader
from .denoise import solver_of
from .generate import GIVEN_GUIDANCE, GUIDANCE, SOLVER, STEPS, beginning, generate
from .passes import known_cells
from .plan import Lattice, PlanSettings, window_of
from .shapes import VideoShape, check_size, frames_for_seconds
from .speed import check_fits, fast_dtype
from .text import ByteTextEncoder
from .transformer import SpacetimeTransformer
from .verbs import place

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED = WEIGHTS / "diffusion_models" / "sora_mini.safetensors"
COMPANIONS = {"vae": "vae", "text": "text_encoders"}  # header field -> folder


@dataclass
class Pipeline:
    """Transformer, text encoder and VAE of one model, on one device."""

    transformer: SpacetimeTransformer
    header: ModelHeader
    text: ByteTextEncoder
    vae: VideoVAE

    @classmethod
    def load(cls, path: str | Path = SHIPPED, dtype: torch.dtype | None = None, device: str = "cpu", *,
             vae: str | Path | None = None, text: str | Path | None = None) -> Pipeline:  # fmt: skip
        """Opens a model file and the companions that its header names, beside it or in the folders of the pack.

        Args:
            dtype: of the arithmetic; None for what is fast on the device (speed.fast_dtype).
            vae, text: files in place of those companions; a file without our header, such as a public Wan 2.1 file, names none.

        Raises:
            CheckpointError: what is wrong with a file, or companions that are neither named nor given. FileNotFoundError: a companion
                that is nowhere.
        """
        dtype = dtype or fast_dtype(device)
        files = _companions(Path(path), {"vae": vae, "text": text})
        transformer, header = load_transformer(path, dtype, device)
        encoder, autoencoder = load_text(files["text"], dtype, device), load_vae(files["vae"], dtype, device)
        return cls(transformer.eval(), header, encoder.eval(), autoencoder.channels_last().eval())

    @torch.inference_mode()
    def video(self, prompt: str, seconds: float = 2.0, width: int = 128, height: int = 128, **options) -> Tensor:
        """Frames uint8 [T, H, W, 3] on the CPU; 0 seconds is a still. Arguments and errors as for `frames`."""
        return torch.cat(list(self.frames(prompt, seconds, width, height, **options)))

    @torch.inference_mode()
    def frames(self, prompt: str, seconds: float = 2.0, width: int = 128, height: int = 128, *, fps: float | None = None,
               picture: Tensor | None = None, **options) -> Iterator[Tensor]:  # fmt: skip
        """Chunks uint8 [n, H, W, 3] on the CPU of a video that is made, and decoded as they are taken; 0 seconds is a still.

        Args:
            prompt: words in any language.
            fps: default the model's native rate.
            picture: uint8 [H, W, 3] of the video's size, its first frame, which comes back as it is; the frames behind it carry what the
                codec lost of it, fading out.
            options: for `generate`; without a plan, what suits the model: in passes where it is longer than the model was trained for.

        Raises:
            ValueError: sizes or seconds that are not legal or do not fit this machine, a prompt that is too long, a picture of another
                size or kind.
        """
        check_size(width, height, self.vae.strides)
        fps = self.header.native_fps if fps is None else fps
        cells = self.vae.strides.cells(frames_for_seconds(seconds, fps, self.vae.strides))
        shape = VideoShape(width, height, cells, fps, self.vae.strides)
        dtype = self.vae.conv2.weight.dtype
        if picture is not None:
            options |= self._given(picture, shape)
        if options.get("plan") is None:
            lattice = Lattice(shape.cells, known_cells(options.get("mask")))
            options["plan"] = PlanSettings().plan(lattice, window_of(self.header, shape.strides), self.header.foresight)
        sizes = {"config": self.transformer.config, "vae": self.vae.config, "text": self.text.config}
        if not prompt and options.get("negative") is None:  # it would lead away from the same
            options["guidance"] = 1.0
        guidance = options.get("guidance", GUIDANCE)
        check_fits(shape, **sizes, dtype=dtype, at_once=options["plan"].largest, device=self.text.device, guidance=guidance)
        words = self.text.encode([prompt]).to(dtype)
        z = generate(self.transformer, self.header, words, shape, **options)
        if picture is None:
            return (frames_of(part[0]) for part in self._decoded(z))
        first, made = picture[None].float() / 255, (_unit(part) for part in self._decoded(z))
        chunks = result_frames(place(blank(shape), 0, 0), lambda: made, lambda *_: iter([first]))
        return (chunk.mul(255).round().byte() for chunk in chunks)

    @torch.inference_mode()  # not a block inside: that would stay on in the caller from chunk to chunk
    def _decoded(self, z: Tensor) -> Iterator[Tensor]:
        """Chunks [1, 3, n, H, W] in -1..1 of normalised latents."""
        yield from self.vae.decode_chunks(denormalise(z).to(self.vae.conv2.weight.dtype))

    @torch.inference_mode()
    def complete(self, canvas: Canvas, sources: Sequence[Tensor], prompt: str = "", *, seed: int = 0, steps: int = STEPS,
                 guidance: float = GIVEN_GUIDANCE, solver: str = SOLVER, latents_of: Latents | None = None, start: Tensor | None = None,
                 denoise: float = 1.0, mask: Tensor | None = None) -> Tensor:  # fmt: skip
        """Raw latents [1, C, F, h, w] of a canvas of any verb (see verbs): its unknown cells made, all in one pass.

        `canvas.result_frames` turns them into the result, with `decode` for the made frames.

        Args:
            canvas: what is given, and where it stands.
            sources: frames [T, H, W, 3] in 0..1 of each source of the canvas, at its size and rate.
            seed, steps, guidance, solver: as for `generate`; noise belongs to moments of the first source.
            latents_of: cells of sources that still hold some, which are then not encoded.
            start: raw latents to begin from instead of pure noise, with `denoise` of the noise on them: remix.
            mask: [1, 1, F, h, w] in place of the canvas' own (canvas.cell_mask), 1 where `start` is made anew, in whole tokens.
        """
        solver_of(solver)  # refused before anything is encoded
        if mask is not None:
            check_whole_tokens(mask)
        latents, guides = self.encode_given(canvas, sources, latents_of)
        known = canvas.mask().view(1, 1, -1, 1, 1)
        if start is not None:
            latents = torch.where(known == 0, latents, start.float().cpu())
        mask = known if mask is None else mask
        given = {"known": normalise(latents), "mask": mask, "seconds": canvas.seconds_of_cells}
        given["guides"] = [(guide.frame, normalise(z)) for guide, z in zip(canvas.guides, guides, strict=True)]
        made = self.cells(prompt, canvas.shape, seed=seed, steps=steps, guidance=guidance, solver=solver, denoise=denoise, **given)
        return torch.where(mask == 0, latents, denormalise(made))

    @torch.inference_mode()
    def cells(self, prompt: str, shape: VideoShape, shot_prompts: Sequence[str] = (), *, guidance: float, **options) -> Tensor:
        """`generate` with prompts in place of text states, on the CPU; without any words there is no guidance, which would lead away from
        the same."""
        dtype, guidance = self.vae.conv2.weight.dtype, guidance if any((prompt, *shot_prompts)) else 1.0
        words, *of_shots = (self.text.encode([text]).to(dtype) for text in (prompt, *shot_prompts))
        return generate(self.transformer, self.header, words, shape, guidance=guidance, shot_words=of_shots, **options).cpu()

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Frames [T, H, W, 3] in 0..1 of one video -> raw latents [1, C, F, h, w], float32 on the CPU; the last cell is filled up with
        the last frame."""
        strides = self.vae.strides
        more = strides.frames(strides.cells(len(frames))) - len(frames)
        frames = torch.cat([frames, frames[-1:].expand(more, -1, -1, -1)])
        return self.vae.encode(self._pixels(frames)).float().cpu()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents of one video -> frames [T, H, W, 3] in 0..1, float32 on the CPU."""
        return _unit(self.vae.decode(latents.to(self.vae.conv2.weight)))

    @torch.inference_mode()
    def encode_given(self, canvas: Canvas, sources: Sequence[Tensor], latents_of: Latents | None = None) -> tuple[Tensor, list[Tensor]]:
        """Raw latents of what a canvas knows, and its guides (canvas.encode_given), out of sources as `complete` takes them."""

        def read(source: int, first: int, count: int) -> Tensor:
            return self._pixels(sources[source][first : first + count])

        return encode_given(self.vae, canvas, read, latents_of=latents_of)

    def _pixels(self, frames: Tensor) -> Tensor:
        """[T, H, W, 3] in 0..1 -> [1, 3, T, H, W] in -1..1, as the VAE takes them."""
        return (frames.movedim(-1, 0)[None] * 2 - 1).to(self.vae.conv2.weight)

    def _given(self, picture: Tensor, shape: VideoShape) -> dict[str, Tensor]:
        """`known` and `mask` for a first frame."""
        if picture.shape != (shape.height, shape.width, 3) or picture.dtype != torch.uint8:
            wanted = f"({shape.height}, {shape.width}, 3) of torch.uint8"
            raise ValueError(f"picture: it is {tuple(picture.shape)} of {picture.dtype}, must be {wanted}")
        x = pixels_of(picture[None])[None].to(self.vae.conv2.weight)
        return beginning(normalise(self.vae.encode(x).float()), shape)


def _companions(path: Path, given: dict[str, str | Path | None]) -> dict[str, Path]:
    """The files of a model beside its transformer: those given, or what its header names. Another model's would load, and make noise."""
    header = model_header(path)
    unnamed = [kind for kind, file in given.items() if not (file or getattr(header, kind))]
    if unnamed:
        kinds = " and ".join(unnamed)
        raise CheckpointError(f"{path.name} does not say which {kinds} file belongs to it: give {kinds}, or a model file of this pack")
    return {kind: Path(file) if file else _companion(path, getattr(header, kind), kind) for kind, file in given.items()}


def _companion(path: Path, name: str, kind: str) -> Path:
    places = [path.parent / name, path.parent.parent / COMPANIONS[kind] / name, WEIGHTS / COMPANIONS[kind] / name]
    found = next((p for p in places if p.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{path.name}: its {kind} file {name} is neither beside it nor in {places[1].parent}")
    return found


def _unit(pixels: Tensor) -> Tensor:
    """What the VAE gives of one video, [1, 3, T, H, W] in -1..1 -> frames [T, H, W, 3] in 0..1, float32 on the CPU."""
    return pixels[0].float().clamp(-1, 1).add(1).div(2).movedim(0, -1).cpu()
