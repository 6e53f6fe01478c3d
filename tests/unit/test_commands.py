"""The commands: what a person can mend is one sentence, a mistake of ours shows where it happened, no hours end in a missing folder."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from sora_pack.sora_core import __main__ as maker
from sora_pack.sora_core.checkpoint import CheckpointError
from sora_pack.sora_core.config import UserError, preset
from sora_pack.sora_core.evaluation import verbs
from sora_pack.sora_core.files import FullDisk
from sora_pack.sora_core.flow import schedule
from sora_pack.sora_core.shapes import VideoShape, check_size, frames_for_seconds
from sora_pack.sora_core.speed import check_fits
from sora_pack.sora_core.storyboard import ScriptError, listed
from sora_pack.sora_core.text import PromptError
from sora_pack.sora_core.training import __main__ as trainer
from sora_pack.sora_core.training import gpu
from sora_pack.sora_core.training import ship as shipping

SHIP = ["ship", "--folder", "runs/a", "--vae", "vae.safetensors", "--out", "made"]


def start(program, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["program", *map(str, arguments)])
    program.main()


# -- sentences and mistakes ----------------------------------------------------------------------------------------------------------


def test_errors_for_people_are_of_one_kind():
    assert all(issubclass(kind, UserError) for kind in (CheckpointError, PromptError, ScriptError, FullDisk))
    wrong = [lambda: preset("huge"), lambda: check_size(100, 128), lambda: check_size(8, 128), lambda: frames_for_seconds(700, 8)]
    wrong += [lambda: check_fits(VideoShape(128, 128, 5), memory=1), lambda: schedule(0, 1.0), lambda: listed("", [(0, "a ball", False)])]
    for ask in wrong:
        with pytest.raises(UserError):
            ask()


@pytest.mark.parametrize("error", [UserError("size: too large"), FileNotFoundError("no model there"), ModuleNotFoundError("get it")])
def test_what_a_person_can_mend_is_a_sentence(monkeypatch, tmp_path, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(shipping, "ship", fail)
    with pytest.raises(SystemExit, match=f"^{error}$"):
        start(trainer, monkeypatch, *SHIP)
    monkeypatch.setattr(maker.Pipeline, "load", fail)
    with pytest.raises(SystemExit, match=f"^{error}$"):
        start(maker, monkeypatch, "a red ball", "--out", tmp_path / "a.mp4")


@pytest.mark.parametrize("error", [ValueError("too many values to unpack"), KeyError("step"), RuntimeError("size mismatch")])
def test_a_mistake_of_ours_shows_where_it_happened(monkeypatch, tmp_path, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(shipping, "ship", fail)
    with pytest.raises(type(error)):
        start(trainer, monkeypatch, *SHIP)
    monkeypatch.setattr(maker.Pipeline, "load", fail)
    with pytest.raises(type(error)):
        start(maker, monkeypatch, "a red ball", "--out", tmp_path / "a.mp4")


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["vae", "--folder", "{}/a", "--decoder-only"], "decoder-only: name the VAE"),
        (["vae", "--folder", "{}/a", "--steps", "0"], "steps: 0 with no minutes"),
        (["run", "--folder", "{}/a", "--minutes", "1"], "vae: name a file"),
        (["bank", "--folder", "{}/a", "--vae", "{}/none.safetensors"], "none.safetensors does not exist in"),
        (["bank", "--folder", "{}/a", "--vae", "{}/none.safetensors", "--shapes", "HOURS"], "shapes: 'HOURS' is not known"),
        (["transformer", "--folder", "{}/a", "--bank", "{}/b"], "no latent bank in"),
        (["ship", "--folder", "{}/a", "--vae", "v", "--out", "{}/o"], "state.pt: there is no such file"),
        (["tune", "--folder", "{}/a", "--videos", "{}/none"], "videos: there is no folder"),
    ],
)
def test_wrong_words_of_a_training_are_told_at_once(monkeypatch, tmp_path, arguments, says):
    with pytest.raises(SystemExit, match=says):
        start(trainer, monkeypatch, *(text.format(tmp_path) for text in arguments))


@pytest.mark.parametrize("count", ["-1", "1.5", "x"])
def test_a_count_is_a_whole_number(monkeypatch, capsys, count):
    with pytest.raises(SystemExit):
        start(trainer, monkeypatch, "vae", "--folder", "a", "--seed", count)
    assert f"--seed: {count} is no count: use a whole number, 0 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, says",
    [
        (["--width", "100"], "width 100 is not a multiple of 16: use 96 or 112"),
        (["--seconds", "601"], "seconds=601: must be from 0"),
        (["--steps", "0"], "steps=0: must be 1 or more"),
        (["--seconds", "600", "--width", "16384", "--height", "16384"], "16384x16384 and 600 s need about"),
    ],
)
def test_wrong_words_of_a_video_are_told(monkeypatch, tmp_path, options, says):
    with pytest.raises(SystemExit, match=says):
        start(maker, monkeypatch, "a red ball", "--out", tmp_path / "a.mp4", *options)
    with pytest.raises(SystemExit, match="the prompt has 1,200 bytes"):
        start(maker, monkeypatch, "red ball" * 150, "--out", tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error, jobs, says",
    [
        (KeyboardInterrupt(), True, "stopped; the same command goes on"),
        (KeyboardInterrupt(), False, "stopped$"),
        (PermissionError(13, "Permission denied", "m.safetensors"), False, "m.safetensors: Permission denied"),
    ],
)
def test_what_stops_a_video_is_a_sentence(monkeypatch, tmp_path, error, jobs, says):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr(maker.Pipeline, "load", stop)
    with pytest.raises(SystemExit, match=says):
        start(maker, monkeypatch, "a red ball", "--out", tmp_path / "a.mp4", *(["--jobs", tmp_path / "jobs"] if jobs else []))
    assert not list(tmp_path.glob("*.mp4"))


@pytest.mark.parametrize("option", ["--out", "--jobs"])
def test_a_folder_that_cannot_be_is_told_before_anything_is_made(monkeypatch, tmp_path, option):
    monkeypatch.setattr(maker.Pipeline, "load", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "file").touch()
    places = {"--out": tmp_path / "a.mp4"} | {option: tmp_path / "file" / "a.mp4"}
    with pytest.raises(SystemExit, match=f"^{option}: .*file.* cannot be made"):
        start(maker, monkeypatch, "a red ball", *itertools.chain(*places.items()))


@pytest.mark.parametrize("share", ["-0.1", "1.5", "x"])
def test_a_share_is_between_none_and_all(monkeypatch, capsys, share):
    with pytest.raises(SystemExit):
        start(trainer, monkeypatch, "transformer", "--folder", "a", "--bank", "b", "--words-alone", share)
    assert f"--words-alone: {share} is no share: use a number from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, steps",
    [
        ([], trainer.Settings.reading_steps),
        (["--start", "a.safetensors"], 0),
        (["--text", "t"], 0),
        (["--start", "a", "--reading-steps", 7], 7),
    ],
)
def test_who_can_read_already_does_not_read_anew_unless_asked(monkeypatch, given, steps):
    asked = []
    monkeypatch.setattr(gpu, "run_all", lambda folder, run, settings: asked.append(settings.reading_steps) or [])
    start(trainer, monkeypatch, "run", "--folder", "a", "--minutes", 1, "--vae", "v", *given)
    assert asked == [steps]


def test_ship_takes_the_size_from_the_run_and_foresight_from_a_word(monkeypatch):
    asked = []
    monkeypatch.setattr(shipping, "ship", lambda *given, **more: asked.append((given, more)) or [])
    start(trainer, monkeypatch, *SHIP)
    start(trainer, monkeypatch, *SHIP, "--foresight", "--earlier", "e", "--share", 0.5, "--name", "mine")
    plain = {"name": "sora_mini", "stage": "S2", "foresight": False, "earlier": "", "share": 0.7}
    given = ("runs/a", "vae.safetensors", "made")
    assert asked == [(given, plain), (given, plain | {"name": "mine", "foresight": True, "earlier": "e", "share": 0.5})]


# -- results -------------------------------------------------------------------------------------------------------------------------


def test_a_video_takes_no_name_that_was_taken_while_it_was_made(monkeypatch, tmp_path, capsys):
    path = tmp_path / "ball.mp4"

    def frames(*_, **__):
        yield torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
        path.write_bytes(b"hours of work")
        yield torch.zeros(2, 32, 32, 3, dtype=torch.uint8)

    monkeypatch.setattr(maker.Pipeline, "load", lambda *_, **__: SimpleNamespace(frames=frames, header=SimpleNamespace(native_fps=8.0)))
    start(maker, monkeypatch, "a red ball", "--out", path)
    other = tmp_path / "ball_00002_.mp4"
    assert path.read_bytes() == b"hours of work" and sorted(tmp_path.iterdir()) == [path, other] and other.stat().st_size > 500
    assert f"there is a {path} by now: this is {other}" in capsys.readouterr().err


def test_a_missing_folder_does_not_cost_the_measuring(monkeypatch, tmp_path):
    out = tmp_path / "new" / "verbs.json"
    seen = []
    monkeypatch.setattr(verbs.Pipeline, "load", lambda *_, **__: None)
    monkeypatch.setattr(verbs, "digest", lambda _: "abc")
    monkeypatch.setattr(verbs, "measure_all", lambda *_, **__: seen.append(out.parent.is_dir()) or [])
    monkeypatch.setattr(verbs, "rows_of", lambda _: [])
    start(verbs, monkeypatch, "--out", out, "--folder", tmp_path / "kept")
    assert seen == [True] and out.is_file()
