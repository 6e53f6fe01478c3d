"""A procedural world of which every fact is known: scenes, their frames and their captions."""

from .render import render, render_batch
from .scene import (
    CAMERAS,
    COLOURS,
    MOTIONS,
    PLACES,
    SHAPES,
    SIZES,
    TIMES_OF_DAY,
    Camera,
    Object,
    Scene,
    is_held_out,
    sample_scene,
    scene_for,
)
