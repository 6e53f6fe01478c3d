"""A user's folder of videos: what is read, what is passed over, and what a fine-tuning makes of it."""

import json
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sora_pack.sora_core.checkpoint import load_transformer, model_header, save_model
from sora_pack.sora_core.config import UserError
from sora_pack.sora_core.pipeline import Pipeline
from sora_pack.sora_core.shapes import Strides
from sora_pack.sora_core.training import clips
from sora_pack.sora_core.training import transformer as trainer
from sora_pack.sora_core.training.bank import Bank
from sora_pack.sora_core.training.tune import tune, words_of
from sora_pack.sora_core.video_file import write_video
from sora_pack.tests.tiny_model import write_tiny_model

AREA = 48 * 48


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three videos that can be used, one of them listed with two captions, one torn and one without words."""
    folder = tmp_path_factory.mktemp("videos")
    torch.manual_seed(0)
    for name, (height, width), frames in (("wide", (36, 64), 40), ("tall", (64, 36), 20), ("square", (50, 50), 6), ("mute", (48, 48), 6)):
        moving = torch.randint(0, 255, (1, height, width, 3), dtype=torch.uint8).repeat(frames, 1, 1, 1)
        write_video(folder / f"{name}.mp4", [moving], 16)
    (folder / "torn.mp4").write_bytes((folder / "wide.mp4").read_bytes()[:700])
    for name in ("wide", "tall", "square", "torn"):
        (folder / f"{name}.txt").write_text(f"a {name} thing\n它在动\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models"))


def settings_for(model, **more):
    return trainer.Settings(steps=3, tokens=200, start=str(model), warmup=1, adam_lr=1e-2, muon_lr=1e-2, **more)


def test_captions_come_from_text_files_or_from_a_list(videos, tmp_path):
    sources, broken = clips.find_sources(videos)
    assert [s.path.name for s in sources] == ["square.mp4", "tall.mp4", "torn.mp4", "wide.mp4"]
    assert sources[0].captions == ("a square thing", "它在动")
    assert broken == ["mute.mp4: it has no caption; write one into mute.txt"]
    (tmp_path / "a.mp4").write_bytes(b"")
    lines = ['{"file": "a.mp4", "captions": ["one", "two"]}', "", '{"file": "b.mp4", "caption": "x"}', '{"name": "a.mp4"}']
    lines.append(json.dumps({"file": "a.mp4", "caption": "red " * 300}))
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    sources, broken = clips.find_sources(tmp_path)
    assert [s.captions for s in sources] == [("one", "two")]
    assert broken[0] == "b.mp4: there is no such file" and broken[1].startswith("list.jsonl, line 4: must be")
    assert broken[2].startswith("a.mp4: the prompt has 1,199 bytes")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        clips.find_sources(tmp_path / "none")
    (tmp_path / "list.jsonl").write_text("")
    with pytest.raises(FileNotFoundError, match="no video with a caption"):
        clips.find_sources(tmp_path)


def test_captions_that_are_none_are_passed_over_and_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    wrong = ['{"file": "a.mp4", "caption": null}', '{"file": "a.mp4", "captions": "a dog"}', '{"file": "a.mp4", "captions": 5}', "[1]"]
    (tmp_path / "list.jsonl").write_text("\n".join(["\ufeff" + '{"file": "a.mp4", "caption": "first"}', *wrong]), encoding="utf-8")
    sources, broken = clips.find_sources(tmp_path)
    assert [s.captions for s in sources] == [("first",)]
    assert [reason.split(":")[0] for reason in broken] == [f"list.jsonl, line {k}" for k in (2, 3, 4, 5)]


def test_a_caption_of_other_letters_costs_one_video(tmp_path):
    for name, text in (("a", "a red ball".encode("utf-8-sig")), ("b", "une balle bleutée".encode("latin-1"))):
        (tmp_path / f"{name}.mp4").write_bytes(b"")
        (tmp_path / f"{name}.txt").write_bytes(text)
    sources, broken = clips.find_sources(tmp_path)
    assert [s.captions for s in sources] == [("a red ball",)]
    assert broken[0] == "b.txt: its letters are not UTF-8: save it as UTF-8"


SHAPES = [(3000, 200, (480, 32)), (1920, 1080, (176, 96)), (1080, 1920, (96, 176)), (512, 512, (128, 128)), (640, 480, (144, 112))]


@pytest.mark.parametrize("width, height, size", SHAPES)
def test_a_video_keeps_its_shape(width, height, size):
    assert clips.nearest_size(width, height, 128 * 128) == size


@pytest.mark.parametrize("frames", [1, 4, 5, 17, 40, 41, 100, 333])
def test_clips_fill_their_cells_and_lose_little(frames):
    found = clips.cut(frames)
    used = sum(Strides().frames(cells) for _, cells in found)
    assert used <= frames and frames - used < 5
    assert all(b >= a + Strides().frames(cells) for (a, cells), (b, _) in zip(found, found[1:]))


def test_a_folder_becomes_a_bank_of_native_shapes(videos, model, tmp_path):
    vae = Pipeline.load(model, torch.float32).vae
    report = clips.make_clip_bank(videos, tmp_path, vae, fps=8.0, area=AREA, whole_files=True)
    shapes = {shard.latents.shape[1:]: shard for shard in Bank(tmp_path).shards}
    # 40 frames at 16 a second are 20 at 8: a clip of 17, and what is left is too short for another
    assert set(shapes) == {(16, 5, 4, 8), (16, 3, 8, 4), (16, 1, 6, 6)}
    assert shapes[16, 5, 4, 8].scenes == [[("a wide thing", "它在动")]]
    assert shapes[16, 5, 4, 8].guides.shape == (1, 2, 16, 1, 4, 8)
    text = report.text(512)
    assert "padding 0 %" in text and "passed over: torn.mp4:" in text and "passed over: mute.mp4:" in text
    assert 0 < report.kept < report.read
    assert report.filled(512) > 0.9
    told = [trainer.tell(s.scenes, [(0.0, 1.0)], np.random.default_rng(k)) for s in shapes.values() for k in range(9)]
    assert {"它在动", ""} < {text for words in told for texts in words for text in texts}


@pytest.mark.parametrize("name, error", [("write_shard", OSError("the disk is full")), ("encode", torch.OutOfMemoryError("no memory"))])
def test_what_goes_wrong_with_good_frames_is_no_videos_fault(videos, model, tmp_path, monkeypatch, name, error):
    """Nor does it cost the clips that wait to be written."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(clips, name, fail)
    with pytest.raises(type(error), match=str(error)):
        clips.make_clip_bank(videos, tmp_path, Pipeline.load(model, torch.float32).vae, fps=8.0, area=AREA, whole_files=True)


