"""Jobs: killed at any moment and started again gives the same bits; what did not change is not made again."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sora_pack.sora_core import jobs, passes
from sora_pack.sora_core.config import ModelHeader, preset
from sora_pack.sora_core.generate import generate
from sora_pack.sora_core.jobs import SAVE_SECONDS, Job, Progress, content_hash, delete, kept_jobs, locked, read_kept, write_kept
from sora_pack.sora_core.plan import Lattice, foresight, rollout
from sora_pack.sora_core.shapes import VideoShape
from sora_pack.sora_core.transformer import SpacetimeTransformer

LATENTS = torch.zeros(1, 2, 14, 2, 2)


def make(p, cells, progress):
    """A pass that depends on all that it sees and on its seed."""
    generator = torch.Generator().manual_seed(p.make[0] + (p.seed or 0))
    return cells + cells.mean() + torch.randn(cells.shape, generator=generator)


def run_plan(plan, latents, make, job=None, at_once=0):
    """With the work of one pass in place of a group's."""

    def work(group, cells, progress):
        return [make(p, found, progress) for p, found in zip(group, cells, strict=True)]

    return passes.run_plan(plan, latents, work, job, at_once=at_once)


def started(folder, plan, facts="x", each=None, **settings):
    return Job(folder, plan, facts, each or [None] * len(plan.passes), LATENTS, "a test", **settings)


# -- kept and found ------------------------------------------------------------------------------------------------------------------


def test_a_second_run_makes_nothing(tmp_path):
    plan, made = foresight(Lattice(14), 4), []
    first = run_plan(plan, LATENTS, lambda *a: made.append(a[0].name) or make(*a), started(tmp_path, plan))
    again = started(tmp_path, plan)
    second = run_plan(plan, LATENTS, lambda *a: pytest.fail("made again"), again)
    assert torch.equal(first, second) and made == [p.name for p in plan.passes]
    assert again.note == f"reused {len(made)} of {len(made)} passes"


def test_a_crash_costs_the_pass_it_hit(tmp_path):
    plan, made = foresight(Lattice(14), 4), []

    def crash(p, cells, progress):
        made.append(p.make)
        if len(made) == 3:
            raise RuntimeError("out of memory")
        return make(p, cells, progress)

    with pytest.raises(RuntimeError):
        run_plan(plan, LATENTS, crash, started(tmp_path, plan))
    again = started(tmp_path, plan)
    assert torch.equal(run_plan(plan, LATENTS, make, again), run_plan(plan, LATENTS, make)) and again.reused == 2


@pytest.mark.parametrize("facts", ["y", ["x"], {"x": 1}, torch.ones(3), None, 1, 1.0])
def test_other_facts_are_another_pass(tmp_path, facts):
    plan = rollout(Lattice(14), 6, 2)
    run_plan(plan, LATENTS, make, started(tmp_path, plan))
    other = started(tmp_path, plan, facts)
    run_plan(plan, LATENTS, make, other)
    assert other.reused == 0


def test_another_seed_for_one_gap_makes_one_pass(tmp_path):
    plan = foresight(Lattice(14), 4)
    run_plan(plan, LATENTS, make, started(tmp_path, plan))
    again = plan.redo({2: 7})
    job = started(tmp_path, again)
    run_plan(again, LATENTS, make, job)
    assert job.reused == len(plan.passes) - 1


