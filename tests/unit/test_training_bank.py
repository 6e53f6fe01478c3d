"""The latent bank: shards of the plan stay what they are, others follow a recipe; a killed one goes on at once."""

import hashlib
import json
import signal
import subprocess
import sys

import pytest
import torch

from sora_pack.sora_core.autoencoder import VideoVAE
from sora_pack.sora_core.checkpoint import save_vae
from sora_pack.sora_core.config import UserError, VAEConfig
from sora_pack.sora_core.files import try_lock
from sora_pack.sora_core.training import __main__ as command
from sora_pack.sora_core.training import bank
from sora_pack.sora_core.training.bank import STAGES, Recipe, Shape, make_shard, plan, read_shard, scenes_of
from sora_pack.sora_core.world import is_held_out


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    torch.manual_seed(0)
    return VideoVAE(VAEConfig(dim=8)).channels_last().eval()


@pytest.fixture
def small_world(monkeypatch):
    monkeypatch.setattr(bank, "SHAPES", {"STILLS": (Shape(1, 8.0, 32, 32), Shape(1, 8.0, 48, 32)), "SECONDS_2": (Shape(5, 8.0, 32, 32),)})
    monkeypatch.setattr(bank, "STILLS", bank.SHAPES["STILLS"][:1] * 3)
    monkeypatch.setattr(bank, "SHARD", 3)


# -- what is in a shard --------------------------------------------------------------------------------------------------------------


def test_shards_of_the_plan_stay_as_they_were():
    """Banks that are on disks go on with more of the same."""
    shapes = json.dumps([[repr(plan(index, Recipe(stage))) for index in range(300)] for stage in STAGES])
    assert hashlib.sha256(shapes.encode()).hexdigest()[:16] == "520e7f517bf66a3b"
    seeds = json.dumps([[shot.seed for shots in scenes_of(index, cuts, 4) for shot in shots] for index, cuts in ((0, 0), (11, 1))])
    assert hashlib.sha256(seeds.encode()).hexdigest()[:16] == "b10789a2ad3ef7aa"


def test_a_recipe_chooses_scenes_and_shapes():
    recipe = Recipe(shapes=("SECONDS_2", "SECONDS_2", "MINUTE"), cameras=("orbit",), motions=("slide left", "come closer"))
    frames = [plan(index, recipe).frames for index in range(3, 12)]
    assert frames == [17, 17, 481] * 3
    found = scenes_of(5, 0, 8, recipe)
    assert found == scenes_of(5, 0, 8, recipe) and len(found) == 8
    for (scene,) in found:
        assert scene.camera.kind == "orbit" and {"slide left", "come closer"} & {body.motion for body in scene.objects}
        assert not is_held_out(scene)
    assert {scene.seed for (scene,) in found} <= set(range(10_050_000, 10_060_000)), "a number's own seeds"
    films = scenes_of(5, 1, 4, Recipe(cameras=("orbit",)))
    assert all(any(shot.camera.kind == "orbit" for shot in shots) for shots in films)


@pytest.mark.parametrize(
    "names, says",
    [
        ({"shapes": ("HOURS",)}, "shapes: 'HOURS' is not known: use one of STILLS, SECONDS_2, SECONDS_5, RARE, SHOTS, MINUTE"),
        ({"cameras": ("orbit", "pan")}, "cameras of stage S2: 'pan' is not known: use one of static, orbit, zoom in, zoom out"),
        ({"stage": "S1", "cameras": ("orbit",)}, "cameras of stage S1: 'orbit' is not known: use one of static"),
        ({"motions": ("leave left",)}, "motions of stage S2: 'leave left' is not known: use one of still"),
        ({"stage": "S3", "cameras": ("pan",), "motions": ("dance",)}, "motions of stage S3: 'dance' is not known: use one of still"),
    ],
)
def test_unknown_names_are_refused(names, says):
    with pytest.raises(UserError, match=says):
        Recipe(**names)


def test_what_is_too_rare_or_never_found_ends(monkeypatch):
    monkeypatch.setattr(bank, "SEEDS", 20)
    with pytest.raises(UserError, match="shard 0: . of 32 scenes found with 20 seeds: name more cameras or motions"):
        scenes_of(0, 0, recipe=Recipe(cameras=("orbit",)))

    def refuse(*_, **__):
        raise ValueError("no such stage")

    monkeypatch.setattr(bank, "sample_shots", refuse)
    with pytest.raises(RuntimeError, match="shard 0: 0 of 32 scenes found") as ended:
        scenes_of(0, 0)
    assert str(ended.value.__cause__) == "no such stage"


# -- making it -----------------------------------------------------------------------------------------------------------------------


def test_a_shard_is_left_to_a_process_that_is_at_it_and_not_to_a_dead_one(small_world, vae, tmp_path, root):
    lock = tmp_path / "00000.lock"
    with lock.open("a+b") as held:
        assert try_lock(held)
        assert not make_shard(tmp_path, 0, vae) and not list(tmp_path.glob("*.safetensors"))
    holder = "import sys; from sora_core.files import try_lock; f = open(sys.argv[1], 'a+b'); print(try_lock(f), flush=True); input()"
    dead = subprocess.Popen([sys.executable, "-c", holder, lock], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert dead.stdout.readline().strip() == b"True" and not make_shard(tmp_path, 0, vae)
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    assert lock.exists() and make_shard(tmp_path, 0, vae)
    assert [path.name for path in tmp_path.iterdir()] == ["00000.safetensors"]


def test_the_command_makes_what_was_asked_for_and_goes_on(small_world, vae, tmp_path, monkeypatch, capsys):
    save_vae(tmp_path / "vae.safetensors", vae)
    arguments = ["--folder", tmp_path / "bank", "--vae", tmp_path / "vae.safetensors", "--first", 7, "--shards", 3]
    arguments += ["--shapes", "STILLS", "SECONDS_2", "--motions", "slide left", "bounce"]

    def run():
        monkeypatch.setattr("sys.argv", ["training", "bank", *map(str, arguments)])
        command.main()
        return {path.name: path.read_bytes() for path in (tmp_path / "bank").iterdir()}

    made = run()
    assert sorted(made) == ["00007.safetensors", "00008.safetensors", "00009.safetensors"]
    shards = [read_shard(tmp_path / "bank" / name) for name in sorted(made)]
    assert [shard.latents.shape[2] for shard in shards] == [2, 1, 2] and all(len(shard.scenes) == 3 for shard in shards)
    assert all({"slide left", "bounce"} & {body.motion for body in scene.objects} for shard in shards for (scene,) in shard.scenes)
    (tmp_path / "bank" / "00008.safetensors").unlink()
    capsys.readouterr()
    assert run() == made, "the same command goes on, to the same bytes"
    assert "1 of 3 shards made; the others are there" in capsys.readouterr().out
    arguments[-1] = "dance"
    with pytest.raises(SystemExit, match="^motions of stage S2: 'dance' is not known"):
        run()
