"""Sentences about a scene: short as a person types, or long and descriptive; English or Chinese. Never false.

Everything said comes from `facts`, so a caption can be checked against the scene and a later observer is asked the same facts.
"""

import functools
import random
import re

from . import phrases, story_phrases
from .facts import Fact, facts
from .narration import capital, narrate
from .scene import STAGES, Scene

LENGTHS, LANGUAGES = ("short", "medium", "long"), ("en", "zh")
LONG_BYTES = 330  # a long caption takes no further sentence of scenery beyond this


def caption(
    scene: Scene,
    length: str = "short",
    language: str = "en",
    seed: int = 0,
    *,
    start: float = 0.0,
    seconds: float = 5.0,
    typos: float = 0.0,
    introduced: bool = False,
) -> str:
    """A caption of the window of `seconds` from `start`; another phrasing for each seed.

    length: short, medium or long. language: en or zh. typos: chance that one word of a short English caption is mistyped. introduced:
    other words say who the named characters are, so that their names suffice.
    """
    if length not in LENGTHS or language not in LANGUAGES:
        raise ValueError(f"length={length!r}, language={language!r}: use short, medium or long, and en or zh.")
    rng = random.Random(f"caption-{scene.seed}-{seed}-{length}-{language}")
    known = facts(scene, start, seconds)
    if scene.has_story:
        text = narrate(scene, known, length, language, rng, introduced)
    else:
        text = _WRITERS[length, language](_Words(scene, known, phrases.ENGLISH if language == "en" else phrases.CHINESE, rng))
    return mistype(text, rng) if language == "en" and length == "short" and typos and rng.random() < typos else text


def mistype(text: str, rng: random.Random) -> str:
    """One longer word with two letters exchanged, one left out or one doubled; never another word that captions have."""
    words = [m.span() for m in re.finditer(r"[A-Za-z]{4,}", text)]
    if not words:
        return text
    first, last = rng.choice(words)
    word, at = text[first:last], rng.randrange(1, last - first - 1)
    wrong = rng.choice((word[:at] + word[at + 1] + word[at] + word[at + 2 :], word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]))
    return text if wrong.lower() in vocabulary("S4") else text[:first] + wrong + text[last:]


class _Words:
    """Phrases for one caption: each object keeps the name it got."""

    def __init__(self, scene: Scene, known: list[Fact], table: dict, rng: random.Random):
        self.scene, self.table, self.rng = scene, table, rng
        self.motion = dict(fact.value for fact in known if fact.kind == "motion")
        self.left = [fact.value for fact in known if fact.kind == "left of"]
        self.one = {fact.kind: fact.value for fact in known if not isinstance(fact.value, tuple)}
        self.camera = " ".join(filter(None, (self.one["camera"], self.one.get("camera direction"))))
        self.colour = [self.pick("colour", body.colour) for body in scene.objects]
        self.shape = [self.pick("shape", body.shape) for body in scene.objects]
        pairs = [(body.colour, body.shape) for body in scene.objects]
        self.distinct = len(set(pairs)) == len(pairs)

    def pick(self, kind: str, value: object = None) -> str:
        options = self.table[kind] if value is None else self.table[kind][value]
        return self.rng.choice(options)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def sized(self, i: int, share: float = 1.0) -> str:
        """Size word of an object, or nothing."""
        return self.pick("size", self.scene.objects[i].size) if self.chance(share) else ""

    def relation(self) -> tuple[int, int, str] | None:
        """(i, j, 'left of' or 'right of') that holds, told from either side."""
        if not self.left or not self.distinct:
            return None
        i, j = self.rng.choice(self.left)
        return (i, j, "left of") if self.chance(0.5) else (j, i, "right of")


def _join(parts: list[str], space: str = " ") -> str:
    return space.join(part for part in parts if part)


def _article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _noun(words: _Words, i: int, share: float = 1.0) -> str:
    return _join([words.sized(i, share), words.colour[i], words.shape[i]])


def _list(parts: list[str], last: str = " and ", comma: str = ", ") -> str:
    return parts[0] if len(parts) == 1 else comma.join(parts[:-1]) + last + parts[-1]


