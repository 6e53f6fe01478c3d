"""A procedural world of which every fact is known: scenes, their frames and their captions."""

from .captions import caption, vocabulary
from .facts import Fact, facts
from .render import render, render_batch
from .sampling import sample_scene, scene_for
from .scene import CAMERAS, COLOURS, MOTIONS, PLACES, SHAPES, SIZES, TIMES_OF_DAY, Camera, Object, Scene, is_held_out

__all__ = [
    "CAMERAS",
    "COLOURS",
    "MOTIONS",
    "PLACES",
    "SHAPES",
    "SIZES",
    "TIMES_OF_DAY",
    "Camera",
    "Fact",
    "Object",
    "Scene",
    "caption",
    "facts",
    "is_held_out",
    "render",
    "render_batch",
    "sample_scene",
    "scene_for",
    "vocabulary",
]
