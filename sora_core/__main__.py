"""Words to an MP4 without the host.

python -m sora_core "a red ball bounces on the beach at sunset" --seconds 2 --out ball.mp4
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .config import UserError
from .files import unfinished
from .generate import GUIDANCE, STEPS
from .pipeline import SHIPPED, Pipeline
from .video_file import CODECS, write_video


def _check_folder(option: str, folder: Path) -> None:
    """Ends the program, before any work, unless files can be written there; makes the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"{option}: {folder} cannot be made: {error.strerror}")
    if not os.access(folder, os.W_OK):
        sys.exit(f"{option}: nothing may be written to {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sora_core", description="Words to an MP4 with the shipped model.")
    parser.add_argument("prompt")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--model", default=str(SHIPPED))
    parser.add_argument("--vae", help="VAE file of a model that names none, such as a public Wan 2.1")
    parser.add_argument("--text", help="text encoder file of this pack, for a model that names none")
    parser.add_argument("--out", default="sora.mp4")
    parser.add_argument("--jobs", help="folder that keeps every pass of a long video: the same command goes on after a crash")
    args = parser.parse_args()
    if Path(args.out).exists():
        sys.exit(f"--out: {args.out} is there already: choose another name")
    codec = next((name for name, kind in CODECS.items() if Path(args.out).suffix.lower() in kind.suffixes), None)
    if codec is None:
        sys.exit(f"--out: {args.out} has no name of a video: end it in .mp4 or .webm")
    _check_folder("--out", Path(args.out).absolute().parent)
    if args.jobs:
        _check_folder("--jobs", Path(args.jobs).absolute())

    def show(done: dict) -> None:
        sys.stderr.write(f"\rstep {done['step'] + 1}/{done['steps']}" + "\n" * (done["step"] + 1 == done["steps"]))

    options = {"seed": args.seed, "steps": args.steps, "guidance": args.guidance, "callback": show}
    options["jobs"] = Path(args.jobs) if args.jobs else None
    try:
        pipeline = Pipeline.load(args.model, vae=args.vae, text=args.text)
        frames = pipeline.frames(args.prompt, args.seconds, args.width, args.height, **options)
        with unfinished(Path(args.out)) as made:
            write_video(made, frames, pipeline.header.native_fps, codec=codec)
    except (UserError, FileNotFoundError, ModuleNotFoundError) as error:  # of words, sizes, files and a full disk; each is a sentence
        sys.exit(str(error))
    except PermissionError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit("\nstopped" + ("; the same command goes on" if args.jobs else ""))
    if made.path != Path(args.out):
        sys.stderr.write(f"there is a {args.out} by now: this is {made.path}\n")


if __name__ == "__main__":
    main()
