"""Sentences about a story: who is there, what happens first and what then, what stays so. Short, medium or long; English or Chinese.

Like `captions`, it says only what stands in `facts`; of events that overlap in time only the first is told, so "then" is never false.
"""

import random
import re

from . import phrases, story_phrases
from .events import Event
from .facts import Fact
from .scene import Scene

MOST_EVENTS = 4  # told in one caption: who leaves and returns for a minute would else fill a page
LONG_BYTES = 420  # a long caption takes no further sentence of scenery beyond this
TABLES = {
    "en": (phrases.ENGLISH, story_phrases.ENGLISH),
    "zh": (phrases.CHINESE, story_phrases.CHINESE),
}


def narrate(scene: Scene, known: list[Fact], length: str, language: str, rng: random.Random, introduced: bool = False) -> str:
    """A caption of a story from its facts; length short, medium or long, language en or zh; introduced: all names are known already."""
    teller = (English if language == "en" else Chinese)(scene, known, rng)
    if introduced:
        teller.met |= set(teller.names)
    return getattr(teller, length)()


def introduce(shots: list[Scene], language: str, seed: int = 0) -> str:
    """Who the named characters of some shots are, for the words that all shots share; empty when nobody has a name."""
    rng = random.Random(f"introduce-{shots[0].seed}-{seed}-{language}")
    known = [Fact(kind, (i, getattr(body, kind))) for i, body in enumerate(shots[0].objects) for kind in ("colour", "shape")]
    teller = (English if language == "en" else Chinese)(shots[0], known, rng)
    space, stop = (" ", ".") if language == "en" else ("", "。")
    named = [(i, body.name) for i, body in enumerate(shots[0].objects) if body.name]
    return space.join(teller.pick("is who").format(name=name, a=teller.body(i, 0.8)) + stop for i, name in named)


def chain(events: list[Event]) -> list[Event]:
    """The events that follow each other without overlap, from the first one on, MOST_EVENTS at most."""
    told: list[Event] = []
    for event in events:
        if not told or told[-1].end <= event.at:
            told.append(event)
    return told[:MOST_EVENTS]


class Teller:
    """Phrases for one caption: each body keeps the words it got, and is new only once."""

    language = ""

    def __init__(self, scene: Scene, known: list[Fact], rng: random.Random):
        self.scene, self.rng = scene, rng
        self.shown = [fact.value[0] for fact in known if fact.kind == "colour"]
        self.names = dict(fact.value for fact in known if fact.kind == "name")
        self.motion = dict(fact.value for fact in known if fact.kind == "motion")
        self.left = [fact.value for fact in known if fact.kind == "left of"]
        self.lasting = [fact.value for fact in known if fact.kind == "lasting"]
        self.events = chain([fact.value for fact in known if fact.kind == "event"])
        self.walls = [fact.value for fact in known if fact.kind == "wall"]
        self.one = {fact.kind: fact.value for fact in known if isinstance(fact.value, str)}
        self.colour = {i: self.pick("colour", scene.objects[i].colour) for i in self.shown}
        self.shape = {i: self.pick("shape", scene.objects[i].shape) for i in self.shown}
        self.wall = self.pick("wall", self.walls[0]) if self.walls else ""
        self.met: set[int | str] = set()

    def pick(self, kind: str, value: object = None) -> str:
        options: list[str] = []
        for table in TABLES[self.language]:
            found = table.get(kind, [])
            options += found if value is None else found.get(value, []) if found else []
        return self.rng.choice(options)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def where(self) -> str:
        return self.pick("where", self.scene.place)

    def when(self) -> str:
        return self.pick("when", self.scene.time_of_day)

    def gist(self) -> list[str]:
        """Who is there, two motions and three events: the sentences of a medium caption, before that of the camera."""
        who = [self.there(0.5), *self._motions(0.2)[:2]]  # first: an event may call "it" who was just told of
        return [*who, self.ordered(self.happenings(self.events[:3]))] if self.events else who

    def happenings(self, events: list[Event]) -> list[str]:
        """A clause for each event; who has just been told of alone may be "it" in the next."""
        clauses, last = [], None
        for event in events:
            text = self.pick("event", event.kind)
            if last and last.body == event.body and last.other < 0 and text.startswith("{a}") and self.chance(0.5):
                text = self.pick("it") + text.removeprefix("{a}")
            words = {"a": event.body, "b": event.other}
            # named in the order in which they stand, because the first mention is another than the second
            slots = re.findall(r"\{(\w+)\}", text)
            clauses.append(text.format(**{s: self.body(words[s]) if s in words else self.thing(s, event) for s in slots}))
            last = event
        return clauses

    def thing(self, kind: str, event: Event) -> str:
        """The wall or the cover; every story has one wall at most, and a cover is the same for the same body."""
        key = kind if kind == "wall" else f"cover {event.body}"
        noun = self.wall if kind == "wall" else self.pick("cover")
        new = key not in self.met and event.kind != "uncover"
        self.met.add(key)
        return self.article(noun, new, kind)

    def body(self, i: int, size: float = 0.0) -> str:
        """An object: with an article and perhaps its size when it is new, later by its name or as the one known."""
        new = i not in self.met
        self.met.add(i)
        named = i in self.names
        if not new:
            return self.names[i] if named and self.chance(0.8) else self.article(self.noun(i), False, self.scene.objects[i].shape)
        sized = self.pick("size", self.scene.objects[i].size) if self.chance(size) else ""
        text = self.noun(i, sized)
        return self.introduce(i, text) if named else self.article(text, True, self.scene.objects[i].shape)

    def cameras(self) -> list[str]:
        found = [" ".join(filter(None, (self.one[k], self.one.get(f"{k} direction")))) for k in ("camera", "camera then") if k in self.one]
        # who is never seen in these seconds cannot be named as the one that is followed
        return ["" if kind == "follow" and self.scene.camera.target not in self.shown else kind for kind in found]

    def film(self) -> str:
        """A sentence for the camera, or two movements in their order; empty when there is nothing to say."""
        kinds = self.cameras()
        if not kinds or not all(kinds):
            return ""
        if len(kinds) == 1:
            return self._film(kinds[0], False)
        return self.ordered([self._film(kind, True) for kind in kinds])

    def _film(self, kind: str, clause: bool) -> str:
        start = "The camera" if self.language == "en" else "镜头"
        text = self.pick("films", kind)
        while clause and not text.startswith(start):
            text = self.pick("films", kind)
        return text.replace("{a}", self.body(self.scene.camera.target)) if "{a}" in text else text

    def relation(self) -> tuple[int, int, str] | None:
        if not self.left:
            return None
        i, j = self.rng.choice(self.left)
        return (i, j, "left of") if self.chance(0.5) else (j, i, "right of")

    def fill(self, sentences: list[str], extras: list[str], film: str, space: str) -> str:
        self.rng.shuffle(extras)
        for extra in extras:
            if len(space.join([*sentences, extra, film]).encode()) <= LONG_BYTES:
                sentences.append(extra)
        return space.join(filter(None, [*sentences, film]))

    def extras(self) -> list[str]:
        found = [self.pick("scenery", self.scene.place), self.pick("mood", self.scene.time_of_day)]
        return found + ([self.pick("light from", self.one["light from"])] if "light from" in self.one else [])