def _short_en(words: _Words) -> str:
    count, relation = len(words.scene.objects), None
    nouns = [_noun(words, i, 0.6) for i in range(count)]
    where = words.pick("where", words.scene.place) if words.chance(0.85) else ""
    when = words.pick("when", words.scene.time_of_day) if words.chance(0.4 if words.scene.time_of_day == "day" else 0.7) else ""
    filming = words.pick("filming", words.camera) if words.chance(0.12 if words.camera == "static" else 0.5) else ""
    style = words.rng.random()
    if style < 0.12:
        text = _tags(words, nouns, filming)
    else:
        told = [words.chance(0.3 if words.motion[i] == "still" else 0.88) for i in range(count)]
        verb = "doing" if style < 0.7 or not all(told) else "does"
        clauses = [_join([_article(n), words.pick(verb, words.motion[i]) if told[i] else ""]) for i, n in enumerate(nouns)]
        slides = any(told[i] and words.motion[i].startswith("slide") for i in range(count))  # "moving left left of" helps nobody
        if count == 2 and verb == "doing" and not slides and words.chance(0.6):
            relation = words.relation()
        if relation is not None:
            i, j, side = relation
            told_i = words.pick(verb, words.motion[i]) if told[i] else ""
            told_j = words.pick(verb, words.motion[j]) if told[j] else ""
            subject = _join([_article(nouns[i]), told_i, words.pick(side), _article(nouns[j]), told_j])
        else:
            subject = _list(clauses)
        text = _join([subject, where, when])
        if where and words.chance(0.15):
            text = _join([where, when]) + ", " + subject
        text = _join([text, filming], ", ")
    text = capital(text) if words.chance(0.5) else text
    return text + ("." if words.chance(0.3) else "")


def _tags(words: _Words, nouns: list[str], filming: str) -> str:
    """Keywords with commas: some people type so."""
    parts = []
    for i, noun in enumerate(nouns):
        parts.append(_join([noun, words.pick("doing", words.motion[i]) if words.motion[i] != "still" else ""]))
    parts += [words.pick("tags", words.scene.place), words.pick("tags", words.scene.time_of_day), filming]
    return _join(parts, ", ")


def _long_en(words: _Words) -> str:
    count = len(words.scene.objects)
    opening = words.pick("opening" if count == 1 else "plural opening").format(
        where=words.pick("where", words.scene.place), when=words.pick("when", words.scene.time_of_day), count=words.pick("count", count)
    )
    clauses = [f"{_article(_noun(words, i))} {words.pick('does', words.motion[i])}" for i in range(count)]
    sentences = [capital(opening)]
    if count > 1 and words.chance(0.5):
        sentences.append(capital(_list(clauses, last=", and ")) + ".")
    else:
        sentences += [capital(clause) + "." for clause in clauses]
    relation = words.relation()
    if relation is not None:
        i, j, side = relation
        names = [f"the {words.colour[k]} {words.shape[k]}" for k in (i, j)]
        sentences.append(capital(words.pick("relation").format(a=names[0], side=words.pick(side), b=names[1])))
    extras = [words.pick("scenery", words.scene.place), words.pick("mood", words.scene.time_of_day)]
    if "light from" in words.one:
        extras.append(words.pick("light from", words.one["light from"]))
    return _fill(words, sentences, extras, words.pick("films", words.camera), " ")


def _medium_en(words: _Words) -> str:
    """One sentence of who does what where, one of the sides, mostly one of the camera."""
    count, place = len(words.scene.objects), _join([words.pick("where", words.scene.place), words.pick("when", words.scene.time_of_day)])
    clauses = [f"{_article(_noun(words, i, 0.7))} {words.pick('does', words.motion[i])}" for i in range(count)]
    text = _list(clauses, last=", and ")
    sentences = [capital(f"{place}, {text}." if words.chance(0.5) else f"{text}, {place}.")]
    relation = words.relation() if words.chance(0.6) else None
    if relation is not None:
        i, j, side = relation
        names = [f"the {words.colour[k]} {words.shape[k]}" for k in (i, j)]
        sentences.append(capital(words.pick("relation").format(a=names[0], side=words.pick(side), b=names[1])))
    if words.chance(0.3 if words.camera == "static" else 0.8):
        sentences.append(words.pick("films", words.camera))
    return " ".join(sentences)


def _fill(words: _Words, sentences: list[str], extras: list[str], film: str, space: str) -> str:
    """Add sentences of scenery, in any order, while there is room, and the camera's."""
    words.rng.shuffle(extras)
    for extra in extras:
        if len(space.join([*sentences, extra, film]).encode()) <= LONG_BYTES:
            sentences.append(extra)
    sentences.insert(len(sentences) if words.chance(0.8) else 1, film)
    return space.join(sentences)


def _noun_zh(words: _Words, i: int, share: float = 1.0) -> str:
    colour, shape = words.colour[i], words.shape[i]
    if len(colour) == 1:  # the bare colour goes with a short name only
        shape = words.table["shape"][words.scene.objects[i].shape][0]
        return words.sized(i, share) + colour + shape
    return words.sized(i, share) + colour + ("的" if words.chance(0.6) else "") + shape


