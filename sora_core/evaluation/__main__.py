"""The scorecard of a model, and the training of the observer that it needs.

python -m sora_core.evaluation --quick             # about 5 minutes on two cores, 8 prompts
python -m sora_core.evaluation --full --out docs   # hours; the same command again goes on
python -m sora_core.evaluation --quick --rows adherence physics --model my_model.safetensors
python -m sora_core.evaluation observer            # renders, trains and measures the observer
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ..config import UserError
from ..generate import GUIDANCE, STEPS
from ..pictures import contact_sheet
from ..pipeline import SHIPPED, Pipeline
from .adherence import MOMENTS, described
from .bench import FULL, QUICK, Bench
from .metrics import DRIFT_SECONDS
from .observer import load_observer
from .report import Row, earlier, merged, table, write
from .rows import ROWS
from .studio import Studio

FIRST, WORST = 4, 6  # clips on sheets


def _arguments() -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m sora_core.evaluation", description=__doc__, formatter_class=plain)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a few clips of everything (default)")
    size.add_argument("--full", action="store_true", help="enough clips for narrow intervals")
    parser.add_argument("--model", default=str(SHIPPED), help="transformer file; its companions are found as the pack finds them")
    parser.add_argument("--vae", default="", help="VAE file of a model that names none, such as a public Wan 2.1")
    parser.add_argument("--text", default="", help="text encoder file of this pack, for a model that names none")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="default all")
    parser.add_argument(
        "--prompts",
        type=int,
        help="of adherence; half of them also in Chinese, wide and tall, half as many of S1; default 8, with --full 120",
    )
    parser.add_argument("--clips", type=int, help="of each of the other rows, at most: --full --clips 12 lies between quick and full")
    parser.add_argument("--videos", type=int, help="of the rows of a minute; default 20 with --full, else none")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of those videos, 10 or more")
    parser.add_argument("--steps", type=int, default=STEPS, help="of sampling, default %(default)s")
    parser.add_argument("--guidance", type=float, default=GUIDANCE, help="default %(default)s")
    parser.add_argument("--folder", default="runs/evaluation", help="keeps latents, so that a killed run goes on")
    out = "gets scorecard.json, .md, .svg and the worst clips; a part of the rows is added to those that are there"
    parser.add_argument("--out", default="runs/evaluation", help=out)
    parts = parser.add_subparsers(dest="part")
    observer = parts.add_parser("observer", help="train the observer, measure it on renders it never saw, and write its weights")
    observer.add_argument("--folder", dest="observer_folder", default="runs/observer")
    observer.add_argument("--steps", dest="observer_steps", type=int, default=3600)
    args = parser.parse_args()
    if args.seconds < 2 * DRIFT_SECONDS:
        parser.error(f"--seconds {args.seconds:g}: use {2 * DRIFT_SECONDS:g} or more, the first and the last {DRIFT_SECONDS:g} of drift")
    return args


def _say(words: str) -> None:
    sys.stderr.write(f"\r{words:<60}")
    sys.stderr.flush()


def sections(bench: Bench, out: Path) -> dict[str, str]:
    """Of the page: the first clips of each stage, those of which least was found, and all minutes, a row each."""
    folder, made = out / "scorecard", {}
    folder.mkdir(parents=True, exist_ok=True)
    scores = [score for clips in bench.scores.values() for score in clips]
    for (language, aspect, stage), clips in bench.scores.items():
        if (language, aspect) == ("en", "1:1"):
            contact_sheet(sum((clip.shown for clip in clips[:FIRST]), []), folder / f"{stage}.png", columns=MOMENTS)
            told = " ".join(f"**{i}.** {clip.prompt}" for i, clip in enumerate(clips[:FIRST]))
            made[f"The first clips of stage {stage}"] = f"What was made, and below it renders. {told}\n\n![clips](scorecard/{stage}.png)"
    lines = ["What was made, and below it a render of what was told. The observer missed what is named.", ""]
    for i, clip in enumerate(sorted(scores, key=lambda s: -len(s.missed) / len(s.facts))[:WORST]):
        contact_sheet(clip.shown, folder / f"worst{i}.png", columns=MOMENTS)
        missed = ", ".join(map(described, clip.missed)) or "nothing"
        lines += [f"**{i}.** {clip.prompt} Missed: {missed}.", "", f"![clip](scorecard/worst{i}.png)", ""]
    if scores:
        made["The worst clips"] = "\n".join(lines).strip()
    if bench.takes:
        contact_sheet(torch.cat(bench.takes), folder / "takes.png", columns=len(bench.takes[0]))
        words = f"By foresight, a row each, {len(bench.takes[0])} moments of {bench.budget.film_seconds:g} s, at half their size."
        made["Long takes"] = f"{words}\n\n![takes](scorecard/takes.png)"
    return made


def score(args: argparse.Namespace) -> list[Row]:
    """Measures the rows asked for and writes the scorecard."""
    source = {"path": args.model, "vae": args.vae, "text": args.text, "device": args.device}
    source = {name: value for name, value in source.items() if value}
    pipeline = Pipeline.load(**source)
    studio = Studio(pipeline, Path(args.folder) / "latents", args.steps, args.guidance)
    budget = FULL if args.full else QUICK
    films = budget.films if args.videos is None else args.videos
    if args.clips:
        budget = budget.at_most(args.clips)
    if args.prompts:
        half = max(1, args.prompts // 2)
        budget = replace(budget, prompts=args.prompts, paired=half, first_stage=half)
    bench = Bench(studio, load_observer(), replace(budget, films=films, film_seconds=args.seconds), source, _say)
    model, out = {"file": Path(args.model).name, "hash": studio.model, "steps": args.steps, "guidance": args.guidance}, Path(args.out)
    part = set(args.rows) < set(ROWS)  # of the rows: they are added to those of the same model
    if part:
        earlier(out, model)  # another model's are refused before anything is made
    rows, started = [], time.monotonic()
    for name in args.rows:
        rows += ROWS[name](bench)
        _say(f"{name}: {time.monotonic() - started:.0f} s")
    before = earlier(out, model) if part else []
    size = {"size": "full" if args.full else "quick", **asdict(bench.budget)}
    model |= {"size": "measured in parts, n says of how many"} if before else size
    write(out, merged(before, rows), model, sections(bench, out))
    return rows


def main() -> None:
    args = _arguments()
    torch.set_flush_denormal(True)  # denormal numbers slow AVX code tenfold
    if args.part == "observer":
        from .observer_training import teach

        teach(args.observer_folder, args.observer_steps)
        return
    try:
        rows = score(args)
    except (UserError, FileNotFoundError) as error:  # what a user can mend, in one sentence
        raise SystemExit(str(error)) from error
    sys.stderr.write("\n")
    print(table(rows))


if __name__ == "__main__":
    main()