class English(Teller):
    """Tells in English."""

    language = "en"

    def noun(self, i: int, size: str = "") -> str:
        return " ".join(filter(None, (size, self.colour[i], self.shape[i])))

    def article(self, noun: str, new: bool, kind: str) -> str:
        return ("an " if noun[0] in "aeiou" else "a ") + noun if new else "the " + noun

    def introduce(self, i: int, noun: str) -> str:
        return self.pick("named").format(a=self.article(noun, True, ""), name=self.names[i])

    def there(self, size: float) -> str:
        """Who is there, where and when; nothing when nobody is seen."""
        parts = [self.body(i, size) for i in self.shown]
        if self.walls:
            parts.append(self.article(self.wall, True, "wall"))
            self.met.add("wall")
        listed = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
        form = self.pick("there").format(list=listed, where=self.where(), when=self.when(), **{"is": "is" if len(parts) == 1 else "are"})
        return capital(form) + "."

    def ordered(self, clauses: list[str]) -> str:
        """Clauses one after the other, in one sentence or in several."""
        clauses = [low(c.rstrip(".")) for c in clauses]
        if len(clauses) == 1:
            return capital(clauses[0]) + "."
        first, thens = self.pick("first"), [self.pick("then") for _ in clauses[1:]]
        if len(clauses) == 2 and self.chance(0.6):
            return capital(f"{first} {clauses[0]}, {thens[0]} {clauses[1]}.")
        return " ".join(capital(f"{word} {clause}.") for word, clause in zip([first, *thens], clauses, strict=True))

    def short(self) -> str:
        if self.events:
            first, *more = self.happenings(self.events[: 2 if self.chance(0.8) else 1])
            text = f"{first}, {self.pick('then')} {more[0]}" if more else first
            text = f"first {text}" if more and self.chance(0.4) else text
        else:
            text = " and ".join(self._acting(i) for i in self.shown)
        where = self.where() if not text or self.chance(0.8) else ""
        text = " ".join(filter(None, (text, where, self.when() if self.chance(0.6) else "")))
        film = low(self.film().rstrip(".")) if self.chance(0.4) else ""
        text = text + (". " + capital(film) if film else "")
        return capital(text) if self.chance(0.5) else text

    def _acting(self, i: int) -> str:
        return " ".join(filter(None, (self.body(i, 0.5), self.pick("doing", self.motion[i]) if i in self.motion else "")))

    def medium(self) -> str:
        if not self.shown and not self.walls:
            return self.short()
        parts = self.gist()
        if self.chance(0.6):
            parts.append(self.film())
        return " ".join(filter(None, parts))

    def long(self) -> str:
        if not self.shown and not self.walls:
            return self.short()
        parts = [self.there(1.0), *self._motions(0.6)]
        if self.events:
            parts.append(self.ordered(self.happenings(self.events)))
        parts += [capital(self.pick("lasting", word).format(a=self.body(i))) + "." for i, word in self.lasting if self.chance(0.8)]
        relation = self.relation()
        if relation is not None:
            i, j, side = relation
            parts.append(capital(self.pick("relation").format(a=self.body(i), side=self.pick(side), b=self.body(j))))
        return self.fill(parts, self.extras(), self.film(), " ")

    def _motions(self, still: float) -> list[str]:
        told = [i for i in self.shown if i in self.motion and (self.motion[i] != "still" or self.chance(still))]
        return [capital(f"{self.body(i)} {self.pick('does', self.motion[i])}") + "." for i in told]