def _short_zh(words: _Words) -> str:
    count = len(words.scene.objects)
    nouns = [_noun_zh(words, i, 0.6) for i in range(count)]
    where = words.pick("where", words.scene.place) if words.chance(0.85) else ""
    when = words.pick("when", words.scene.time_of_day) if words.chance(0.4 if words.scene.time_of_day == "day" else 0.7) else ""
    film = words.pick("films", words.camera) if words.chance(0.12 if words.camera == "static" else 0.5) else ""
    if words.chance(0.12):
        parts = [n + (words.pick("does", words.motion[i]) if words.motion[i] != "still" else "") for i, n in enumerate(nouns)]
        parts += [words.pick("tags", words.scene.place), words.pick("tags", words.scene.time_of_day), film]
        return _join(parts, "，")
    relation = words.relation() if count == 2 and words.chance(0.4) else None
    if relation is not None:
        i, j, side = relation
        text = when + where + "一个" + nouns[i] + words.pick(side).format(b="一个" + nouns[j])
    else:
        told = [words.chance(0.3 if words.motion[i] == "still" else 0.88) for i in range(count)]
        clauses = ["一个" + n + (words.pick("does", words.motion[i]) if told[i] else "") for i, n in enumerate(nouns)]
        text = when + where + ("有" if where and not any(told) else "") + _list(clauses, "，" if any(told) else "和", "，")
    return _join([text, film], "，") + ("。" if words.chance(0.3) else "")


def _long_zh(words: _Words) -> str:
    count = len(words.scene.objects)
    opening = words.pick("opening").format(
        where=words.pick("where", words.scene.place), when=words.pick("when", words.scene.time_of_day), count=words.pick("count", count)
    )
    clauses = ["一个" + _noun_zh(words, i) + words.pick("does", words.motion[i]) for i in range(count)]
    sentences = [opening + "。", "，".join(clauses) + "。"]
    relation = words.relation()
    if relation is not None:
        i, j, side = relation
        names = [_noun_zh(words, k, 0.0) for k in (i, j)]
        sentences.append(names[0] + words.pick(side).format(b=names[1]) + "。")
    extras = [words.pick("scenery", words.scene.place) + "。", words.pick("mood", words.scene.time_of_day) + "。"]
    if "light from" in words.one:
        extras.append(words.pick("light from", words.one["light from"]) + "。")
    return _fill(words, sentences, extras, words.pick("films", words.camera) + "。", "")


def _medium_zh(words: _Words) -> str:
    clauses = ["一个" + _noun_zh(words, i, 0.7) + words.pick("does", words.motion[i]) for i in range(len(words.scene.objects))]
    sentences = [words.pick("when", words.scene.time_of_day) + words.pick("where", words.scene.place) + "，" + "，".join(clauses) + "。"]
    relation = words.relation() if words.chance(0.6) else None
    if relation is not None:
        i, j, side = relation
        names = [_noun_zh(words, k, 0.0) for k in (i, j)]
        sentences.append(names[0] + words.pick(side).format(b=names[1]) + "。")
    if words.chance(0.3 if words.camera == "static" else 0.8):
        sentences.append(words.pick("films", words.camera) + "。")
    return "".join(sentences)


_WRITERS = {
    ("short", "en"): _short_en,
    ("medium", "en"): _medium_en,
    ("long", "en"): _long_en,
    ("short", "zh"): _short_zh,
    ("medium", "zh"): _medium_zh,
    ("long", "zh"): _long_zh,
}


def _strings(item: object) -> list[str]:
    if isinstance(item, str):
        return [item]
    return [text for part in (item.values() if isinstance(item, dict) else item) for text in _strings(part)]


@functools.cache
def vocabulary(stage: str = "S2") -> frozenset[str]:
    """All lowercase English words and single Chinese characters (with their punctuation) that a caption of a stage can have, or of one
    before it; mistyped words are not among them."""
    if stage not in STAGES:
        raise ValueError(f"stage={stage!r}: use one of {', '.join(STAGES)}.")
    tables = [(phrases.ENGLISH, phrases.CHINESE)]
    tables += [(story_phrases.ENGLISH, story_phrases.CHINESE)] if stage in ("S3", "S4") else []
    names = story_phrases.NAMES if stage == "S4" else ()
    english = " ".join(re.sub(r"\{\w+\}", " ", text) for table, _ in tables for text in [*_strings(table), *names])
    chinese = "".join(re.sub(r"\{\w+\}", "", text) for _, table in tables for text in [*_strings(table), *names])
    return frozenset(re.findall(r"[a-z]+", english.lower())) | frozenset(chinese)
