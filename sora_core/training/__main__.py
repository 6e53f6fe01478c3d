"""Command line of the trainings; `--help` of each part says what it does.

    python -m sora_core.training probe                                       # frames a second of render, encode, decode, train step
    python -m sora_core.training vae --folder runs/vae --steps 2400
    python -m sora_core.training bank --folder runs/bank --vae runs/vae/vae.safetensors --shards 200
    python -m sora_core.training transformer --folder runs/s1 --bank runs/bank --steps 8000
    python -m sora_core.training run --folder runs/gpu --minutes 9 --vae-minutes 2 --out made      # all of it at once, on a GPU
    python -m sora_core.training tune --videos my_videos --folder runs/mine --lora 16              # your own videos

The same command again resumes. What takes long runs on the CPU or on one GPU; vae, transformer, run and tune also on several, by
`torchrun --nproc-per-node 8 -m -- sora_core.training ...`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..config import UserError, preset
from ..pipeline import SHIPPED
from .bank import SHAPES, STAGES, Recipe
from .transformer import Settings
from .vae import VAESettings

STAGE = "S1 one mover and a still camera, S2 all motions and cameras and 5 s, S3 stories, S4 shots and parts of a minute"
LEAST_AREA = 32 * 32  # pixels of a frame: two tokens along each side


def _arguments() -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m sora_core.training", description=__doc__, formatter_class=plain)
    parser.add_argument("--threads", type=_count, default=0, help="processor threads, 0 for torch's choice")
    parts = parser.add_subparsers(dest="part", required=True)
    vae = parts.add_parser("vae", help="train the video VAE on rendered frames and write vae.safetensors")
    vae.add_argument("--folder", required=True, help="of the run: its log, and what it resumes from")
    vae.add_argument("--steps", type=_count, default=2400)
    vae.add_argument("--minutes", type=float, default=0.0, help="in place of steps: of training, over all starts")
    vae.add_argument("--seed", type=_count, default=0)
    vae.add_argument("--start", default="", help="vae.safetensors of an earlier training to go on from")
    vae.add_argument("--decoder-only", action="store_true", help="leave the latents of --start as they are: its transformer stays good")
    vae.add_argument(
        "--muon-lr", type=float, default=VAESettings.muon_lr, help="peak rate of learning of the kernels; less for a VAE that is trained"
    )
    vae.add_argument("--adam-lr", type=float, default=VAESettings.adam_lr, help="that of all else")
    vae.add_argument("--batch", type=_count, default=1, help="times as many clips a step; 8 suits a GPU")
    vae.add_argument("--workers", type=_count, default=0, help="processes that sample scenes, where a GPU renders them")
    bank = parts.add_parser("bank", help="render and encode clips once")
    bank.add_argument("--folder", required=True, help="of the bank")
    bank.add_argument("--vae", required=True, help="vae.safetensors of the VAE training")
    bank.add_argument("--shards", type=_count, default=200, help="how many, of 32 clips each")
    bank.add_argument("--first", type=_count, default=0, help="number of the first one: each has its own scenes, so kinds share a folder")
    _add_shapes(bank)
    words = "names of sora_core.world, such as"
    bank.add_argument("--cameras", nargs="+", default=[], metavar="NAME", help=f"only scenes that are filmed so; {words} orbit")
    moving = f"only scenes with a body that moves so; {words} 'slide left'"
    bank.add_argument("--motions", nargs="+", default=[], metavar="NAME", help=moving)
    _add_stage(bank)
    transformer = parts.add_parser("transformer", help="train text encoder and transformer on a latent bank")
    transformer.add_argument("--folder", required=True, help="of the run: its log, and what it resumes from")
    transformer.add_argument("--bank", required=True, help="folder of a bank, which may still be growing")
    transformer.add_argument("--steps", type=_count, default=8000)
    transformer.add_argument("--minutes", type=float, default=0.0, help="in place of steps: of training, over all starts")
    transformer.add_argument("--vae", default="", help="file of the VAE, for sample sheets")
    _add_settings(transformer, size="mini", tokens=5120, sheets=0)
    run = parts.add_parser("run", help="render, encode and train for some minutes in one process, for a GPU")
    run.add_argument("--folder", required=True, help="of the run: its log, and what it resumes from")
    run.add_argument("--minutes", type=float, required=True, help="of training, over all starts")
    run.add_argument("--vae-minutes", type=float, default=0.0, help="of these for the VAE")
    run.add_argument("--vae", default="", help="file of a VAE to use, or with vae-minutes to go on from")
    run.add_argument("--bank-share", type=float, default=0.3, help="of the transformer's time, for rendering and encoding")
    run.add_argument("--out", default="", help="folder that gets the model's files")
    run.add_argument("--name", default="sora_mini")
    run.add_argument("--stage", nargs="+", default=["S2"], choices=list(STAGES), help=f"{STAGE}; of several, each in turn")
    _add_shapes(run)
    _add_settings(run, size="mini", tokens=65536, sheets=3)
    tune = parts.add_parser("tune", help="fine-tune a model on a folder of videos with captions")
    tune.add_argument("--videos", required=True, help="name.mp4 beside name.txt, or a file *.jsonl")
    tune.add_argument("--folder", required=True, help="of the run: its log, and what it resumes from")
    tune.add_argument("--model", default=str(SHIPPED), help="model file to tune")
    tune.add_argument("--vae", default="", help="VAE file of a model that names none, such as a public Wan 2.1")
    tune.add_argument("--text", default="", help="text encoder file of this pack, for a model that names none")
    tune.add_argument("--lora", type=_count, default=0, help="rank of a LoRA; 0 tunes all weights")
    tune.add_argument("--steps", type=_count, default=400)
    tune.add_argument("--tokens", type=_count, default=5120, help="tokens a step")
    tune.add_argument("--rate", type=float, default=0.0, help="learning rate; default 1e-3 for a LoRA, 2e-4 for all weights")
    tune.add_argument("--area", type=_area, default=128 * 128, help="pixels of a frame; each video keeps its own shape")
    tune.add_argument("--whole-files", action="store_true", help="every file is one shot: nothing is cut")
    tune.add_argument("--seed", type=_count, default=0)
    for name, words in (("scaling", "loss against compute of three sizes"), ("recaptioning", "what long captions buy")):
        study = parts.add_parser(name, help=f"a study: {words}, on equal data at 64 pixels")
        study.add_argument("--folder", required=True, help="of the run: its log, and what it resumes from")
        study.add_argument("--vae", required=True, help="vae.safetensors of the VAE training")
        study.add_argument("--steps", type=_count, default=4000)
        study.add_argument("--shards", type=_count, default=48, help="how many batches' worth of clips to render")
        _add_stage(study)
        _add_settings(study, size="mini", tokens=16384, sheets=0)
    _add_tools(parts)
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no count: use a whole number, 0 or more")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: use a number from 0 to 1")
    return share


def _area(text: str) -> int:
    area = int(text)
    if area < LEAST_AREA:
        raise argparse.ArgumentTypeError(f"{area} pixels are too few: use {LEAST_AREA} or more")
    return area


def _size(name: str) -> str:
    try:
        preset(name or "mini")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


def _add_stage(part: argparse.ArgumentParser) -> None:
    part.add_argument("--stage", default="S2", choices=list(STAGES), help=STAGE)


def _add_shapes(part: argparse.ArgumentParser) -> None:
    turns = f"in place of the stage's plan, one shape of each in turn: {', '.join(SHAPES)}"
    part.add_argument("--shapes", nargs="+", default=[], metavar="NAME", help=turns)


def _add_settings(part: argparse.ArgumentParser, *, size: str, tokens: int, sheets: int) -> None:
    part.add_argument("--size", type=_size, default=size, help="a name in config.PRESETS; '' for that of the file to start from")
    part.add_argument("--tokens", type=_count, default=tokens, help="tokens a step")
    levels = "mean of the noise levels' logit at the start and at the end; high ones teach the words, low ones the details"
    part.add_argument("--sigma-mean", type=float, nargs=2, default=Settings.sigma_mean, help=levels)
    weights = "extra weight of places with something to see at the start and at the end"
    part.add_argument("--detail", type=float, nargs=2, default=Settings.detail, help=weights)
    part.add_argument("--asking", type=float, default=Settings.asking, help="weight of naming the bodies in the middle of the transformer")
    part.add_argument("--words-alone", type=_share, default=Settings.words_alone, help="share of clips made without given frames")
    part.add_argument("--still-share", type=float, nargs=2, default=Settings.still_share, help="share of stills, likewise")
    reads = f"default {Settings.reading_steps}, and 0 after a --start or --text, which can read"
    part.add_argument("--reading-steps", type=_count, help=f"of the text encoder alone, before all else; {reads}")
    part.add_argument("--start", default="", help="model file, or folder of an earlier run, to go on from")
    part.add_argument(
        "--text", default="", help="text encoder file of this pack, for a --start that names none, as --vae; with no --start, to begin with"
    )
    part.add_argument(
        "--muon-lr", type=float, default=Settings.muon_lr, help="peak rate of learning of the matrices; half for a model that is trained"
    )
    part.add_argument("--adam-lr", type=float, default=Settings.adam_lr, help="that of all else")
    part.add_argument(
        "--optimizer", default=Settings.optimizer, choices=("muon", "adamw"), help="of the matrices; all else is AdamW's in any case"
    )
    part.add_argument("--decay", type=float, default=Settings.decay, help="last share of the run that lowers the learning rate")
    part.add_argument("--sheets", type=_count, default=sheets, help="sample sheets over the run")
    part.add_argument("--workers", type=_count, default=-1, help="processes that write captions ahead; default by the machine")
    part.add_argument("--compile", action="store_true", help="compile the blocks: takes a minute or more, pays in long runs on a GPU")
    part.add_argument("--seed", type=_count, default=0)


def _add_tools(parts: argparse._SubParsersAction) -> None:
    ship = parts.add_parser("ship", help="write the averaged weights of a run, with VAE and text encoder, as files of the pack")
    ship.add_argument("--folder", required=True, help="of the run")
    ship.add_argument("--vae", required=True, help="vae.safetensors of the VAE training")
    ship.add_argument("--name", default="sora_mini")
    ship.add_argument("--out", required=True, help="folder that gets diffusion_models/, vae/ and text_encoders/")
    ship.add_argument("--earlier", default="", help="model file from which it was trained, to blend with")
    ship.add_argument("--share", type=float, default=0.7, help="of its own weights in the blend, default %(default)s")
    ship.add_argument("--foresight", action="store_true", help="it has seen parts of a minute and foresees long videos; always in stage S4")
    _add_stage(ship)
    probe = parts.add_parser("probe", help="measure this machine before sizes are fixed")
    probe.add_argument("--size", type=_size, default="mini", help="of the transformer")
    curve = parts.add_parser("curve", help="draw the log of a run as an SVG picture")
    curve.add_argument("folder")
    curve.add_argument("--values", nargs="+", default=["loss"])
    curve.add_argument("--title", default="")
    curve.add_argument("--out", required=True)


def _vae(args: argparse.Namespace) -> None:
    from ..checkpoint import save_vae
    from .group import Group
    from .vae import train_vae

    group = Group.join()
    names = ("start", "decoder_only", "muon_lr", "adam_lr", "batch", "workers", "seed")
    settings = VAESettings(**_length(args), **{name: getattr(args, name) for name in names})
    vae = train_vae(args.folder, settings, group)
    if group.is_main:
        path = Path(args.folder) / "vae.safetensors"
        save_vae(path, vae)
        print(path)


def _bank(args: argparse.Namespace) -> None:
    from ..checkpoint import load_vae
    from .bank import make_bank
    from .group import Group

    recipe = Recipe(args.stage, *(tuple(names) for names in (args.shapes, args.cameras, args.motions)))
    vae = load_vae(args.vae, torch.bfloat16, Group().device).channels_last()
    make_bank(args.folder, vae, args.shards, recipe, args.first)


def _settings(args: argparse.Namespace, **more):
    from .gpu import default_workers

    names = ["size", "tokens", "asking", "words_alone", "optimizer", "muon_lr", "adam_lr", "decay", "start", "vae", "text"]
    chosen = {name: getattr(args, name) for name in [*names, "sheets", "seed"]}
    reads = 0 if args.start or args.text else Settings.reading_steps
    chosen["reading_steps"] = reads if args.reading_steps is None else args.reading_steps
    curves = {name: tuple(getattr(args, name)) for name in ("still_share", "sigma_mean", "detail")}
    workers = default_workers() if args.workers < 0 else args.workers
    return Settings(**chosen, **curves, workers=workers, compile=args.compile, **more)


def _transformer(args: argparse.Namespace) -> None:
    from ..checkpoint import load_vae
    from .group import Group
    from .transformer import train_transformer

    group = Group.join()
    if args.sheets and not args.vae:
        raise SystemExit("sheets: they are drawn by a VAE: give --vae, or --sheets 0")
    vae = load_vae(args.vae, torch.bfloat16, group.device).channels_last() if args.vae else None
    train_transformer(args.folder, args.bank, _settings(args, **_length(args)), group=group, vae=vae)


def _length(args: argparse.Namespace) -> dict[str, float]:
    return {"steps": 0, "minutes": args.minutes} if args.minutes else {"steps": args.steps}


def _run(args: argparse.Namespace) -> None:
    from .gpu import RunSettings, run_all

    what = (tuple(args.stage), tuple(args.shapes))
    run = RunSettings(args.minutes, args.vae_minutes, args.vae, args.bank_share, *what, args.out, args.name)
    _print_files(run_all(args.folder, run, _settings(args)))


def _study(args: argparse.Namespace) -> None:
    from ..checkpoint import load_vae
    from . import studies
    from .group import Group

    vae = load_vae(args.vae, torch.bfloat16, Group().device).channels_last()
    study = getattr(studies, args.part)
    _print_files([study(args.folder, vae, _settings(args, steps=args.steps), shards=args.shards, stage=args.stage)])


def _tune(args: argparse.Namespace) -> None:
    from .group import Group
    from .tune import tune

    rate = args.rate or (1e-3 if args.lora else 2e-4)
    given = {"start": args.model, **{name: getattr(args, name) for name in ("steps", "tokens", "vae", "text", "lora", "seed")}}
    curves = {"still_share": (0.3, 0.3), "detail": (0.0, 0.0)}
    settings = Settings(**given, **curves, muon_lr=rate, adam_lr=rate)
    group = Group.join()
    files = tune(args.videos, args.folder, settings, area=args.area, whole_files=args.whole_files, group=group)
    _print_files(files if group.is_main else [])


def _print_files(paths: list[Path]) -> None:
    for path in paths:
        print(path, f"{path.stat().st_size / 2**20:.1f} MiB")


def _ship(args: argparse.Namespace) -> None:
    from .ship import ship

    options = {name: getattr(args, name) for name in ("name", "stage", "foresight", "earlier", "share")}
    _print_files(ship(args.folder, args.vae, args.out, **options))


def _probe(args: argparse.Namespace) -> None:
    from .probe import probe

    probe(args.size)


def _curve(args: argparse.Namespace) -> None:
    from .curve import draw, read_log

    draw({value: read_log(args.folder, value) for value in args.values}, args.out, args.title or args.folder)


def main() -> None:
    args = _arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # denormal numbers slow AVX code tenfold
    parts = {"vae": _vae, "bank": _bank, "transformer": _transformer, "run": _run, "tune": _tune, "ship": _ship, "probe": _probe}
    parts |= {"curve": _curve, "scaling": _study, "recaptioning": _study}
    try:
        parts[args.part](args)
    except (UserError, FileNotFoundError, ModuleNotFoundError) as error:  # what a person can mend, in one sentence
        missing = getattr(error, "filename", None)
        raise SystemExit(f"{missing}: there is no such file" if missing else str(error)) from error


if __name__ == "__main__":
    main()
