"""Words to video without the host: the core's own loop, for scripts, sheets and tests.

python -m sora_core.generate "a red ball bounces on the beach at sunset" --seconds 2 --out ball.mp4
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .autoencoder import VideoVAE, denormalise, frames_of, normalise, pixels_of
from .canvas import Canvas, Latents, encode_given
from .checkpoint import load_text, load_transformer, load_vae
from .config import TEXT_ROW_MULTIPLE, ModelHeader
from .denoise import SOLVERS, Callback, State, guided, renoise
from .flow import cell_noise, schedule
from .jobs import SAVE_SECONDS, Job, Progress, content_hash
from .passes import known_cells, mask_of, run_plan
from .plan import Lattice, Pass, Plan, PlanSettings, single, window_of
from .shapes import VideoShape, check_size, frames_for_seconds
from .speed import fast_dtype
from .text import ByteTextEncoder
from .transformer import PreparedText, SpacetimeTransformer

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED = WEIGHTS / "diffusion_models" / "sora_mini.safetensors"
COMPANIONS = {"vae": "vae", "text": "text_encoders"}  # header field -> folder

STEPS, GUIDANCE = 20, 5.0


@torch.inference_mode()
def generate(
    transformer: SpacetimeTransformer,
    header: ModelHeader,
    words: Tensor,
    shape: VideoShape,
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    seed: int = 0,
    negative: Tensor | None = None,
    known: Tensor | None = None,
    mask: Tensor | None = None,
    solver: str = "euler",
    denoise: float = 1.0,
    callback: Callback | None = None,
    plan: Plan | None = None,
    shot_words: list[Tensor] | None = None,
    jobs: Path | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> Tensor:
    """Latents of a video of `shape`.

    Args:
        transformer, header: of one file (checkpoint.load_transformer).
        words: text states [B, L, 4096]; B videos are made.
        shape: size, cells and frames a second.
        steps, guidance, denoise: as everywhere; guidance 1 is one forward a step.
        seed: of the noise of every cell, which depends on neither length nor batch.
        negative: text states to move away from; default the empty prompt.
        known: normalised latents [B, C, F, H, W]; what `mask` keeps of them comes back bit for bit.
        mask: [B or 1, 1, F, H, W] or with 1 for H and W, 0 = keep; default everything is made.
        solver: a name in denoise.SOLVERS.
        callback: after each step of each pass; what it raises ends the run.
        plan: in which passes; default all at once. Its known cells must be those that `mask` keeps whole.
        shot_words: text states [B, L_i, 4096] of the shots that the plan's lattice names; each cell listens to those of its own and to
            `words`.
        jobs: a folder that keeps what every pass made, and inside a pass how far it came every `save_seconds`.

    Returns:
        normalised latents [B, C, F, H, W], float32.

    Raises:
        ValueError: an unknown solver, `mask` without `known`, or shots of the plan and `shot_words` that do not fit each other.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver {solver!r} is not known: use one of {', '.join(SOLVERS)}")
    if mask is not None and known is None:
        raise ValueError("mask: it says what to keep, so `known` must be given too")
    plan = plan or single(Lattice(shape.cells, known_cells(mask)))
    shots = set(plan.lattice.shots)
    if shot_words and not (shots and shots <= set(range(len(shot_words)))):
        raise ValueError(f"shot_words: {len(shot_words)} texts, and the plan has the shots {sorted(shots)}: give one text for each shot")
    away = words.new_zeros(1, 64, words.shape[-1]) if negative is None else negative.to(words.dtype)
    passes = CorePasses(
        transformer=transformer,
        text=transformer.prepare_text(words, shot_words),
        empty=transformer.prepare_text(away) if guidance != 1 else None,
        guidance=guidance,
        shape=shape,
        positions=torch.tensor(shape.positions(header.native_fps), device=words.device),
        sigmas=schedule(steps, header.shift, denoise),
        solver=solver,
        seed=seed,
        mask=mask,
        shots=plan.lattice.shots if shot_words else (),
        shot_words=shot_words or [],
        callback=callback,
    )
    start = torch.zeros(len(words), *shape.latent, device=words.device) if known is None else known.float().to(words.device)
    job = None
    if jobs is not None:
        facts = [content_hash(transformer.state_dict()), str(header), str(shape), words, away, guidance, passes.sigmas, solver, seed]
        each = [passes.facts(p) for p in plan.passes]
        job = Job(jobs, plan, facts, each, start, f"{shape.width}x{shape.height}, {shape.seconds:g} s, seed {seed}", every=save_seconds)
    return run_plan(plan, start, passes.make, job)


