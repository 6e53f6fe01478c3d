"""Command line of the trainings; `--help` of each part says what it does.

    python -m sora_core.training probe                                       # frames a second of render, encode, decode, train step
    python -m sora_core.training vae --folder runs/vae --steps 2400
    python -m sora_core.training bank --folder runs/bank --vae runs/vae/vae.safetensors --shards 200
    python -m sora_core.training transformer --folder runs/s1 --bank runs/bank --steps 8000

The same command again resumes. All parts run on the CPU or on one GPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch


def _arguments() -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m sora_core.training", description=__doc__, formatter_class=plain)
    parser.add_argument("--threads", type=int, default=0, help="processor threads, 0 for torch's choice")
    parts = parser.add_subparsers(dest="part", required=True)
    vae = parts.add_parser("vae", help="train the video VAE on rendered frames and write vae.safetensors")
    vae.add_argument("--folder", required=True)
    vae.add_argument("--steps", type=int, default=2400)
    vae.add_argument("--seed", type=int, default=0)
    vae.add_argument("--start", default="", help="vae.safetensors of an earlier training to go on from")
    bank = parts.add_parser("bank", help="render and encode clips once")
    bank.add_argument("--folder", required=True)
    bank.add_argument("--vae", required=True, help="vae.safetensors of the VAE training")
    bank.add_argument("--shards", type=int, default=200, help="of 32 clips each")
    transformer = parts.add_parser("transformer", help="train text encoder and transformer on a latent bank")
    transformer.add_argument("--folder", required=True)
    transformer.add_argument("--bank", required=True)
    transformer.add_argument("--size", default="mini")
    transformer.add_argument("--steps", type=int, default=8000)
    transformer.add_argument("--tokens", type=int, default=5120, help="tokens a step")
    levels = "mean of the noise levels' logit at the start and at the end; high ones teach the words, low ones the details"
    transformer.add_argument("--sigma-mean", type=float, nargs=2, default=(2.0, 0.6), help=levels)
    weights = "extra weight of places with something to see at the start and at the end"
    transformer.add_argument("--detail", type=float, nargs=2, default=(4.0, 0.0), help=weights)
    transformer.add_argument("--still-share", type=float, nargs=2, default=(0.6, 0.2), help="share of stills at the start and at the end")
    transformer.add_argument("--reading-steps", type=int, default=1200, help="of the text encoder alone, before all else")
    transformer.add_argument("--start", default="", help="model file, or folder of an earlier run, to go on from")
    transformer.add_argument("--decay", type=float, default=0.5, help="last share of the steps that lowers the learning rate")
    transformer.add_argument("--seed", type=int, default=0)
    ship = parts.add_parser("ship", help="write the averaged weights of a run, with VAE and text encoder, as files of the pack")
    ship.add_argument("--folder", required=True)
    ship.add_argument("--vae", required=True)
    ship.add_argument("--size", default="mini")
    ship.add_argument("--name", default="sora_mini")
    ship.add_argument("--out", required=True, help="folder that gets diffusion_models/, vae/ and text_encoders/")
    probe = parts.add_parser("probe", help="measure this machine before sizes are fixed")
    probe.add_argument("--size", default="mini")
    curve = parts.add_parser("curve", help="draw the log of a run as an SVG picture")
    curve.add_argument("folder")
    curve.add_argument("--values", nargs="+", default=["loss"])
    curve.add_argument("--title", default="")
    curve.add_argument("--out", required=True)
    return parser.parse_args()


def _vae(args: argparse.Namespace) -> None:
    from ..checkpoint import save_vae
    from .vae import train_vae

    vae = train_vae(args.folder, args.steps, args.seed, args.start)
    path = Path(args.folder) / "vae.safetensors"
    save_vae(path, vae)
    print(path)


def _bank(args: argparse.Namespace) -> None:
    from ..checkpoint import load_vae
    from .bank import make_bank

    make_bank(args.folder, load_vae(args.vae).channels_last().to(torch.bfloat16), args.shards)


def _transformer(args: argparse.Namespace) -> None:
    from .transformer import Settings, train_transformer

    chosen = {name: getattr(args, name) for name in ("size", "steps", "tokens", "reading_steps", "start", "decay", "seed")}
    curves = {name: tuple(getattr(args, name)) for name in ("still_share", "sigma_mean", "detail")}
    train_transformer(args.folder, args.bank, Settings(**curves, **chosen))


def _ship(args: argparse.Namespace) -> None:
    from .ship import ship

    for path in ship(args.folder, args.vae, args.size, args.name, args.out):
        print(path, f"{path.stat().st_size / 2**20:.1f} MiB")


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
    {"vae": _vae, "bank": _bank, "transformer": _transformer, "ship": _ship, "probe": _probe, "curve": _curve}[args.part](args)


if __name__ == "__main__":
    main()
