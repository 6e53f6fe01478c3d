"""Speed and memory of the pack as ratios to the host's, on this machine, in one run.

    python -m benchmarks.speed                         # everything: about ten minutes on two quiet cores
    python -m benchmarks.speed --blocks 2 --repeats 1  # a first look: two minutes
    python -m benchmarks.speed step decode --json speed.json

Both sides do the same work with the same weights and take turns; numbers are medians of processor time, so that a busy machine changes
them little. `target` is what each ratio must reach; the exit status is 1 if one does not.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from .host import ROOT, enter_environment, prepare_host

WIDTH, BLOCKS, TEXT_ROWS = 768, 12, 128
SIZES = {"2,048 tokens": (8, 32, 32), "8,192 tokens": (8, 64, 64)}  # cells, latent height and width
STEP_TARGETS = {"float32": (1.15, 1.4), "default": (1.5, 2.5), "GPU": (1.25, 1.25)}
VAE = ROOT / "sora_core" / "weights" / "vae" / "sora_mini_vae.safetensors"
IMPORT_RUNS = 3
WAIT_TARGET, WAIT_THREADS = 3.0, 2  # seconds for 5 s of video on two quiet cores


@dataclass
class Row:
    """One line of the table. `ratio` must be at least `target`, or with `at_most` not above it."""

    name: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    target: float
    at_most: bool = False
    note: str = ""

    @property
    def reached(self) -> bool:
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    def __str__(self) -> str:
        sign = "at most" if self.at_most else "at least"
        values = f"{self.ours:9.2f} {self.theirs:9.2f} {self.unit:4s} ratio {self.ratio:6.2f}  {sign} {self.target:<4g}"
        return f"{self.name:40s} {values} {'yes' if self.reached else 'NO '}  {self.note}"


def alternate(*works: Callable[[], object], repeats: int, clock=time.process_time) -> list[float]:
    """Median seconds of each, taking turns."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, kept in zip(works, times):
            start = clock()
            work()
            kept.append(clock() - start)
    return [statistics.median(kept) for kept in times]


# -- one step of denoising -----------------------------------------------------------------------------------------------------------


def transformers(blocks: int, dtypes: tuple, device: str = "cpu"):
    """Our transformer in each dtype and the host's in the last, with the same random weights."""
    import comfy.ops
    import torch
    from comfy.ldm.wan.model import WanModel

    from sora_pack.sora_core.config import TransformerConfig
    from sora_pack.sora_core.transformer import SpacetimeTransformer

    config = TransformerConfig(dim=WIDTH, ffn_dim=4 * WIDTH, num_layers=blocks)
    torch.manual_seed(0)
    source = SpacetimeTransformer(config)
    torch.nn.init.normal_(source.head.head.weight, std=0.02)  # it starts at zero
    names = ("dim", "ffn_dim", "num_layers", "in_dim", "out_dim", "text_dim", "freq_dim", "patch_size")
    sizes = {name: getattr(config, name) for name in names}
    theirs = WanModel(num_heads=config.num_heads, operations=comfy.ops.disable_weight_init, dtype=dtypes[-1], device=device, **sizes)
    theirs.load_state_dict(source.state_dict())
    ours = []
    for dtype in dtypes:
        model = SpacetimeTransformer(config, dtype=dtype, device=device)
        model.load_state_dict(source.state_dict())
        ours.append(model.eval().requires_grad_(False))
    return config, ours, theirs.eval().requires_grad_(False)


def step_rows(blocks: int, repeats: int) -> list[Row]:
    """A forward with one noise level for each cell, as the sampler asks for it."""
    import torch

    config, (half, full), theirs = transformers(blocks, (torch.bfloat16, torch.float32))
    rows = []
    for k, (name, size) in enumerate(SIZES.items()):
        x, t = torch.randn(1, 16, *size), torch.full((1, size[0]), 700.0)
        words = torch.randn(1, TEXT_ROWS, config.text_dim)
        made = {}

        def step(model, dtype=torch.float32, x=x, t=t, words=words, made=made):
            made[model] = model(x, t, words.to(dtype))

        works = (lambda: step(half, torch.bfloat16), lambda: step(full), lambda: step(theirs))
        short, long, host = alternate(*works, repeats=repeats)
        for kind, model, seconds in (("float32", full, long), ("default", half, short)):
            error = float((made[model] - made[theirs]).norm() / made[theirs].norm())
            label = f"step, {name}, {'bfloat16' if model is half else 'float32'} to float32"
            rows.append(Row(label, seconds, host, "s", host / seconds, STEP_TARGETS[kind][k], note=f"error {error:.1e}"))
            show(rows[-1])
            if model is full:
                rows.append(Row(f"error in float32, {name}", error, 0.0, "", error, 1e-5, True))
                show(rows[-1])
    return rows