def test_clips_wait_until_they_are_written(model, tmp_path, monkeypatch):
    shelf = clips._Shelf(tmp_path, Pipeline.load(model, torch.float32).vae, 8.0)
    shelf.put((32, 32, 1), torch.zeros(1, 32, 32, 3, dtype=torch.uint8), ("black",))
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(clips, "write_shard", None)
        shelf.close()
    shelf.close()
    assert [shard.scenes for shard in Bank(tmp_path).shards] == [[[("black",)]]]


def test_cutting_needs_an_optional_package(videos, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install scenedetect\[opencv-headless\], or give --whole-files"):
        clips.make_clip_bank(videos, tmp_path, Pipeline.load(model, torch.float32).vae, fps=8.0, area=AREA)


def test_no_frame_of_a_shot_is_the_next_one_s(tmp_path):
    """At 25 frames a second the frame nearest to second 0.875 of a shot of 0.88 is the first of the next shot."""
    colours = torch.tensor([[200, 30, 30], [20, 40, 220]], dtype=torch.uint8)
    frames = torch.cat([c.view(1, 1, 1, 3).expand(22, 64, 64, 3) for c in colours])
    write_video(tmp_path / "cut.mp4", [frames], 25)
    shot, _ = clips.frames_at(tmp_path / "cut.mp4", 0.0, 0.88, 8.0, (64, 64))
    assert len(shot) == 8 and (shot[..., 0] > shot[..., 2]).all()


def test_a_step_that_holds_no_whole_clip_is_told():
    report = clips.Report()
    report.buckets = {(832, 480, 11): 3, (128, 128, 11): 1}
    text = report.text(5120)
    assert "a step of 5120 tokens sees 3 of 11 cells of a clip of 832x480: for whole clips use --tokens 17160 or more" in text
    assert "128x128:" not in text.split("% full")[1]


def test_rests_are_not_seen_as_often_as_what_they_are_left_of():
    kinds = [SimpleNamespace(latents=torch.empty(1, 16, 3, 2, 2), scenes=[[("words",)]] * count) for count in (32, 8, 64)]
    rng, seen = np.random.default_rng(0), Counter()
    for _ in range(900):
        seen[len(trainer.choose_shard(SimpleNamespace(shards=kinds), 0.5, rng).scenes)] += 1
    assert seen[8] == pytest.approx(100, abs=30) and seen[32] == pytest.approx(400, abs=60), "32 are a whole shard"


def test_shots_are_found_where_the_picture_changes(tmp_path):
    pytest.importorskip("scenedetect", reason="PySceneDetect, an optional extra, is not installed")
    colours = torch.tensor([[200, 30, 30], [20, 40, 220]], dtype=torch.uint8)
    frames = torch.cat([c.view(1, 1, 1, 3).expand(20, 64, 64, 3) for c in colours])
    write_video(tmp_path / "cut.mp4", [frames], 20)
    assert clips.find_shots(tmp_path / "cut.mp4") == [(0.0, 1.0), (1.0, 2.0)]


def test_all_weights_are_tuned_into_a_model_that_opens(videos, model, tmp_path):
    files = tune(str(videos), str(tmp_path), settings_for(model), area=AREA, whole_files=True)
    assert [path.name for path in files] == ["tuned.safetensors", "tuned_text.safetensors"]
    facts, before = model_header(files[0]), model_header(model)
    assert set(facts.words) == {*before.words, "wide", "tall", "square", "thing", *"它在动"}
    assert replace(facts, name="", text="", words=()) == replace(before, name="", text="", words=())
    (tmp_path / facts.vae).write_bytes((model.parent.parent / "vae" / facts.vae).read_bytes())
    tuned, plain = (Pipeline.load(path, torch.float32).transformer.head.head.weight for path in (files[0], model))
    assert (tuned - plain).abs().max() > 1e-3
    assert json.loads((tmp_path / "log.jsonl").read_text())["step"] == 3
    with pytest.raises(ValueError, match="holds a run with lora 0, not 2: choose another folder"):
        tune(str(videos), str(tmp_path), settings_for(model, lora=2), area=AREA, whole_files=True)


def test_a_finished_folder_takes_no_other_videos(videos, model, tmp_path):
    def run(folder=videos, area=AREA, **more):
        return tune(str(folder), str(tmp_path / "run"), settings_for(model, lora=2), area=area, whole_files=True, **more)

    (file,) = run()
    before = file.read_bytes()
    with pytest.raises(UserError, match=f"holds a run with videos '{videos}', not '{tmp_path}': choose another folder for it"):
        run(folder=tmp_path)
    with pytest.raises(UserError, match=f"holds a run with area {AREA}, not {2 * AREA}: choose another folder for it"):
        run(area=2 * AREA)
    more = videos / "more.txt"
    more.write_text("a caption that came later")
    with pytest.raises(UserError, match="holds a run with files '.* bytes, the newest of .*', not '.*': choose another folder for it"):
        run()
    more.unlink()
    (tmp_path / "run" / "bank.json").unlink()  # an older folder did not say what it is of
    assert run()[0].read_bytes() == before


def test_a_bank_that_was_never_whole_is_made_anew(videos, model, tmp_path):
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "00099.safetensors").write_bytes(b"of a try that was stopped")
    tune(str(videos), str(tmp_path), settings_for(model, lora=2), area=AREA, whole_files=True)
    assert not (tmp_path / "bank" / "00099.safetensors").exists()