@dataclass
class CorePasses:
    """The work of each pass, for `run_plan`; fields as the arguments of `generate`, prepared."""

    transformer: SpacetimeTransformer
    text: PreparedText
    empty: PreparedText | None
    guidance: float
    shape: VideoShape
    positions: Tensor
    sigmas: list[float]
    solver: str
    seed: int
    mask: Tensor | None
    shots: tuple[int, ...]
    shot_words: list[Tensor]
    callback: Callback | None

    def make(self, p: Pass, cells: Tensor, progress: Progress | None) -> Tensor:
        kept = mask_of(p, self.mask)
        x = renoise(cells, self._noise(p, len(cells)).to(cells), self.sigmas[0], kept)
        shots = [self.shots[k] for k in p.cells] if self.shots else None
        velocity = guided(self.transformer, self.text, self.empty, self.guidance, positions=self.positions[p.cells], shots=shots)
        saved = progress and progress.load()
        state = State(int(saved["done"]), saved["x"], saved["velocity"]) if saved else None

        def after_step(done: dict) -> None:
            if progress:
                at = done["state"]
                progress.save({"done": torch.tensor(at.done), "x": at.x, "velocity": at.velocity})
            if self.callback:
                self.callback(done)

        return SOLVERS[self.solver](velocity, x, self.sigmas, kept, after_step if self.callback or progress else None, state)

    def facts(self, p: Pass) -> list:
        """What determines a pass beside the latents of its cells and what all passes have in common."""
        shots = [self.shots[k] for k in p.cells] if self.shots else []
        return [shots, [self.shot_words[i] for i in sorted(set(shots))], mask_of(p, self.mask)]

    def _noise(self, p: Pass, batch: int) -> Tensor:
        """[B, C, f, h, w]."""
        c, _, h, w = self.shape.latent
        times = [self.shape.strides.time * k / self.shape.fps for k in p.cells]
        seed = self.seed if p.seed is None else p.seed
        return torch.stack([cell_noise(seed, b, times, (c, h, w)) for b in range(batch)])


