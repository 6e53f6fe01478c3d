"""Runs and their files: a torn log is no obstacle, a resumed run logs what an uninterrupted one does, a full disk is named."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import numpy as np
import pytest
import torch

from sora_pack.sora_core import files
from sora_pack.sora_core.config import UserError
from sora_pack.sora_core.evaluation import observer as eyes
from sora_pack.sora_core.evaluation import observer_training
from sora_pack.sora_core.training import vae as vae_trainer
from sora_pack.sora_core.training.bank import Shape, Shard, write_shard
from sora_pack.sora_core.training.curve import read_log
from sora_pack.sora_core.training.optim import Average, Optimizer
from sora_pack.sora_core.training.run import Run


def parts():
    layer = torch.nn.Linear(2, 2)
    return layer, Optimizer(layer, muon_lr=0.1, adam_lr=0.1, steps=12), Average(layer)


def train(folder, stop=12, every=5, steps=12, saves=(7,)):
    """Steps that only report, up to `stop`, where it is killed."""
    run, trained = Run(folder, steps, minutes=0.0 if steps else 1.0), parts()
    for step, _ in run.budget(run.resume(*trained)):
        if step == stop:
            return
        value = float(np.random.default_rng(step).random())
        run.record(step + 1, every, tokens=10, flops=2.0, loss=torch.tensor(value), kind=value)
        run.save(step + 1, *trained, last=step + 1 in saves)
    run.finish(*trained)


def log_of(folder):
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in ("seconds", "tokens_per_second", "waited")} for line in lines]


def test_the_log_of_a_resumed_run_is_that_of_an_uninterrupted_one(tmp_path):
    train(tmp_path / "whole")
    train(tmp_path / "killed", stop=9)
    assert [line["step"] for line in log_of(tmp_path / "killed")] == [5]
    train(tmp_path / "killed")
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    assert [(line["step"], line["flops"]) for line in log_of(tmp_path / "whole")] == [(5, 10.0), (10, 10.0), (12, 4.0)]


def test_rates_of_a_resumed_run_count_the_time_before(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("sora_pack.sora_core.training.run.time", SimpleNamespace(monotonic=lambda: now[0]))
    record = Run.record
    monkeypatch.setattr(Run, "record", lambda self, *a, **k: now.__setitem__(0, now[0] + 2.0) or record(self, *a, **k))
    train(tmp_path, stop=9)
    now[0] += 1000.0
    train(tmp_path)
    assert read_log(tmp_path, "tokens_per_second") == [(5, 5.0), (10, 5.0), (12, 5.0)]


def test_a_state_from_before_goes_on(tmp_path):
    train(tmp_path, stop=9)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["pending"]
    torch.save(state, tmp_path / "state.pt")
    train(tmp_path)
    assert [line["step"] for line in log_of(tmp_path)] == [5, 10, 12]


def test_what_was_reported_at_the_end_is_not_reported_again(tmp_path, monkeypatch):
    """A run of minutes that was saved at its last step, and is given more minutes."""
    monkeypatch.setattr(Run, "elapsed", property(lambda self: 60.0 if self.step >= 7 else 0.0))
    train(tmp_path, steps=0, saves=(7,))
    assert [line["step"] for line in log_of(tmp_path)] == [5, 7]
    assert torch.load(tmp_path / "state.pt", weights_only=True)["pending"][0] == {}


@pytest.mark.parametrize("torn", ['{"step": 10, "sec', "\0\0\0\0", '{"step": 10}'])
def test_a_torn_last_line_of_the_log_is_no_obstacle(tmp_path, torn):
    train(tmp_path / "whole")
    train(tmp_path / "killed", stop=9)
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write(torn)
    assert read_log(tmp_path / "killed", "loss")
    train(tmp_path / "killed")
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")


def test_a_torn_line_inside_the_log_is_not_passed_over(tmp_path):
    train(tmp_path, stop=9)
    log = tmp_path / "log.jsonl"
    log.write_text("torn\n" + log.read_text())
    with pytest.raises(json.JSONDecodeError):
        train(tmp_path)


def test_a_kill_while_the_log_is_cut_back_loses_nothing(tmp_path, monkeypatch):
    train(tmp_path, stop=9)
    before, write = (tmp_path / "log.jsonl").read_bytes(), Path.write_text

    def die(self, text, *args, **more):
        write(self, text[:5], *args, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", die)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_a_folder_of_another_run_and_a_run_of_no_length_are_refused(tmp_path):
    train(tmp_path, stop=9)
    state = torch.load(tmp_path / "state.pt", weights_only=True) | {"facts": {"size": "tiny"}}
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(UserError, match=f"folder: {tmp_path} holds a run with size 'tiny', not 'mini': choose another folder for it"):
        Run(tmp_path, 12, facts={"size": "mini"}).resume(*parts())
    with pytest.raises(UserError, match="steps: -3 with no minutes"):
        Run(tmp_path, -3)


# -- files ---------------------------------------------------------------------------------------------------------------------------


def save_state(path):
    run = Run(path.parent, 1)
    run.save(1, *parts())


def save_pool(path):
    observer_training.make_pool(path.parent, 1)


WRITERS = {
    "state.pt": save_state,
    "shard.safetensors": lambda path: write_shard(path, Shard(Shape(9, 8.0, 32, 32), [], [], torch.zeros(1, 16, 3, 4, 4))),
    "observer.safetensors": lambda path: eyes.save_observer(eyes.Observer(8), path),
    "00000.safetensors": save_pool,
    "stills.npy": lambda path: vae_trainer._file(path, "stills"),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch, name):
    monkeypatch.setattr(observer_training, "SHARD", 1)
    monkeypatch.setattr(vae_trainer, "CLIPS", {"stills": (1, 1, 32)})
    monkeypatch.setattr(files, "uuid4", lambda: UUID(int=7))
    (tmp_path / f".{name}.{UUID(int=7).hex}.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=f"The disk is full: {name} was not written; free some space for {tmp_path}") as refused:
        WRITERS[name](tmp_path / name)
    assert isinstance(refused.value, OSError) and refused.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []
    WRITERS[name](tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