@pytest.mark.parametrize("lora", [0, 2])
def test_a_public_wan_file_is_tuned_with_companions_that_it_does_not_name(videos, model, tmp_path, lora):
    public = tmp_path / "wan.safetensors"
    save_model(public, load_transformer(model)[0].state_dict())
    vae, text = (str(model.parent.parent / kind) for kind in ("vae/tiny_vae.safetensors", "text_encoders/tiny_text.safetensors"))
    settings = replace(settings_for(public, lora=lora), vae=vae, text=text)
    files = tune(str(videos), str(tmp_path / "made"), settings, area=AREA, whole_files=True)
    if lora:
        assert any(t.any() for name, t in load_file(files[0]).items() if "lora_B" in name)
    else:
        assert model_header(files[0]).vae == "tiny_vae.safetensors"
        tuned = Pipeline.load(files[0], torch.float32, vae=vae)
        assert (tuned.transformer.head.head.weight - load_transformer(model)[0].head.head.weight).abs().max() > 1e-3


def test_a_lora_is_what_was_learned(videos, model, tmp_path):
    files = tune(str(videos), str(tmp_path), settings_for(model, lora=2), area=AREA, whole_files=True)
    tensors = load_file(files[0])
    layers = sum("lora_A" in name for name in tensors)
    assert layers == 2 * 10 + 1 * 4, "every linear layer of two blocks of the transformer and one of the text encoder"
    assert tensors["diffusion_model.blocks.0.ffn.0.lora_A.weight"].shape == (2, 128)
    assert tensors["text_encoders.sora.transformer.blocks.0.out.lora_B.weight"].shape == (64, 2)
    assert any(t.any() for name, t in tensors.items() if "lora_B" in name)


def test_words_of_captions():
    assert words_of(["A dog's tail, 2 红 balls!"]) == {"a", "dog's", "tail", "红", "balls"}