@dataclass
class Pipeline:
    """Transformer, text encoder and VAE of one model, on one device."""

    transformer: SpacetimeTransformer
    header: ModelHeader
    text: ByteTextEncoder
    vae: VideoVAE

    @classmethod
    def load(cls, path: str | Path = SHIPPED, dtype: torch.dtype | None = None, device: str = "cpu") -> Pipeline:
        """Opens a model file and the companions that its header names, beside it or in the folders of the pack.

        Args:
            dtype: of the arithmetic; None for what is fast on the device (speed.fast_dtype).

        Raises:
            CheckpointError: what is wrong with a file. FileNotFoundError: a companion that is nowhere.
        """
        dtype = dtype or fast_dtype(device)
        transformer, header = load_transformer(path, dtype, device)
        text = load_text(_companion(Path(path), header, "text"), dtype, device)
        vae = load_vae(_companion(Path(path), header, "vae"), dtype, device)
        return cls(transformer.eval(), header, text.eval(), vae.channels_last().eval())

    @torch.inference_mode()
    def video(self, prompt: str, seconds: float = 2.0, width: int = 128, height: int = 128, *, fps: float | None = None,
              picture: Tensor | None = None, **options) -> Tensor:  # fmt: skip
        """Frames uint8 [T, H, W, 3] on the CPU; 0 seconds is a still.

        Args:
            prompt: words in any language.
            fps: default the model's native rate.
            picture: uint8 [H, W, 3] of the video's size, its first frame, which comes back as it is.
            options: for `generate`; without a plan, what suits the model: in passes where it is longer than the model was trained for.

        Raises:
            ValueError: sizes or seconds that are not legal, a prompt that is too long, a picture of another size.
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
        words = self.text.encode([prompt]).to(dtype)
        z = generate(self.transformer, self.header, words, shape, **options)
        frames = frames_of(self.vae.decode(denormalise(z).to(dtype))[0])
        if picture is not None:
            frames[0] = picture
        return frames

    @torch.inference_mode()
    def complete(self, canvas: Canvas, sources: Sequence[Tensor], prompt: str = "", *, seed: int = 0, steps: int = STEPS,
                 guidance: float = GUIDANCE, solver: str = "euler", latents_of: Latents | None = None, start: Tensor | None = None,
                 denoise: float = 1.0) -> Tensor:  # fmt: skip
        """Raw latents [1, C, F, h, w] of a canvas of any verb (see verbs): its unknown cells made, all in one pass.

        `canvas.result_frames` turns them into the result, with `decode` for the made frames.

        Args:
            canvas: what is given, and where it stands.
            sources: frames [T, H, W, 3] in 0..1 of each source of the canvas, at its size and rate.
            seed, steps, guidance, solver: as for `generate`; noise belongs to moments of the first source.
            latents_of: cells of sources that still hold some, which are then not encoded.
            start: raw latents to begin from instead of pure noise, with `denoise` of the noise on them: remix.
        """
        c, f, h, w = canvas.shape.latent

        def read(source: int, first: int, count: int) -> Tensor:
            return self._pixels(sources[source][first : first + count])

        latents, guides = encode_given(self.vae, canvas, read, latents_of=latents_of)
        if start is not None:
            latents = torch.where(canvas.mask().view(1, 1, -1, 1, 1) == 0, latents, start.float().cpu())
        given = normalise(torch.cat([latents, *guides], 2))
        mask = torch.cat([canvas.mask(), torch.zeros(len(guides))]).view(1, 1, -1, 1, 1)
        noise = torch.zeros_like(given)
        noise[:, :, :f] = cell_noise(seed, 0, canvas.seconds_of_cells, (c, h, w))
        positions = canvas.positions(self.header.native_fps)
        options = {"steps": steps, "guidance": guidance, "solver": solver, "denoise": denoise}
        made = self.make_cells(given, mask, noise, positions, prompt, **options)
        return torch.where(mask[:, :, :f] == 0, latents, denormalise(made[:, :, :f]))

    @torch.inference_mode()
    def make_cells(self, given: Tensor, mask: Tensor, noise: Tensor, positions: list[float], prompt: str, *, steps: int,
                   guidance: float, solver: str, denoise: float = 1.0, shot_prompts: Sequence[str] = (),
                   shots: list[int] | None = None) -> Tensor:  # fmt: skip
        """Normalised latents [1, C, F, h, w], float32 on the CPU, of cells in any places: `given` where `mask` is 0, the others made.

        Without any words it is made without guidance, which would lead away from the same.

        Args:
            given, noise: normalised latents and the noise of every cell.
            mask: [1, 1, F, 1, 1], 0 = keep.
            positions: of the cells, guides among them.
            shot_prompts, shots: words of each shot, and which of them each cell hears beside `prompt`.
        """
        weight, sigmas = self.vae.conv2.weight, schedule(steps, self.header.shift, denoise)
        words, *of_shots = (self.text.encode([text]).to(weight.dtype) for text in (prompt, *shot_prompts))
        text, empty = self.transformer.prepare_text(words, of_shots), None
        if guidance != 1 and any((prompt, *shot_prompts)):
            empty = self.transformer.prepare_text(words.new_zeros(1, TEXT_ROW_MULTIPLE, words.shape[-1]))
        where = torch.tensor(positions, device=weight.device)
        velocity = guided(self.transformer, text, empty, guidance, positions=where, shots=shots)
        x = renoise(given, noise, sigmas[0], mask).to(weight.device)
        return SOLVERS[solver](velocity, x, sigmas, mask.to(weight.device)).float().cpu()

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
        return self.vae.decode(latents.to(self.vae.conv2.weight))[0].float().clamp(-1, 1).add(1).div(2).movedim(0, -1).cpu()

    def _pixels(self, frames: Tensor) -> Tensor:
        """[T, H, W, 3] in 0..1 -> [1, 3, T, H, W] in -1..1, as the VAE takes them."""
        return (frames.movedim(-1, 0)[None] * 2 - 1).to(self.vae.conv2.weight)

    def _given(self, picture: Tensor, shape: VideoShape) -> dict[str, Tensor]:
        """`known` and `mask` for a first frame."""
        if picture.shape != (shape.height, shape.width, 3):
            raise ValueError(f"picture: it is {tuple(picture.shape)}, must be ({shape.height}, {shape.width}, 3)")
        x = pixels_of(picture[None])[None].to(self.vae.conv2.weight)
        known = torch.zeros(1, *shape.latent, device=x.device)
        known[:, :, :1] = normalise(self.vae.encode(x).float())
        mask = torch.ones(1, 1, shape.cells, 1, 1, device=x.device)
        mask[:, :, 0] = 0
        return {"known": known, "mask": mask}


def _companion(path: Path, header: ModelHeader, kind: str) -> Path:
    name = getattr(header, kind) or f"sora_mini_{kind}.safetensors"
    places = [path.parent / name, path.parent.parent / COMPANIONS[kind] / name, WEIGHTS / COMPANIONS[kind] / name]
    found = next((p for p in places if p.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{path.name}: its {kind} file {name} is neither beside it nor in {places[1].parent}")
    return found


def main() -> None:
    from .video_file import write_video

    parser = argparse.ArgumentParser(prog="python -m sora_core.generate", description="Words to an MP4 with the shipped model.")
    parser.add_argument("prompt")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--model", default=str(SHIPPED))
    parser.add_argument("--out", default="sora.mp4")
    args = parser.parse_args()
    if Path(args.out).exists():
        sys.exit(f"--out: {args.out} is there already: choose another name")

    def show(done: dict) -> None:
        sys.stderr.write(f"\rstep {done['step'] + 1}/{done['steps']}" + "\n" * (done["step"] + 1 == done["steps"]))

    options = {"seed": args.seed, "steps": args.steps, "guidance": args.guidance, "callback": show}
    try:
        pipeline = Pipeline.load(args.model)
        frames = pipeline.video(args.prompt, args.seconds, args.width, args.height, **options)
    except (ValueError, FileNotFoundError) as error:  # of words, sizes and files; each is a sentence
        sys.exit(str(error))
    write_video(args.out, iter([frames]), pipeline.header.native_fps)


if __name__ == "__main__":
    main()
