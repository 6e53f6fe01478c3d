"""Trains the text encoder and the transformer together on a latent bank.

    python -m sora_core.training transformer --folder runs/s1 --bank runs/bank --steps 8000

On two cores (no GPU) a step of 5,120 tokens takes one to two seconds.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..autoencoder import VideoVAE
from ..checkpoint import detect_text, detect_transformer, load_text
from ..config import PRESETS, ModelHeader, TextConfig, TransformerConfig, UserError, preset
from ..pipeline import Pipeline
from ..shapes import Strides, VideoShape
from ..speed import peak_flops, transformer_flops
from ..text import ByteTextEncoder, encode_bytes
from ..transformer import PreparedText, SpacetimeTransformer
from ..world import Scene
from .bank import SHARD, Bank, Shard
from .bodies import Asker, answer_loss, weight_of
from .feed import AHEAD, Prefetcher, to_async, workers
from .group import ALONE, Group
from .live import LiveBank
from .lora import Adapter
from .objective import LONG_CAPTIONS, SIGMA_MEAN, WORDS_ALONE, TrainingBatch, bodies_in, detail, draw_batch, tell, to_tell
from .optim import Average, Optimizer
from .run import Run
from .sheet import Sheets
from .text import teach_reading

NATIVE_FPS = 8.0
MOTION = 2.3  # of guidance (denoise.more_motion): at 1 the camera often stands where it should move
SHIFT = 2.5  # of the sampling schedule: who is where is decided above 80 % of noise, where a smaller one takes too few steps

# These are no matrices between hidden states: Muon's orthogonal update does not suit tables, inputs and outputs.
ADAM_NAMES = ("embedding", "pieces", "modulation", "time_", "head.head", "asker.")


@dataclass(frozen=True)
class Settings:
    """One stage of training.

    `still_share`, `sigma_mean` and `detail` go linearly from their first to their second value over the run: pictures before clips; the
    words, which count at high noise, before outlines; bodies, which fill a tenth of a picture and most of a caption, more than all else.
    With the `optimizer` "adamw" the matrices are AdamW's too, in place of Muon's, at `adam_lr`.
    `asking` is the weight of what the middle of the transformer answers about them (bodies.py), `words_alone` the share of clips that are
    made without given cells.
    The last `decay` of the run lowers the learning rate. `start` is what to go on from: a model file with its companions, or the folder
    of an earlier run. Before anything else the text encoder reads for `reading_steps`. With a file, an empty `size` is that of the file;
    `vae` and `text` are files in place of the companions that it names, which a public Wan file does not; with no `start`, `text` is a
    text encoder that can read already.

    Args:
        steps, minutes: length of the run, one of the two (run.py).
        native_fps: frames a second at which one cell is one step of position.
        lora: rank of an adapter, which is then trained in place of the weights; 0 for the weights.
        workers: processes that write captions ahead; 0 for none.
        sheets: how many sample sheets the run draws.
        compile: whether the blocks are compiled, worth it on a GPU.
    """

    size: str = "mini"
    steps: int = 8000
    minutes: float = 0.0
    tokens: int = 5120
    muon_lr: float = 2e-3
    adam_lr: float = 1.5e-3
    optimizer: str = "muon"
    still_share: tuple[float, float] = (0.6, 0.35)
    decay: float = 0.5
    sigma_mean: tuple[float, float] = (1.1, SIGMA_MEAN)
    detail: tuple[float, float] = (4.0, 4.0)
    asking: float = 0.1
    words_alone: float = WORDS_ALONE
    reading_steps: int = 1200
    warmup: int = 50
    long_captions: float = LONG_CAPTIONS
    native_fps: float = NATIVE_FPS
    start: str = ""
    vae: str = ""
    text: str = ""
    lora: int = 0
    workers: int = 0
    sheets: int = 0
    compile: bool = False
    seed: int = 0


class Student(nn.Module):
    """Text encoder and transformer as one module, so that one optimiser and one average hold both; with who asks the latter's middle."""

    def __init__(self, config: TransformerConfig, text: TextConfig):
        super().__init__()
        self.text, self.transformer, self.asker = ByteTextEncoder(text), SpacetimeTransformer(config), Asker(config.dim)

    def prepared_text(self, words: list[list[str]], rows: list[int] | None = None) -> PreparedText:
        """What the transformer's `prepare_text` gives for global words and those of each shot; `rows` of each are those of a larger batch.

        The zero columns of the text states are not multiplied here: that saves a fifth of a step on stills.
        """
        parts = []
        for prompts, count in zip(words, rows or self.rows(words), strict=True):
            tokens, lengths = self.text.tokenize(prompts)
            states = self.text.states(to_async(tokens, self.text.device), lengths)
            parts.append(F.pad(states, (0, 0, 0, count - states.shape[1])))
        states = torch.cat(parts, 1)
        first, activation, second = self.transformer.text_embedding
        embedded = second(activation(F.linear(states, first.weight[:, : states.shape[-1]], first.bias)))
        bounds = np.cumsum([part.shape[1] for part in parts]).tolist()
        return PreparedText([block.cross_attn.keys_values(embedded) for block in self.transformer.blocks], bounds)

    def rows(self, words: list[list[str]]) -> list[int]:
        """Text rows of each list of words: padding is part of the model."""
        return [self.text.rows([len(encode_bytes(prompt)) for prompt in prompts]) for prompts in words]

    def forward(self, noisy: Tensor, timestep: Tensor, words: list[list[str]], positions: Tensor, shots: list[int] | None = None,
                rows: list[int] | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The velocity, and what the middle block's states [B, N, D] answer (bodies.py)."""
        middle, states = len(self.transformer.blocks) // 2, []

        def listen(args: dict) -> dict:
            if args["block_index"] == middle:
                states.append(args["img"])
            return args

        options = {"patches": {"double_block": [listen]}}
        text = self.prepared_text(words, rows)
        velocity = self.transformer(noisy, timestep, text=text, positions=positions, shots=shots, transformer_options=options)
        return velocity, self.asker(states[0])


class CastToBFloat16(torch.autograd.Function):
    """All tensors in bfloat16, and their gradients back, by one launch each: on a GPU hundreds would take longer than to compute with
    them."""

    @staticmethod
    def forward(ctx, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        halves = [torch.empty_like(w, dtype=torch.bfloat16) for w in weights]
        torch._foreach_copy_(halves, list(weights))
        return tuple(halves)

    @staticmethod
    def backward(ctx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [g for g in grads if g is not None]
        whole = [torch.empty_like(g, dtype=torch.float32) for g in given]
        torch._foreach_copy_(whole, given)
        rest = iter(whole)
        return tuple(None if g is None else next(rest) for g in grads)


def velocity_loss(student: Student, made: TrainingBatch, words: list[list[str]], seed: int, weight_of_detail: float = 0.0, *,
                  group: Group = ALONE, adapter: Adapter | None = None) -> Tensor:  # fmt: skip
    """The first of `losses`."""
    return losses(student, made, words, seed, weight_of_detail, group=group, adapter=adapter)[0]


def losses(student: Student, made: TrainingBatch, words: list[list[str]], seed: int, weight_of_detail: float = 0.0, *,
           group: Group = ALONE, adapter: Adapter | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mean squared error of the velocity n - x0 over the cells that are to be made (rectified flow, arXiv 2209.03003), and the mean
    `answer_loss` over all tokens, 0 for a batch whose bodies are not known.

    Args:
        words: those of the distinct records of the batch.
        seed: of the noise.
        weight_of_detail: how much more the error weighs where the student itself sees more (`detail` of what it predicts). What is really
            there must be no part of the weight: where noise hides a body, the model has to predict the mean over all that may be there,
            and a weight that knows the truth would bias it towards bodies, so that samples have too many of them.
        group: of several processes each computes the part of the mean that its records are; the sum of all is the mean.
        adapter: added to the student's weights.
    """
    device = next(student.parameters()).device
    latents, rows = made.latents.to(device), student.rows(words)
    noise = torch.randn(latents.shape, generator=torch.Generator(device).manual_seed(seed), device=device)
    sigma = to_async(made.pixel_sigma, device)
    weight = (sigma > 0).float().expand_as(latents[:, :1])
    total = weight.sum().clamp_min(1) * latents.shape[1]  # of the whole batch
    asked = 0.0 if made.bodies is None else made.repeats * weight_of(made.bodies).sum()
    first, last = group.bounds(len(made.records))
    if first == last:  # more processes than records
        nothing = 0 * next((adapter or student).parameters()).sum()
        return nothing, nothing
    if group.size > 1:
        own = slice(first * made.repeats, last * made.repeats)
        latents, noise, weight, sigma = latents[own], noise[own], weight[own], sigma[own]
        made, words = made.part(first, last), [texts[first:last] for texts in words]
    noisy = latents.lerp(noise, sigma.expand_as(noise))
    # A bfloat16 copy of all weights, made once a step: autocast would keep norms and modulations in float32 and cast at every layer.
    weights = dict(student.named_parameters())
    weights = adapter.adapted(weights) if adapter else weights
    halves = dict(zip(weights, CastToBFloat16.apply(*weights.values()), strict=True))
    inputs = (noisy.to(torch.bfloat16), to_async(made.timestep, device), words, made.positions, made.shots, rows)
    velocity, answers = torch.func.functional_call(student, halves, inputs)
    error = (velocity.float() - (noise - latents)).square()
    if weight_of_detail:
        clean = noisy - sigma * velocity.detach().float()
        weight = weight * (1 + weight_of_detail * detail(clean))
    wrong = torch.zeros((), device=device)
    if made.bodies is not None:
        told = to_async(made.bodies, device).float().flatten(1, 3).repeat_interleave(made.repeats, 0)
        wrong = answer_loss(answers, told, weight_of(told)) / asked
    return (error * weight).sum() / total, wrong


def choose_shard(bank: Bank | LiveBank, still_share: float, rng: np.random.Generator) -> Shard:
    stills = [s for s in bank.shards if s.latents.shape[2] == 1]
    clips = [s for s in bank.shards if s.latents.shape[2] > 1]
    pool = stills if stills and (not clips or rng.random() < still_share) else clips
    # The rests of people's videos fill shards of a few, which would be seen as often as the many.
    worth = np.array([SHARD if isinstance(s.scenes[0][0], Scene) else min(len(s.scenes), SHARD) for s in pool], dtype=float)
    return pool[rng.choice(len(pool), p=worth / worth.sum())]


def step_flops(student: Student, made: TrainingBatch) -> float:
    """Useful FLOPs of one training step of the transformer; the text encoder's are left out."""
    batch, _, cells, h, w = made.latents.shape
    strides = Strides()
    config = replace(student.transformer.config, text_dim=student.text.config.dim)  # zero columns are not multiplied
    return 3 * batch * transformer_flops(config, VideoShape(w * strides.space, h * strides.space, cells))


def train_transformer(folder: str, bank: str | Bank | LiveBank, settings: Settings, *, group: Group | None = None,
                      vae: VideoVAE | None = None) -> Student | Adapter:  # fmt: skip
    """Trains for the budget of `settings`, resuming from `folder` if it was started there.

    Args:
        bank: folder of a latent bank, or a bank.
        vae: for sample sheets.

    Returns:
        what was trained, a Student or an Adapter, with its averaged weights, on the CPU.
    """
    group = group or ALONE
    device = group.device
    if device == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # it plans every new shape anew: 500 ms a step in place of 130 (H200)
    facts = {name: getattr(settings, name) for name in ("size", "lora", "start", "optimizer")}
    run = Run(folder, settings.steps, settings.minutes, group=group, peak=peak_flops(device), facts=facts)
    bank = Bank(bank, group) if isinstance(bank, str) else bank
    pool, ahead = workers(settings.workers), AHEAD * settings.workers
    torch.manual_seed(settings.seed)
    student = new_student(settings).to(device)
    if settings.lora:
        begin(student.requires_grad_(False), bank, settings)  # an adapter's run keeps the adapter alone
    adapter = Adapter(student, settings.lora) if settings.lora else None
    trained = adapter or student
    rates = {"muon_lr": settings.muon_lr, "adam_lr": settings.adam_lr}
    adam_names = ("",) if settings.optimizer == "adamw" else ("a.", "b.") if adapter else ADAM_NAMES  # "" is in every name
    optimizer = Optimizer(trained, **rates, warmup=settings.warmup, decay=settings.decay, adam_names=adam_names)
    average = Average(trained, 0.998)
    first = run.resume(trained, optimizer, average)
    bank.refresh(run.share(first))
    if first == 0 and not adapter:
        begin(student, bank, settings, pool, ahead)
        average.reset()
    group.share_weights(trained)
    asking = 0.0 if adapter else settings.asking  # an adapter leaves who asks as it is

    def draw(step: int) -> tuple:
        # Drawn from the step, its share of the run and the shards that are there: over a bank that is whole a resumed run of so many
        # steps sees what an uninterrupted one would have seen. Over one that grows, and in a run of minutes, the clock has a part in it.
        rng, share = np.random.default_rng((settings.seed, step)), run.share(step)
        curves = (settings.still_share, settings.sigma_mean, settings.detail)
        still_share, sigma_mean, weight_of_detail = (a + (b - a) * share for a, b in curves)
        shard = choose_shard(bank, still_share, rng)
        made = draw_batch(shard, settings.tokens, settings.native_fps, rng, sigma_mean, settings.words_alone)
        seed = int(rng.integers(2**62))
        made.bodies = bodies_in(shard, made) if asking else None
        return (made, seed, weight_of_detail), tell, *to_tell(shard, made), rng, settings.long_captions

    feed = Prefetcher(draw, pool, ahead)
    if settings.compile:
        compile_blocks(student, lambda made, words: velocity_loss(student, made, words, 0, adapter=adapter), draw(first))
        trained.zero_grad(set_to_none=True)
    sheets = Sheets(run, settings.sheets, vae, sampling(settings.native_fps)) if vae and settings.sheets else None
    for step, share in run.budget(first):
        bank.refresh(share)
        began = time.monotonic()
        (made, *drawn), words = feed.next(step)
        waited = time.monotonic() - began  # for captions: where it is much of a step, more workers help
        loss, wrong = losses(student, made, words, *drawn, group=group, adapter=adapter)
        (loss + asking * wrong).backward()
        group.sum_gradients(optimizer.parameters)
        norm = optimizer.step(step, share)
        average.update(step)
        loss, wrong = group.sum(loss.detach()), group.sum(wrong.detach())
        kind = "still" if len(made.cells) == 1 else "clip"
        work = {"tokens": made.tokens, "flops": step_flops(student, made)}
        seen = {"samples": len(made.latents), "fill": made.tokens / settings.tokens}  # nothing is padded; guides come on top
        seen |= {"waited": waited, "shards": len(bank.shards)}
        run.record(step + 1, 50, **work, **{"loss": loss, f"loss_{kind}": loss, "asked": wrong, "grad": norm}, **seen)
        run.save(step + 1, trained, optimizer, average)
        if sheets and group.is_main:
            sheets.draw(share, lambda: snapshot(student, adapter, average))
    run.finish(trained, optimizer, average)
    pool.shutdown(cancel_futures=True)
    if sheets and group.is_main:
        sheets.draw(1.0, lambda: snapshot(student, adapter, average))
    average.swap()
    return trained.cpu().eval()


def compile_blocks(student: Student, loss: Callable[[TrainingBatch, list[list[str]]], Tensor], drawn: tuple) -> None:
    """Compiles the transformer's blocks for shapes of all kinds, if this machine can: a trial step decides."""
    (made, *_), work, *args = drawn
    blocks = student.transformer.blocks
    torch._dynamo.config.recompile_limit = 64  # lone cells, clips, boxes and shots make graphs of their own
    for block in blocks:
        block.compile(dynamic=True)
    try:
        loss(made, work(*args)).backward()
    except Exception as error:  # no compiler, or one that does not know this device: what it raises differs
        for block in blocks:
            block._compiled_call_impl = None
        print(f"blocks run uncompiled: {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
    student.zero_grad(set_to_none=True)


@torch.no_grad()
def snapshot(student: Student, adapter: Adapter | None, average: Average) -> Student:
    """A copy of the model as it would be shipped now."""
    average.swap()
    weights = student.state_dict()
    made = Student(student.transformer.config, student.text.config)
    made.load_state_dict(adapter.adapted(weights) if adapter else weights)
    average.swap()
    return made.eval()


def new_student(settings: Settings) -> Student:
    """A model of the size of `settings`: by name, or that of the file to start from. Raises UserError where that is no file."""
    if settings.size:
        return Student(preset(settings.size), TextConfig())
    if not settings.start.endswith(".safetensors"):
        there = f"start is {settings.start}, no .safetensors" if settings.start else "there is no start"
        raise UserError(f"size: an empty one is that of the model file to start from, and {there}: use one of {', '.join(PRESETS)}")
    pipeline = started_from(settings)
    return Student(pipeline.transformer.config, pipeline.text.config)


def started_from(settings: Settings, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Pipeline:
    """The model file of `settings` with its companions. Raises as Pipeline.load does."""
    return Pipeline.load(settings.start, dtype, device, vae=settings.vae or None, text=settings.text or None)


def begin(student: Student, bank: Bank | LiveBank, settings: Settings, pool: Executor | None = None, ahead: int = 0) -> None:
    """What a new run starts from: earlier weights, or none; a text encoder that can read, and cross-attention that can hear it.

    Raises:
        UserError: the earlier weights are of another size; or as Pipeline.load and averaged_student do.
    """
    if settings.start:
        file = settings.start.endswith(".safetensors")
        earlier = started_from(settings) if file else averaged_student(settings.start)[0]
        if earlier.transformer.config != student.transformer.config:
            raise UserError(f"start: {settings.start} is not of size {settings.size!r}: choose the size it was trained with")
        for part in ("transformer", "text") if file else ("transformer", "text", "asker"):
            getattr(student, part).load_state_dict(getattr(earlier, part).state_dict())
    elif settings.text:
        student.text.load_state_dict(load_text(settings.text, torch.float32).state_dict())
    scenes = [shots[0] for shard in bank.shards for shots in shard.scenes if isinstance(shots[0], Scene)]
    if scenes:  # written captions have no facts to ask for
        teach_reading(student.text, scenes, settings.reading_steps, settings.seed, pool=pool, ahead=ahead)
    if not settings.start:
        hear_anew(student)


@torch.no_grad()
def hear_anew(student: Student) -> None:
    """Reinitialises the text embedding to unit scale, where the public initialisation of 0.02 is too quiet, and cross-attention.

    A transformer that met words before it could use them has learned to attend to the zero rows, and gets no gradient from any other.
    What is heard counts for nothing at first, so all else of an earlier transformer goes on as it was.
    """
    transformer = student.transformer
    first, _, second = transformer.text_embedding
    nn.init.normal_(first.weight, std=student.text.config.dim**-0.5)
    nn.init.normal_(second.weight, std=(2 / second.in_features) ** 0.5)
    for block in transformer.blocks:
        heard = block.cross_attn
        for layer in (heard.q, heard.k, heard.v):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for norm in (heard.norm_q, heard.norm_k, block.norm3):
            nn.init.ones_(norm.weight)
        for silent in (heard.o.weight, heard.o.bias, block.norm3.bias):
            nn.init.zeros_(silent)


def averaged_student(folder: str | Path) -> tuple[Student, int]:
    """The averaged weights of a run as they were last saved, and the step; also while the run goes on. Sizes are those of its tensors.

    Raises:
        UserError: a run of something else.
    """
    state = torch.load(Path(folder) / "state.pt", weights_only=True, map_location="cpu")
    shapes, what = defaultdict(dict), f"the run in {folder}"
    for name, tensor in state["model"].items():
        part, _, own = name.partition(".")
        shapes[part][own] = tuple(tensor.shape)
    student = Student(detect_transformer(shapes["transformer"], what), detect_text(shapes["text"], what))
    averages = dict(zip(state["model"], state["average"], strict=True))
    if averages["asker.answer.weight"].shape != student.asker.answer.weight.shape:  # an earlier run was asked other things
        averages = {name: tensor for name, tensor in averages.items() if not name.startswith("asker.")}
    student.load_state_dict(student.state_dict() | averages)
    return student.eval(), state["step"]


def sampling(native_fps: float = NATIVE_FPS) -> ModelHeader:
    """How a model trained here is sampled."""
    return ModelHeader(noise="frame", shift=SHIFT, motion=MOTION, native_fps=native_fps)


def header(name: str, words: tuple[str, ...], preview: list[list[float]], foresight: bool = False) -> ModelHeader:
    """The facts of a model trained here. Preview factors are fitted by `fit_preview`; `foresight` as in ModelHeader."""
    return replace(sampling(), name=name, max_seconds=5.0, vae=f"{name}_vae.safetensors", text=f"{name}_text.safetensors",
                   preview_factors=tuple(map(tuple, preview)), words=words, foresight=foresight)  # fmt: skip


def fit_preview(latents: Tensor, pixels: Tensor) -> list[list[float]]:
    """Least-squares map from a latent cell to its mean colour: 16 rows of RGB and one of bias, for latents [n, 16] and pixels [n, 3]
    in -1..1."""
    ones = torch.cat([latents, torch.ones(len(latents), 1)], 1)
    return torch.linalg.lstsq(ones, pixels).solution.tolist()