def test_one_shot_of_seven(tmp_path):
    """A minute of seven shots: a changed shot makes its own passes again, the sum is shown."""
    shots = tuple(min(k * 7 // 121, 6) for k in range(121))
    plan = foresight(Lattice(121, frozenset(), shots, shots), 4)
    latents = torch.zeros(1, 2, 121, 2, 2)

    def run(told):
        job = started(tmp_path, plan, each=[[told[i] for i in sorted({shots[k] for k in p.cells})] for p in plan.passes])
        run_plan(plan, latents, make, job)
        return job

    run(list("abcdefg"))
    job = run(list("abcXefg"))
    seeing = sum(any(shots[k] == 3 for k in p.cells) for p in plan.passes)
    assert len(kept_jobs(tmp_path)) == 2, "both versions are listed"
    assert job.note == f"reused {len(plan.passes) - seeing} of {len(plan.passes)} passes" and job.reused > 0.8 * len(plan.passes)


def test_short_passes_are_not_kept_unless_asked(tmp_path):
    plan = foresight(Lattice(4), 4)
    run_plan(plan, LATENTS[:, :, :4], make, started(tmp_path, plan, least=60.0))
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_pass_is_held_while_it_is_made_however_it_is_kept(tmp_path):
    plan, held = foresight(Lattice(4), 4), []

    def watched(*args):
        held.append(len(list((tmp_path / "passes").glob("*.lock"))))
        return make(*args)

    run_plan(plan, LATENTS[:, :, :4], watched, started(tmp_path, plan, least=60.0))
    assert held and all(held)


def test_a_group_is_made_whole_where_one_of_it_is_missing(tmp_path):
    """What is made does not depend on where a run was killed, though a batch of another size rounds otherwise."""
    plan, sizes = foresight(Lattice(41), 4), []

    def in_groups(group, cells, progress):
        sizes.append(len(group))
        return [make(p, found, progress) + 1e-6 * len(group) for p, found in zip(group, cells, strict=True)]

    good = passes.run_plan(plan, torch.zeros(1, 2, 41, 2, 2), in_groups, started(tmp_path, plan), at_once=1000)
    gaps = len(plan.passes) - 2
    # The first gap sees the end of the opening and the last one a single sketched cell behind it; the others see two on both sides.
    assert sizes == [1, 1, 1, gaps - 2, 1]
    files = sorted((tmp_path / "passes").glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    files[4].unlink()
    job = started(tmp_path, plan)
    again = passes.run_plan(plan, torch.zeros(1, 2, 41, 2, 2), in_groups, job, at_once=1000)
    assert torch.equal(again, good) and sizes[5:] == [gaps - 2] and job.reused == len(plan.passes) - 1


def test_a_group_that_was_killed_while_it_was_written_goes_on_at_its_last_step(tmp_path, monkeypatch):
    plan, found = foresight(Lattice(41), 4), []
    group = len(plan.passes) - 4  # all but the opening, the sketch, the first gap and the last

    def in_groups(group, cells, progress):
        found.append(progress.load())
        progress.save({"done": torch.tensor(len(group))})
        return [make(p, c, progress) for p, c in zip(group, cells, strict=True)]

    def write(path, key, tensors):
        if len(kept := list(tmp_path.rglob("*.safetensors"))) == 6:  # opening, sketch, first gap; a half, and two of the group
            raise KeyboardInterrupt(kept)
        write_kept(path, key, tensors)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(jobs, "write_kept", write)
        passes.run_plan(plan, torch.zeros(1, 2, 41, 2, 2), in_groups, started(tmp_path, plan, every=0.0), at_once=1000)
    job = started(tmp_path, plan, every=0.0)
    passes.run_plan(plan, torch.zeros(1, 2, 41, 2, 2), in_groups, job, at_once=1000)
    assert [f and int(f["done"]) for f in found] == [None, None, None, None, group, None] and job.reused == 5
    assert not list(tmp_path.rglob("*.half.*"))


# -- files that cannot be trusted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["torn", "empty", "foreign", "flipped", "renamed"])
def test_bad_files_are_made_anew(tmp_path, harm):
    plan = rollout(Lattice(14), 6, 2)
    good = run_plan(plan, LATENTS, make, started(tmp_path, plan))
    files = sorted((tmp_path / "passes").glob("*.safetensors"))
    data = files[0].read_bytes()
    bad = {"torn": data[:-5], "empty": b"", "foreign": b"<html>", "flipped": data[:-1] + bytes([data[-1] ^ 1])}
    files[0].write_bytes(bad.get(harm) if harm in bad else files[1].read_bytes())
    job = started(tmp_path, plan)
    assert torch.equal(run_plan(plan, LATENTS, make, job), good)
    assert job.reused == len(plan.passes) - 1 and read_kept(files[0], files[0].stem) is not None


@pytest.mark.parametrize("harm", ["", "torn", "foreign"])
def test_a_pass_begins_anew_where_its_half_cannot_be_trusted(tmp_path, harm):
    plan, found = foresight(Lattice(14), 4), []

    def crash(p, cells, progress):
        progress.save({"done": torch.tensor(3), "x": cells})
        raise RuntimeError("out of memory")

    def go_on(p, cells, progress):
        found.append(progress.load())
        return make(p, cells, progress)

    with pytest.raises(RuntimeError):
        run_plan(plan, LATENTS, crash, started(tmp_path, plan, every=0.0))
    [half] = (tmp_path / "passes").glob("*.half.safetensors")
    if harm == "torn":
        half.write_bytes(half.read_bytes()[:-5])
    elif harm:
        write_kept(half, "of another pass", {"done": torch.tensor(3), "x": LATENTS})
    made = run_plan(plan, LATENTS, go_on, started(tmp_path, plan, every=0.0))
    assert torch.equal(made, run_plan(plan, LATENTS, make)) and not half.exists()
    assert found[0] is None if harm else int(found[0]["done"]) == 3
    assert found[1:] == [None] * (len(plan.passes) - 1)


def test_how_far_a_pass_came_is_saved_every_30_seconds(tmp_path, monkeypatch):
    now, saved = [100.0], []
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    progress = Progress(tmp_path / "k.half.safetensors", "k", SAVE_SECONDS, lambda: saved.append(now[0]))
    for step in range(100):
        now[0] += 1.0
        progress.save({"done": torch.tensor(step)})
    assert saved == [130.0, 160.0, 190.0] and int(progress.load()["done"]) == 89


def test_a_full_disk(tmp_path, monkeypatch):
    """A sentence, what was kept stays kept, and the run goes on when there is room."""
    plan, write = foresight(Lattice(14), 4), Path.write_bytes
    calls = []

    def full(self, data):
        calls.append(self)
        if len(calls) == 3:
            write(self, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="The disk is full: .* was not written; free some space"):
        run_plan(plan, LATENTS, make, started(tmp_path, plan))
    monkeypatch.undo()
    job = started(tmp_path, plan)
    assert torch.equal(run_plan(plan, LATENTS, make, job), run_plan(plan, LATENTS, make)) and job.reused == 2
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_tensors_come_back_bit_for_bit(tmp_path, dtype):
    kept = {"a": torch.randn(2, 3).to(dtype), "b": torch.tensor(3)}
    write_kept(tmp_path / "k.safetensors", "k", kept)
    back = read_kept(tmp_path / "k.safetensors", "k")
    assert all(torch.equal(back[name], kept[name]) and back[name].dtype == kept[name].dtype for name in kept)
    assert read_kept(tmp_path / "k.safetensors", "other") is None


def test_hashes_tell_values_apart():
    values = [
        None,
        0,
        0.0,
        False,
        "0",
        [],
        {},
        [[]],
        ["ab"],
        ["a", "b"],
        {"a": 1},
        {"a": 2},
        torch.zeros(2),
        torch.zeros(2, 1),
        torch.zeros(2).bfloat16(),
    ]
    assert len({content_hash(v) for v in values}) == len(values)
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1}) and content_hash([1]) == content_hash((1,))
    with pytest.raises(TypeError, match="object has no content"):
        content_hash(object())


# -- two at once ---------------------------------------------------------------------------------------------------------------------


def test_two_on_one_folder_make_each_pass_once(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.01)
    plan, made, results = foresight(Lattice(14), 4), [], []

    def slow(p, cells, progress):
        made.append(p.make)
        time.sleep(0.05)
        return make(p, cells, progress)

    def run():
        results.append(run_plan(plan, LATENTS, slow, started(tmp_path, plan)))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == sorted(p.make for p in plan.passes)
    assert all(torch.equal(r, results[0]) for r in results) and not list(tmp_path.rglob("*.lock"))


def test_waiting_can_be_ended(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with locked(tmp_path / "a.lock"), pytest.raises(KeyboardInterrupt), locked(tmp_path / "a.lock", stop):
        pass
    with locked(tmp_path / "a.lock", stop):
        pass


# -- lists and deleting --------------------------------------------------------------------------------------------------------------


def test_files_that_go_away_while_they_are_listed(tmp_path, monkeypatch):
    """Another server that finishes a pass removes its half."""
    plan = foresight(Lattice(14), 4)
    job = started(tmp_path, plan)
    run_plan(plan, LATENTS, make, job)
    there = kept_jobs(tmp_path)
    find = jobs._files
    monkeypatch.setattr(jobs, "_files", lambda *a: [*find(*a), tmp_path / "passes" / "gone.half.safetensors"])
    [listed] = kept_jobs(tmp_path)
    assert (listed.name, listed.done, listed.bytes) == (there[0].name, there[0].done, there[0].bytes)
    assert listed.name.startswith(job.name) and delete(tmp_path, listed.name) == listed.bytes and not kept_jobs(tmp_path)


def test_jobs_are_listed_and_deleted_only_by_name(tmp_path):
    plan = foresight(Lattice(14), 4)
    other = plan.redo({2: 3})
    for p in (plan, other):
        run_plan(p, LATENTS, make, started(tmp_path, p))
    (tmp_path / "notes.json").write_text('{"job": "notes"}')
    listed = kept_jobs(tmp_path)
    assert [(j.done, j.passes) for j in listed] == [(len(plan.passes),) * 2] * 2 and all(j.bytes > 0 and j.age < 60 for j in listed)
    name = {job.name.split("-")[0]: job.name for job in listed}
    manifest = json.loads((tmp_path / f"{listed[0].name.split('-')[0]}.json").read_text())
    assert manifest["about"] == "a test" and manifest["passes"][2]["makes"] == "5-6" and len(manifest["picture"]) == len(plan.passes)
    assert delete(tmp_path, name[started(tmp_path, other).name]) > 0
    again = started(tmp_path, plan)
    run_plan(plan, LATENTS, make, again)
    assert again.reused == len(plan.passes), "a pass of another job went too"
    (tmp_path / "passes" / f".{again.keys[0]}.safetensors.1.part").write_bytes(b"what a kill left")
    for lock in (tmp_path / "passes" / f"{again.keys[0]}.lock", tmp_path / f"{again.name}.lock"):
        lock.touch()
    assert kept_jobs(tmp_path)[0].done == len(plan.passes)
    delete(tmp_path, name[again.name])
    assert not list((tmp_path / "passes").iterdir()) and [path.name for path in tmp_path.glob("*.*")] == ["notes.json"]
    with pytest.raises(ValueError, match="there is no job 'x'; there are none"):
        delete(tmp_path, "x")


def test_a_name_that_was_deleted_once_never_deletes_again(tmp_path):
    """It may have stayed in a field, and the same run, made again, is the same job."""
    plan = foresight(Lattice(14), 4)
    run_plan(plan, LATENTS, make, started(tmp_path, plan))
    [old] = kept_jobs(tmp_path)
    delete(tmp_path, old.name)
    run_plan(plan, LATENTS, make, started(tmp_path, plan))
    with pytest.raises(ValueError, match=f"there is no job '{old.name}'"):
        delete(tmp_path, old.name)
    again = started(tmp_path, plan)
    run_plan(plan, LATENTS, make, again)
    assert again.reused == len(plan.passes)


# -- kill -9 -------------------------------------------------------------------------------------------------------------------------

# A process that has loaded everything forks, for each line it reads, one that works for each folder in it; those can be killed.
WORKERS = """
import os, sys
from pathlib import Path
import torch
import tests.conftest
from tests.unit.test_jobs import OPTIONS, SHAPE, random_model
from sora_pack.sora_core.generate import generate
from sora_pack.sora_core.jobs import content_hash
torch.set_num_threads(1)
def work(folder):
    tell = lambda word: os.write(1, (word + "\\n").encode())  # whole lines, whoever else writes
    made = generate(*random_model(), SHAPE, **OPTIONS, jobs=Path(folder), save_seconds=0.0, callback=lambda done: tell("step"))
    tell(content_hash(made))
    os._exit(0)
for line in sys.stdin:
    workers = []
    for folder in line.split():
        workers.append(os.fork() or work(folder))
    print(*workers, flush=True)
    for worker in workers:
        os.waitpid(worker, 0)
    print("ended", flush=True)
"""
SHAPE, PLAN = VideoShape(32, 32, 14), foresight(Lattice(14), 4)
OPTIONS = {"steps": 12, "seed": 5, "solver": "second_order", "plan": PLAN}


def random_model():
    """Transformer, header and words, always the same."""
    torch.manual_seed(0)
    model = SpacetimeTransformer(preset("tiny")).eval()
    torch.nn.init.normal_(model.head.head.weight, std=0.05)
    return model, ModelHeader(noise="frame", shift=3.0, native_fps=8.0), torch.randn(1, 64, 4096)


@pytest.fixture(scope="module")
def workers(root):
    """A process of WORKERS."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    with subprocess.Popen([sys.executable, "-c", WORKERS], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def one_thread():
    """As the workers have: another number of threads adds up in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def told(workers) -> list[str]:
    """The lines until all workers have ended."""
    return list(iter(workers.stdout.readline, "ended\n"))


def test_kill_9_at_random_moments(tmp_path, workers, one_thread):
    """Each start goes on from what the one before it left, and the end is bit for bit that of a run nobody disturbed."""
    seed = random.randrange(10**6)  # another one in every run, told where it fails
    chance, done, steps, kills = random.Random(seed), [], 0, 5
    for _ in range(kills):
        print(tmp_path, file=workers.stdin, flush=True)
        worker, before = int(workers.stdout.readline()), chance.randint(1, 8)
        for _ in range(before):
            assert workers.stdout.readline() == "step\n"
        time.sleep(chance.uniform(0, 0.004))
        os.kill(worker, signal.SIGKILL)
        steps += before + told(workers).count("step\n")
    undisturbed = generate(*random_model(), SHAPE, **OPTIONS)
    resumed = generate(*random_model(), SHAPE, **OPTIONS, jobs=tmp_path, save_seconds=0.0, callback=done.append)
    assert torch.equal(resumed, undisturbed), f"seed={seed} max_diff={(resumed - undisturbed).abs().max()}"
    # Saved after every step: none that was told is made again, and at each kill one was saved that nobody told.
    whole = OPTIONS["steps"] * len(PLAN.passes)
    assert whole - kills <= steps + len(done) <= whole, f"seed={seed}: {steps} steps, then {len(done)}, of {whole}"


def test_two_processes_on_one_folder_make_each_pass_once(tmp_path, workers, one_thread):
    print(tmp_path, tmp_path, file=workers.stdin, flush=True)
    first, *lines = told(workers)
    made = [line for line in lines if line != "step\n"]
    assert len(first.split()) == 2 and lines.count("step\n") == OPTIONS["steps"] * len(PLAN.passes)
    undisturbed = generate(*random_model(), SHAPE, **OPTIONS)
    assert made == [content_hash(undisturbed) + "\n"] * 2
