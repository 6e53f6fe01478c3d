"""A procedural world of which every fact is known: scenes, their frames and their captions.

scene                          the data: bodies, walls, camera, light; what is held out of training
sampling, stories, shots       scenes from a seed: S1 and S2, then those in which something happens, then films; layout, who fits in
motion, simulation, camera     where everything is at any second
sight, events, facts           what is seen, what happens, what is true in a window of time
captions, narration            words for the facts, by the tables of phrases and story_phrases
parts, solids, backdrop, render    frames
phyworld                       three scenes of balls in a plane, for comparison with published numbers
"""

from .captions import caption, vocabulary
from .events import EVENTS, Event, events
from .facts import Fact, facts
from .narration import introduce
from .render import render, render_batch
from .sampling import sample_scene, scene_for
from .scene import (
    CAMERAS,
    COLOURS,
    MOTIONS,
    PLACES,
    SHAPES,
    SIZES,
    STAGES,
    STORY_CAMERAS,
    STORY_MOTIONS,
    STORY_SHAPES,
    TIMES_OF_DAY,
    Camera,
    Object,
    Scene,
    Wall,
    is_held_out,
)
from .shots import next_shot, sample_shots
from .stories import sample_story

__all__ = [
    "CAMERAS",
    "COLOURS",
    "EVENTS",
    "MOTIONS",
    "PLACES",
    "SHAPES",
    "SIZES",
    "STAGES",
    "STORY_CAMERAS",
    "STORY_MOTIONS",
    "STORY_SHAPES",
    "TIMES_OF_DAY",
    "Camera",
    "Event",
    "Fact",
    "Object",
    "Scene",
    "Wall",
    "caption",
    "events",
    "facts",
    "introduce",
    "is_held_out",
    "next_shot",
    "render",
    "render_batch",
    "sample_scene",
    "sample_shots",
    "sample_story",
    "scene_for",
    "vocabulary",
]
