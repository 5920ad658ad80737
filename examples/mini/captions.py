"""Say in many wordings what a clip is: templates, synonyms, any part of the attributes, in any order.

Each caption comes with what it requires: for every attribute that it mentions, the values that satisfy it. From
that, one can tell for any caption and any clip whether they fit, also across clips.
"""

from __future__ import annotations

import numpy as np
from compose import Truth

INSTRUMENT_WORDS = {
    "piano": ("piano", "grand piano", "acoustic piano"),
    "organ": ("organ", "drawbar organ", "electric organ"),
    "strings": ("strings", "string section", "violin"),
    "flute": ("flute", "wooden flute", "solo flute"),
    "bells": ("bells", "chimes", "glockenspiel", "music box"),
    "guitar": ("guitar", "acoustic guitar", "plucked guitar"),
    "synth": ("synth lead", "synthesizer", "synth", "analog synth"),
    "brass": ("brass", "trumpet", "horns"),
    "bass": ("bass guitar", "bass", "electric bass"),
    "voice": ("voice", "singing voice", "singer", "vocals"),
}
TEMPO_WORDS = {
    "slow": ("slow", "unhurried", "slow-paced", "leisurely"),
    "medium": ("mid-tempo", "moderate", "medium-paced", "walking-pace"),
    "fast": ("fast", "quick", "up-tempo", "rapid"),
}
LOUDNESS_WORDS = {
    "quiet": ("quiet", "soft", "hushed"),
    "medium": ("moderately loud", "medium-volume"),
    "loud": ("loud", "powerful", "forceful"),
}
REGISTER_WORDS = {
    "low": ("low", "deep", "low-pitched"),
    "high": ("high", "high-pitched", "high-register"),
}
GENRE_WORDS = {
    "ballad": ("ballad", "ballad with chords", "love song"),
    "waltz": ("waltz", "waltz in three", "three-four dance"),
    "dance": ("dance track", "club tune", "dance tune"),
    "rock": ("rock song", "rock tune", "rock groove"),
}
ARTIST_PHRASES = ("in the style of {}", "by {}", "as {} plays it")
DRUM_PHRASES = {
    "none": ("without drums", "with no drums", "no percussion"),
    "acoustic": ("with acoustic drums", "over a live drum kit", "with a drum kit", "with snare and kick drums"),
    "electronic": (
        "with electronic drums",
        "over an electronic beat",
        "with a drum machine",
        "with a four-on-the-floor beat",
    ),
}
DRUM_NOUNS = {
    "acoustic": ("acoustic drums", "live drums", "drum kit"),
    "electronic": ("electronic drums", "electronic beat", "drum machine"),
}
ANY_DRUM_PHRASES = ("with drums", "with a beat", "with percussion", "over drums")
ANY_DRUM_NOUNS = ("drums", "drums", "percussion")
MODE_PHRASES = {
    "major": ("in a major key", "in major", "in a major mode"),
    "minor": ("in a minor key", "in minor", "in a minor mode"),
}
MOODS = {  # a mood, and what must hold for a clip to have it
    "calm": {"tempo": ("slow", "medium"), "loudness": ("quiet", "medium"), "drums": ("none",)},
    "peaceful": {"tempo": ("slow",), "loudness": ("quiet", "medium"), "drums": ("none",)},
    "gentle": {"tempo": ("slow", "medium"), "loudness": ("quiet",)},
    "energetic": {"tempo": ("fast",), "loudness": ("medium", "loud")},
    "driving": {"tempo": ("fast", "medium"), "drums": ("acoustic", "electronic"), "loudness": ("medium", "loud")},
    "sad": {"mode": ("minor",), "tempo": ("slow", "medium")},
    "melancholic": {"mode": ("minor",), "loudness": ("quiet", "medium")},
    "happy": {"mode": ("major",), "tempo": ("medium", "fast")},
    "cheerful": {"mode": ("major",), "tempo": ("fast",)},
    "dark": {"mode": ("minor",), "register": ("low",)},
    "bright": {"register": ("high",)},
    "dramatic": {"mode": ("minor",), "loudness": ("loud",)},
}
# {adjectives} holds words, {phrases} what follows a noun; both may be empty. {drums} needs a clip that has some.
TEMPLATES = (
    "{a} {adjectives} {instrument} {noun} {phrases}",
    "{adjectives} {instrument} {noun} {phrases}",
    "{adjectives} {noun} played on {instrument} {phrases}",
    "{a} {adjectives} {noun} for {instrument} {phrases}",
    "{instrument} playing {a} {adjectives} {noun} {phrases}",
    "{adjectives} music with {instrument} {phrases}",
    "{a} {adjectives} {noun} with {instrument} {phrases}",
    "{noun} {phrases}, {adjectives}, {instrument}",
    "{adjectives} {instrument} {phrases}",
    "{adjectives} {noun} {phrases}",
    "{adjectives} {drums} with {a} {instrument}",
    "{drums} and {a} {adjectives} {instrument} {phrases}",
    "{adjectives} {drums}",
    "{adjectives} music {phrases}",
)
HELDOUT_TEMPLATES = (
    "this is {a} {adjectives} {noun} featuring {instrument} {phrases}",
    "{adjectives} {instrument} {phrases}, {noun}",
    "{a} recording of {instrument}: {adjectives} {noun} {phrases}",
    "{a} {adjectives} {instrument} {noun} {phrases} please",
)
PLAIN_NOUNS = ("melody", "piece", "tune", "theme")


