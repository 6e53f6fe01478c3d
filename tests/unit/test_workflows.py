"""The workflows that ship: their words are words of the shipped model, their pictures are there."""

import json
import sys
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from sora_pack.scripts import environment
from sora_pack.sora_core.checkpoint import model_header
from sora_pack.sora_core.pipeline import SHIPPED
from sora_pack.sora_core.storyboard import parse
from sora_pack.sora_core.text import unseen_words

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "workflows").glob("*.json"))


def nodes(root, name):
    return json.loads((root / "workflows" / f"{name}.json").read_text(encoding="utf-8"))["nodes"]


@pytest.mark.parametrize("name", NAMES)
def test_prompts_use_words_of_the_shipped_model(root, name):
    known = model_header(SHIPPED).words
    for node in nodes(root, name):
        texts = {"SoraPrompt": lambda text: [text], "SoraStoryboard": lambda text: parse(text).texts}
        for text in texts.get(node["type"], lambda text: [])((node["widgets_values"] or [""])[0]):
            assert unseen_words(text, known) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_note_says_what_it_needs_and_how_long_it_takes(root, name):
    note = next(node["widgets_values"][0] for node in nodes(root, name) if node["type"] == "MarkdownNote")
    assert "**Needs**" in note and "**Takes**" in note


@pytest.mark.parametrize("name", NAMES)
def test_seeds_stay_fixed(root, name):
    # With "randomize" two people who run the template would see two videos.
    values = [node["widgets_values"] for node in nodes(root, name) if node["type"] == "SoraSampler"]
    assert values and all("fixed" in value for value in values)


@pytest.mark.parametrize("name", NAMES)
def test_the_thumbnail_is_a_picture(root, name):
    with Image.open(root / "workflows" / f"{name}.jpg") as picture:
        assert picture.format == "JPEG" and max(picture.size) >= 256


@pytest.mark.parametrize("seconds, words", [(2, "5 seconds"), (33, "35 seconds"), (89, "1.5 minutes"), (247, "4 minutes")])
def test_a_measured_time_takes_the_place_of_the_old_one(monkeypatch, root, seconds, words):
    monkeypatch.setitem(sys.modules, "environment", environment)  # as the script finds it when it is run
    from sora_pack.scripts.thumbnails import write_time

    workflow = {"nodes": nodes(root, "extend_video")}
    (note,) = (node for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    before = note["widgets_values"][0]
    write_time(workflow, seconds, 2)
    after = note["widgets_values"][0]
    assert f"**Takes** about {words} on 2 CPU cores, all steps together. Time grows" in after
    assert after.partition("**Takes**")[0] == before.partition("**Takes**")[0] and after.endswith(before.partition("Time grows")[2])
    note["widgets_values"][0] = "no word of it"
    with pytest.raises(ValueError, match="no sentence"):
        write_time(workflow, seconds, 2)


@pytest.mark.parametrize("name", NAMES)
def test_no_node_lies_on_another_once_pictures_are_shown(root, name):
    grown = {"SoraSampler": 620, "SaveVideo": 420, "SaveImage": 420}  # heights with a preview or a player in the node
    boxes = {}
    for node in nodes(root, name):
        (x, y), (width, height) = node["pos"], node["size"]
        boxes[node["id"], node["type"]] = (x, y, x + width, y + max(height, grown.get(node["type"], 0)))
    for a, b in combinations(boxes, 2):
        (left, top, right, bottom), other = boxes[a], boxes[b]
        assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top, f"{a} and {b} overlap"
