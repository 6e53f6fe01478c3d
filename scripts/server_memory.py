"""Peak memory of the whole server while it makes and saves videos of 5 s, 60 s and 600 s: it must not grow with the length.

    python scripts/server_memory.py            # about two minutes on two quiet cores
    python scripts/server_memory.py 5 60       # other lengths, in seconds

Each length has a fresh ComfyUI, one sampling step and 32x32 pixels, so that what grows with the length is all that can be seen. Printed is
the most resident memory that the process of the server ever had (Linux counts it), and what it had before the first video. The exit status
is 1 if the largest peak is more than 10 % above the smallest.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import environment
from workflow_api import node

LENGTHS = (5.0, 60.0, 600.0)
MOST = 1.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="*", type=float, default=LENGTHS, help="lengths of the videos")
    lengths = parser.parse_args().seconds
    if not Path("/proc/self/status").is_file():
        print("This system does not count the peak memory of a process: run it on Linux.", file=sys.stderr)
        return 2
    environment.start()
    peaks = []
    with tempfile.TemporaryDirectory(prefix="sora-memory-", ignore_cleanup_errors=True) as folder:
        for seconds in lengths:
            before, peak, size = measure(Path(folder) / f"{seconds:g}", seconds)
            peaks.append(peak)
            print(
                f"{seconds:5g} s: {before / 2**20:.0f} MiB before, {peak / 2**20:.0f} MiB at most; the file has {size:,} bytes", flush=True
            )
    ratio = max(peaks) / min(peaks)
    print(f"largest over smallest peak: {ratio:.3f}, at most {MOST}: {'yes' if ratio <= MOST else 'NO'}")
    return 0 if ratio <= MOST else 1


def measure(base: Path, seconds: float) -> tuple[int, int, int]:
    """(peak bytes of a server before it makes a video of so many seconds, and after it has saved it, bytes of the file)."""
    from server import ComfyServer

    with ComfyServer(environment.host_folder(), base, variables=environment.child_variables()) as server:
        before = peak_of(server.process.pid)
        history = server.queue(saved_video(seconds))
        return before, peak_of(server.process.pid), sum(path.stat().st_size for path in server.files(history))


def saved_video(seconds: float) -> dict:
    """API format: words to an MP4 with the shipped model and the host's Save Video."""
    size = {"size": "custom", "size.width": 32, "size.height": 32}
    return {
        "load": node("SoraLoadModel", model="sora_mini.safetensors", precision="auto"),
        "words": node("SoraPrompt", clip=["load", 1], text="a red ball rolls"),
        "canvas": node("SoraCanvas", vae=["load", 2], seconds=seconds, fps=8.0, batch=1, **size),
        "sample": node(
            "SoraSampler", model=["load", 0], positive=["words", 0], latent=["canvas", 0], seed=7, steps=1, guidance=1.0,
            sampler_name="sora_ancestral", scheduler="simple", denoise=1.0,
        ),
        "video": node("SoraDecode", vae=["load", 2], latent=["sample", 0], seam="carry"),
        "save": node("SaveVideo", video=["video", 0], filename_prefix="video/memory", format="auto", codec="auto"),
    }  # fmt: skip


def peak_of(process: int) -> int:
    """The most resident bytes that a process ever had."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