class Chinese(Teller):
    """Tells in Chinese."""

    language = "zh"

    def noun(self, i: int, size: str = "") -> str:
        colour = self.colour[i]
        shape = self.shape[i] if len(colour) > 1 else self.pick_plain(i)
        return size + colour + ("的" if len(colour) > 1 else "") + shape

    def pick_plain(self, i: int) -> str:
        """The short name that goes with a bare colour."""
        shape = self.scene.objects[i].shape
        return (phrases.CHINESE["shape"] | story_phrases.CHINESE["shape"])[shape][0]

    def article(self, noun: str, new: bool, kind: str) -> str:
        count = {"wall": "面", "lamp": "盏"}.get(kind, "个")
        return f"一{count}{noun}" if new else f"那面{noun}" if kind == "wall" else noun

    def introduce(self, i: int, noun: str) -> str:
        return self.article(self.pick("named").format(a=noun, name=self.names[i]), True, self.scene.objects[i].shape)

    def there(self, size: float) -> str:
        parts = [self.body(i, size) for i in self.shown]
        if self.walls:
            parts.append(self.article(self.wall, True, "wall"))
            self.met.add("wall")
        return self.pick("there").format(list="和".join(parts), where=self.where(), when=self.when()) + "。"

    def ordered(self, clauses: list[str]) -> str:
        if len(clauses) == 1:
            return clauses[0] + "。"
        words = [self.pick("first")] + [self.pick("then") for _ in clauses[1:]]
        return "，".join(w + c for w, c in zip(words, clauses, strict=True)) + "。"

    def short(self) -> str:
        place = (self.when() if self.chance(0.6) else "") + (self.where() if not self.shown or self.chance(0.8) else "")
        if self.events:
            text = self.ordered(self.happenings(self.events[: 2 if self.chance(0.8) else 1])).rstrip("。")
        else:
            told = [self.body(i, 0.5) + (self.pick("does", self.motion[i]) if i in self.motion else "") for i in self.shown]
            text = "，".join(told)
        film = self.film().rstrip("。") if self.chance(0.4) else ""
        return "，".join(filter(None, (place, text, film)))

    def medium(self) -> str:
        if not self.shown and not self.walls:
            return self.short()
        parts = self.gist()
        film = self.film().rstrip("。")
        return "".join([*parts, film + "。" if film and self.chance(0.6) else ""])

    def long(self) -> str:
        if not self.shown and not self.walls:
            return self.short()
        parts = [self.there(1.0), *self._motions(0.6)]
        if self.events:
            parts.append(self.ordered(self.happenings(self.events)))
        parts += [self.pick("lasting", word).format(a=self.body(i)) + "。" for i, word in self.lasting if self.chance(0.8)]
        relation = self.relation()
        if relation is not None:
            i, j, side = relation
            parts.append(self.body(i) + self.pick(side).format(b=self.body(j)) + "。")
        film = self.film().rstrip("。")
        return self.fill(parts, [extra + "。" for extra in self.extras()], film + "。" if film else "", "")

    def _motions(self, still: float) -> list[str]:
        told = [i for i in self.shown if i in self.motion and (self.motion[i] != "still" or self.chance(still))]
        return [self.body(i) + self.pick("does", self.motion[i]) + "。" for i in told]


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def low(text: str) -> str:
    """The first letter small, unless it begins a name."""
    return text if text.split(" ")[0] in story_phrases.NAMES else text[:1].lower() + text[1:]