def write_captions(truth: Truth, rng: np.random.Generator, num_captions: int, heldout: bool = False) -> list[dict]:
    """Captions of a clip: {"text": str, "requires": {attribute: [values that fit]}}.

    With `heldout`, sentences are built from templates that training never sees.
    """
    return [_write_caption(truth, rng, HELDOUT_TEMPLATES if heldout else TEMPLATES) for _ in range(num_captions)]


def _write_caption(truth: Truth, rng: np.random.Generator, templates: tuple[str, ...]) -> dict:
    def one_of(words: tuple[str, ...]) -> str:
        return str(words[rng.integers(len(words))])

    template = one_of(tuple(t for t in templates if "{drums}" not in t or truth.drums in DRUM_NOUNS))
    requires: dict[str, set[str]] = {}

    def require(attribute: str, values: tuple[str, ...]) -> None:
        requires[attribute] = requires.get(attribute, set(values)) & set(values)

    def say_drums(any_kind: tuple[str, ...], of_kind: dict[str, tuple[str, ...]]) -> str:
        if truth.drums != "none" and rng.random() < 0.5:
            require("drums", tuple(DRUM_NOUNS))
            return one_of(any_kind)
        require("drums", (truth.drums,))
        return one_of(of_kind[truth.drums])

    instrument = ""
    if "{instrument}" in template:
        instrument = one_of(INSTRUMENT_WORDS[truth.instrument])
        require("instrument", (truth.instrument,))
    drums = ""
    if "{drums}" in template:
        drums = say_drums(ANY_DRUM_NOUNS, DRUM_NOUNS)
    adjectives, phrases = [], []
    words = {"tempo": TEMPO_WORDS, "loudness": LOUDNESS_WORDS, "register": REGISTER_WORDS}
    for attribute, mentioned_share in (("tempo", 0.5), ("loudness", 0.35), ("register", 0.35)):
        if rng.random() < mentioned_share:
            adjectives.append(one_of(words[attribute][getattr(truth, attribute)]))
            require(attribute, (getattr(truth, attribute),))
    moods = [mood for mood, needs in MOODS.items() if all(getattr(truth, a) in values for a, values in needs.items())]
    if moods and rng.random() < 0.5:
        mood = one_of(tuple(moods))
        adjectives.append(mood)
        for attribute, values in MOODS[mood].items():
            require(attribute, values)
    if not drums and rng.random() < 0.5:
        phrases.append(say_drums(ANY_DRUM_PHRASES, DRUM_PHRASES))
    if rng.random() < 0.4:
        phrases.append(one_of(MODE_PHRASES[truth.mode]))
        require("mode", (truth.mode,))
    if rng.random() < 0.1:
        phrases.append(one_of(ARTIST_PHRASES).format(truth.artist))
        require("artist", (truth.artist,))
    noun = one_of(PLAIN_NOUNS)
    if "{noun}" in template and rng.random() < 0.5:
        noun = one_of(GENRE_WORDS[truth.genre])
        require("genre", (truth.genre,))
    rng.shuffle(adjectives)
    rng.shuffle(phrases)
    slots = {"adjectives": " ".join(adjectives), "phrases": " ".join(phrases), "instrument": instrument}
    text = template.format(a="@", noun=noun, drums=drums, **slots)
    return {"text": _tidy(text), "requires": {attribute: sorted(values) for attribute, values in requires.items()}}


def _tidy(text: str) -> str:
    """Drop what empty slots leave behind and choose between "a" and "an"."""
    words = [word for word in text.replace(" ,", ",").split() if word != ","]
    for i, word in enumerate(words):
        if word == "@":
            following = words[i + 1] if i + 1 < len(words) else ""
            words[i] = "an" if following[:1] in "aeiou" and not following.startswith("un") else "a"
    return " ".join(words).replace(",,", ",").strip(" ,")
