"""What every row of the scorecard stands on: the model, the observer, and how much of everything is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor

from .observer import Observer
from .studio import Studio

SIZES = {"1:1": (128, 128), "16:9": (176, 96), "9:16": (96, 176)}


@dataclass(frozen=True)
class Budget:
    """How much of everything is measured.

    Args:
        prompts: clips of prompt adherence, of `seconds` each; `paired` of them also in Chinese, wide and tall; `first_stage`
            clips of stage S1.
        reconstructions: clips through the VAE; `minutes`: those of a minute.
        pictures, physics, surprise, heard, hidden, stories, filmed, orbits, shots: clips of the rows of that name, physics, surprise,
            hearing and filming for each kind.
        long: clips of ten seconds, for drift in one pass.
        cost_seconds: lengths of the videos that are timed.
        films: videos by each kind of plan, of `film_seconds`; none leaves the rows of a minute out.
        minute_side: pixels on a side, of all that lasts so long.
    """

    prompts: int
    paired: int
    first_stage: int
    seconds: float = 2.0
    reconstructions: int = 4
    minutes: int = 3
    minute_side: int = 128
    pictures: int = 2
    physics: int = 1
    surprise: int = 3
    heard: int = 12
    hidden: int = 2
    stories: int = 1
    filmed: int = 1
    orbits: int = 1
    shots: int = 1
    long: int = 0
    cost_seconds: tuple[float, ...] = (2.0, 5.0)
    films: int = 0
    film_seconds: float = 60.0

    def at_most(self, clips: int) -> Budget:
        """No more clips of any row than so many; prompts and films stay."""
        return replace(self, **{name: min(getattr(self, name), clips) for name in CLIPS})


CLIPS = ("reconstructions", "minutes", "pictures", "physics", "surprise", "heard", "hidden", "stories", "filmed", "orbits", "shots", "long")
QUICK = Budget(prompts=8, paired=4, first_stage=4)
FULL = Budget(prompts=120, paired=70, first_stage=60, reconstructions=40, minutes=12, pictures=24, physics=40, surprise=25, heard=100,
              hidden=24, stories=60, filmed=24, orbits=24, shots=40, long=20, films=20)  # fmt: skip


@dataclass
class Bench:
    """What every row needs: the model, the observer, how much, and words for the terminal.

    source: arguments of Pipeline.load, strings, for rows that open the model anew. scores: what rows share (adherence.py). takes: moments
    of each long take, for the page (minute.py).
    """

    studio: Studio
    observer: Observer
    budget: Budget
    source: dict[str, str] = field(default_factory=dict)
    say: Callable[[str], None] = lambda words: None
    scores: dict = field(default_factory=dict)
    takes: list[Tensor] = field(default_factory=list)