def gpu_rows(repeats: int) -> list[Row]:
    """The same in bfloat16 on a GPU, wall time, with the share of the GPU's peak."""
    import torch

    from sora_pack.sora_core.shapes import VideoShape
    from sora_pack.sora_core.speed import mfu, peak_flops, transformer_flops

    config, (ours,), theirs = transformers(BLOCKS, (torch.bfloat16,), "cuda")
    rows = []
    for k, (name, size) in enumerate({**SIZES, "32,768 tokens": (32, 64, 64)}.items()):
        x, t = torch.randn(1, 16, *size, device="cuda"), torch.full((1, size[0]), 700.0, device="cuda")
        words = torch.randn(1, TEXT_ROWS, config.text_dim, device="cuda").bfloat16()

        def run(model, x=x, t=t, words=words):
            for _ in range(5):
                model(x.bfloat16(), t, words)
            torch.cuda.synchronize()

        run(ours), run(theirs)  # kernels are chosen at the first call
        a, b = (seconds / 5 for seconds in alternate(lambda: run(ours), lambda: run(theirs), repeats=2 + repeats, clock=time.perf_counter))
        share = mfu(transformer_flops(config, VideoShape(size[2] * 8, size[1] * 8, size[0]), TEXT_ROWS), a, peak_flops("cuda"))
        label = f"step on {torch.cuda.get_device_name()}, {name}"
        rows.append(Row(label, a * 1e3, b * 1e3, "ms", b / a, STEP_TARGETS["GPU"][min(k, 1)], note=f"MFU {100 * share:.0f} %"))
        show(rows[-1])
    return rows


# -- decoding ------------------------------------------------------------------------------------------------------------------------


def vae_file(folder: str) -> Path:
    """The shipped VAE; in a checkout without it one with random weights."""
    if VAE.is_file():
        return VAE
    import torch

    from sora_pack.sora_core.autoencoder import VideoVAE
    from sora_pack.sora_core.checkpoint import save_vae

    torch.manual_seed(0)
    path = Path(folder) / "random_vae.safetensors"
    save_vae(path, VideoVAE())
    return path


def decode_rows(seconds: float, repeats: int) -> list[Row]:
    """Our decoder inside the host against the host's VAE with the same weights, both through the node VAEDecode."""
    import comfy.sd
    import comfy.utils

    import nodes
    from sora_pack.nodes.host_vae import load_vae
    from sora_pack.sora_core.world import render, sample_scene

    with tempfile.TemporaryDirectory() as folder:
        path = vae_file(folder)
        ours, theirs = load_vae(str(path)), comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))
        frames = render(sample_scene(1), [k / 8 for k in range(1 + int(8 * seconds))], 128, 128)
        latent = {"samples": ours.encode(frames.float() / 255)}
        pictures = []

        def decode(vae):
            pictures.append(nodes.VAEDecode().decode(vae, latent)[0])

        a, b = alternate(lambda: decode(ours), lambda: decode(theirs), repeats=repeats)
        difference = float((pictures[0] - pictures[1]).abs().mean()) * 255
        rows = [
            Row(f"decode {seconds:g} s of 128x128", a, b, "s", b / a, 5.0, note=f"{len(frames) / a:.0f} frames a second of one core"),
            Row("decode, mean pixel difference", difference, 0.0, "/255", difference, 1.0, True),
        ]
    for row in rows:
        show(row)
    return rows


def wait_rows(repeats: int) -> list[Row]:
    """What a user waits for 5 s of video on two cores."""
    import torch

    import nodes
    from sora_pack.nodes.host_vae import load_vae

    with tempfile.TemporaryDirectory() as folder:
        vae = load_vae(str(vae_file(folder)))
    latent, threads = {"samples": torch.randn(1, 16, 11, 16, 16)}, torch.get_num_threads()
    torch.set_num_threads(WAIT_THREADS)
    (seconds,) = alternate(lambda: nodes.VAEDecode().decode(vae, latent), repeats=repeats, clock=time.perf_counter)
    torch.set_num_threads(threads)
    note = f"wall clock, {WAIT_THREADS} threads"
    row = Row("decode 5 s of 128x128, seconds", seconds, 0.0, "s", seconds, WAIT_TARGET, True, note)
    show(row)
    return [row]


DECODE_TO_FILE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from sora_core.checkpoint import load_vae
from sora_core.speed import peak_memory
from sora_core.video_file import write_video
vae = load_vae(sys.argv[2]).channels_last().to(torch.bfloat16)
z = torch.randn(1, 16, int(sys.argv[3]), 16, 16).bfloat16()
with torch.inference_mode():
    chunks = (y[0].movedim(0, -1).float().add(1).div(2).clamp(0, 1) for y in vae.decode_chunks(z))
    write_video(sys.argv[4], chunks, 8)
