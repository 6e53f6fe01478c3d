"""Kill ComfyUI at random moments of a long video, start it again, queue again: the end must be that of a run nobody disturbed.

    python scripts/kill_trials.py 20

The moments take turns: in a step, between two passes, while a file is written, while frames are decoded and saved. Prints for each kill
when it came, what was kept, and whether latents and frames are equal bit for bit; at the end how often each moment was hit. One that
lasts milliseconds may be missed, but not every time. About 40 seconds a trial on two quiet cores, most of it for two starts of the server.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import environment
from workflow_api import node

MODEL = "sora_mini.safetensors"
SAVE_SECONDS = "0.1"  # in a short pass too something is kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="?", type=int, default=20, help="how many (default: %(default)s)")
    count = parser.parse_args().trials
    environment.start()
    with tempfile.TemporaryDirectory(prefix="sora-kill-", ignore_cleanup_errors=True) as folder:
        done = list(trials(Path(folder), long_video(MODEL), count, print))
    equal, hits = sum(equal for equal, _ in done), Counter(moment for _, hit in done for moment in hit)
    print(f"{equal} of {count} trials ended as the undisturbed run; killed " + ", ".join(f"{m} {hits[m]}" for m in MOMENTS))
    never = [moment for moment in list(MOMENTS)[:count] if not hits[moment]]
    return 1 if equal < count or never else 0


def long_video(model: str) -> dict:
    """API format: 20 s in eight passes or more, saved as latents and as pictures."""
    size = {"size": "custom", "size.width": 64, "size.height": 64}
    return {
        "load": node("SoraLoadModel", model=model, precision="float32"),
        "words": node("SoraPrompt", clip=["load", 1], text="a red ball rolls"),
        "canvas": node("SoraCanvas", vae=["load", 2], seconds=20.0, fps=8.0, batch=1, **size),
        "plan": node("SoraPlan", model=["load", 0], latent=["canvas", 0], plan="foresight", window=0, overlap=3, distance=6),
        "sample": node(
            "SoraSampler", model=["load", 0], positive=["words", 0], latent=["plan", 0], seed=7, steps=8, guidance=3.0,
            sampler_name="sora_ancestral", scheduler="simple", denoise=1.0,
        ),
        "latents": node("SaveLatent", samples=["sample", 0], filename_prefix="kill/latents"),
        "video": node("SoraDecode", vae=["load", 2], latent=["sample", 0], seam="carry"),
        "save": node("SoraSave", video=["video", 0], filename_prefix="kill/frames", format="png"),
    }  # fmt: skip


def trials(folder: Path, prompt: dict, count: int, tell, prepare=lambda base: None, kills: int = 1):
    """Yields for each trial whether its end was that of the undisturbed run, which comes first, and the moments at which it was killed.

    Args:
        folder: an empty one, to work in.
        tell: gets a line for each kill and each trial.
        prepare: puts models into the base folder of a server.
        kills: how often a trial is killed and started again, each time at the next kind of moment.
    """
    base = new_base(folder / "undisturbed", prepare)
    with started(base) as server:
        whole = Run(server, base, prompt)
        whole.end()
    if whole.error:
        raise whole.error
    wanted = made_in(base)
    for number in range(count):
        base, hit = new_base(folder / f"trial{number}", prepare), []
        for kill in range(kills):
            moment = list(MOMENTS)[(number * kills + kill) % len(MOMENTS)]
            with started(base) as server:
                run = Run(server, base, prompt, (kill + 1) / kills)
                MOMENTS[moment](run, whole)
                seconds, over = time.monotonic() - run.start, not run.goes_on
                server.process.kill()
                server.process.wait()
                run.end()
            if over:
                when = f"killed when all was done, {moment} was missed"
            else:
                when = f"killed {moment}, after {seconds:.1f} s"
                hit.append(moment)
            begun = len(list(base.glob("output/sora_jobs/passes/[!.]*.half.safetensors")))
            tell(f"trial {number}: {when}, {len(kept_in(base))} passes were kept, and {begun} of which a part was made")
        with started(base) as server:
            server.queue(prompt)
        equal = made_in(base) == wanted
        tell(f"trial {number}: {'equal' if equal else 'DIFFERENT'}")
        yield equal, hit


class Run:
    """A prompt on its way through a server, and when each node began, in seconds from the start.

    share: how far the sampling may come until the kill, so that there is work left for further ones.
    """

    def __init__(self, server, base: Path, prompt: dict, share: float = 1.0):
        self.base, self.share, self.begun, self.error = base, share, {}, None
        self.kept = len(kept_in(base))
        self.start = time.monotonic()
        self._thread = threading.Thread(target=self._queue, args=(server, prompt), daemon=True)
        self._thread.start()

    def _queue(self, server, prompt: dict) -> None:
        try:
            server.queue(prompt, self._event)
        except Exception as error:  # a killed server answers nobody
            self.error = error

    def _event(self, kind: str, data: dict) -> None:
        if kind == "executing":
            self.begun[data["node"]] = time.monotonic() - self.start  # node None: the end

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        self._thread.join()

    def until(self, condition, pause: float = 0.002) -> None:
        """Waits; looks often, for what is waited for may last some milliseconds."""
        while self.goes_on and not condition():
            time.sleep(pause)

    def kept_at(self, whole: "Run", least: int) -> int:
        """A random number of whole passes to wait for, `least` or more."""
        return random.randint(least, max(least, int(self.share * len(kept_in(whole.base))) - 1))

    def seconds_in(self, node: str) -> float:
        """How long a node took, in a run that has ended."""
        return min(at for at in self.begun.values() if at > self.begun[node]) - self.begun[node]


def kept_in(base: Path) -> list[Path]:
    """The passes that are whole."""
    return [path for path in base.glob("output/sora_jobs/passes/[!.]*.safetensors") if ".half." not in path.name]


def in_a_step(run: Run, whole: Run) -> None:
    run.until(lambda: "sample" in run.begun)
    time.sleep(random.uniform(0, run.share * whole.seconds_in("sample")))


def between_passes(run: Run, whole: Run) -> None:
    count = run.kept_at(whole, run.kept + 1)
    run.until(lambda: len(kept_in(run.base)) >= count)


def while_writing(run: Run, whole: Run) -> None:
    count = run.kept_at(whole, run.kept)
    run.until(lambda: len(kept_in(run.base)) >= count and any(run.base.glob("output/sora_jobs/**/.*.part")), pause=0.0)


def while_decoding(run: Run, whole: Run) -> None:
    run.until(lambda: "save" in run.begun)
    time.sleep(random.uniform(0, whole.seconds_in("save")))


MOMENTS = {
    "in a step": in_a_step,
    "between passes": between_passes,
    "while writing": while_writing,
    "while decoding": while_decoding,
}


def new_base(base: Path, prepare) -> Path:
    base.mkdir(parents=True)
    prepare(base)
    return base


def started(base: Path):
    from server import ComfyServer

    variables = {**environment.child_variables(), "SORA_SAVE_SECONDS": SAVE_SECONDS}
    return ComfyServer(environment.host_folder(), base, variables=variables)


def made_in(base: Path) -> list:
    """The last latents, and every picture of the last folder, as values that can be compared bit for bit."""
    from PIL import Image
    from safetensors.torch import load_file

    latents = load_file(sorted(base.glob("output/kill/latents_*.latent"))[-1])["latent_tensor"].numpy().tobytes()
    folder = sorted(base.glob("output/kill/frames_*_"))[-1]
    return [latents, *(Image.open(picture).tobytes() for picture in sorted(folder.iterdir()))]


if __name__ == "__main__":
    sys.exit(main())