print(peak_memory())
"""


def memory_rows() -> list[Row]:
    """Peak resident memory of a process that decodes to a file, 20 s against 5 s."""
    with tempfile.TemporaryDirectory() as folder:
        path = vae_file(folder)
        peaks = [_peak(DECODE_TO_FILE, str(ROOT), str(path), str(cells), f"{folder}/{cells}.mp4") for cells in (11, 41)]
    row = Row("decode to a file, memory, 20 s to 5 s", peaks[1], peaks[0], "MB", peaks[1] / peaks[0], 1.1, True)
    show(row)
    return [row]


def _peak(code: str, *arguments: str) -> float:
    """Peak resident megabytes of a child that prints its peak_memory."""
    return int(subprocess.check_output([sys.executable, "-c", code, *arguments])) / 1e6


# -- start ---------------------------------------------------------------------------------------------------------------------------

IMPORT_PACK = """
import asyncio, importlib.util, sys, time
sys.path.insert(0, sys.argv[1])
from benchmarks.host import ROOT, prepare_host
prepare_host()
import nodes
asyncio.run(nodes.init_public_apis())
start = time.process_time(), time.perf_counter()
spec = importlib.util.spec_from_file_location("a_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
module = sys.modules["a_pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

async def load():
    extension = await module.comfy_entrypoint()
    await extension.on_load()
    for node in await extension.get_node_list():
        node.GET_SCHEMA()

asyncio.run(load())
print("SECONDS", time.process_time() - start[0])
"""


def import_rows() -> list[Row]:
    """What the pack adds to the host's start: its entry point, its nodes and their schemas, after the host's own imports."""
    times = []
    for _ in range(IMPORT_RUNS):
        done = subprocess.run([sys.executable, "-c", IMPORT_PACK, str(ROOT)], capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"the pack did not load in the host: {done.stderr.strip().splitlines()[-1]}")
        times.append(float(done.stdout.rsplit("SECONDS", 1)[1]))
    delay = statistics.median(times)
    row = Row("delay of the host's start", delay, 0.0, "s", delay, 0.5, True)
    show(row)
    return [row]


def host_import_rows() -> list[Row]:
    """The same as the real server reports it, on the wall clock and in tenths of a second."""
    from sora_pack.scripts.environment import child_variables, host_folder
    from sora_pack.scripts.server import PACK_NAME, ComfyServer

    with tempfile.TemporaryDirectory() as folder, ComfyServer(host_folder(), Path(folder), variables=child_variables()) as server:
        found = re.search(rf"([\d.]+) seconds: .*custom_nodes\W+{PACK_NAME}\s", server.log_text())
        if found is None:
            raise RuntimeError(f"the server did not report the pack: {server.log_tail()}")
    seconds = float(found[1])
    row = Row("import of the pack, as the host reports", seconds, 0.0, "s", seconds, 0.4, True, "below 0.5")
    show(row)
    return [row]


# -- all ----------------------------------------------------------------------------------------------------------------------------


def show(row: Row) -> None:
    print(row, flush=True)


def rows_apart(part: str, args: argparse.Namespace) -> list[Row]:
    """A part in a process of its own: the host is on the CPU or on the GPU for the whole of a process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "benchmarks.speed", part, "--repeats", str(args.repeats), "--json", str(path)]
        subprocess.run(command, cwd=ROOT)  # its status is that of the ratios, which are looked at here
        kept = json.loads(path.read_text())["rows"]
    return [Row(**{name: value for name, value in row.items() if name != "reached"}) for row in kept]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", help="step, decode, wait, memory, start, gpu; all that this machine can run by default")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="of the transformer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of video to decode")
    parser.add_argument("--threads", type=int, default=1, help="waiting threads count as processor time, so 1 is the exact one")
    parser.add_argument("--json", help="a file for the numbers")
    return parser.parse_args()


def main() -> int:
    args = parse()
    enter_environment("benchmarks.speed")
    import torch

    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    parts = args.parts or ["step", "decode", "wait", "memory", "start", *(["gpu"] if torch.cuda.is_available() else [])]
    work = {
        "step": lambda: step_rows(args.blocks, args.repeats),
        "decode": lambda: decode_rows(args.seconds, args.repeats),
        "wait": lambda: wait_rows(args.repeats),
        "memory": memory_rows,
        "start": lambda: import_rows() + host_import_rows(),
        "gpu": lambda: gpu_rows(args.repeats) if parts == ["gpu"] else rows_apart("gpu", args),
    }
    if unknown := [part for part in parts if part not in work]:
        print(f"unknown part {unknown[0]!r}: use some of {', '.join(work)}", file=sys.stderr)
        return 2
    prepare_host(cpu=parts != ["gpu"])
    print(f"{'':40s} {'ours':>9s} {'host':>9s}")
    rows = []
    with torch.inference_mode():
        for part in parts:
            rows += work[part]()
    if args.json:
        facts = {"torch": torch.__version__, "threads": args.threads, "blocks": args.blocks, "repeats": args.repeats}
        Path(args.json).write_text(json.dumps({**facts, "rows": [asdict(row) | {"reached": row.reached} for row in rows]}, indent=1))
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
