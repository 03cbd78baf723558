"""Write captions for scenes, and decide if a caption is true of a scene.

A caption carries the facts that it states, so that training knows which captions of a batch are true of which
pictures: "a circle" is true of every red circle in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tritonclip_server.demo.scenes import DIGITS, Scene

PLAIN_TEMPLATES = ("{}", "a photo of {}", "This is a photo of {}.", "a photo of {}.")
OTHER_TEMPLATES = (
    "a picture of {}",
    "This is a picture of {}.",
    "an image of {}",
    "This is an image of {}.",
    "a drawing of {}",
    "a blurry photo of {}.",
    "a close-up photo of {}.",
    "a bright photo of {}.",
    "a photo showing {}",
    "This photo shows {}.",
    "This is {}.",
    "There is {} in the picture.",
    "I see {}.",
    "{}.",
)
PLACES = {
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
    "centre": ("in the middle", "in the centre", "in the center"),
}
_PLURALS = {"cross": "crosses"}


@dataclass(frozen=True)
class Caption:
    """A sentence and the facts that it states, with the keys of `Scene.facts`."""

    text: str
    facts: dict[str, object] = field(hash=False)


def describes(captions: Sequence[Caption], scenes: Sequence[Scene]) -> np.ndarray:
    """Return the truth of every caption for every scene: bool [len(scenes), len(captions)]."""
    truth = np.ones((len(scenes), len(captions)), dtype=bool)
    facts = [scene.facts for scene in scenes]
    for key in facts[0]:
        stated = np.array([str(c.facts.get(key, "")) for c in captions])
        shown = np.array([str(f[key]) for f in facts])
        truth &= (stated == "")[None, :] | (stated[None, :] == shown[:, None])
    return truth


def write_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """Write one of the many captions that are true of a scene."""
    if rng.random() < 0.15:
        phrase, facts = _single_word(scene, rng)
    else:
        phrase, facts = _noun_phrase(scene, rng)
    templates = PLAIN_TEMPLATES if rng.random() < 0.7 else OTHER_TEMPLATES
    return Caption(templates[rng.integers(len(templates))].format(phrase), facts)


def _with_article(phrase: str, rng: np.random.Generator) -> str:
    """Prepend "a" or "an", sometimes the wrong one, as templates such as "a photo of a {}" do."""
    vowel = phrase[0] in "aeiou8"
    return f"an {phrase}" if vowel and rng.random() < 0.8 else f"a {phrase}"


def _single_word(scene: Scene, rng: np.random.Generator) -> tuple[str, dict[str, object]]:
    if rng.random() < 0.3:
        return scene.colour, {"colour": scene.colour}
    return _name(scene, rng), {"kind": scene.kind, "name": scene.name}


def _noun_phrase(scene: Scene, rng: np.random.Generator) -> tuple[str, dict[str, object]]:
    """Write a phrase such as "two small blue stars on a white background", and collect its facts."""
    facts: dict[str, object] = {"kind": scene.kind, "plural": len(scene.places) > 1}
    noun = _noun(scene, rng, facts)
    colour = ""
    if rng.random() < (0.85 if scene.kind == "shape" else 0.25):
        colour, facts["colour"] = scene.colour, scene.colour
    adjectives = [colour] if colour else []
    tail = []
    if colour and rng.random() < 0.08:
        adjectives, tail = [], [f"in {colour}"]
    if scene.size != "medium" and rng.random() < 0.2:
        facts["size"] = scene.size
        adjectives.insert(0, "big" if scene.size == "large" and rng.random() < 0.4 else scene.size)
    if scene.position and rng.random() < 0.15:
        facts["position"] = scene.position
        choices = PLACES[scene.position]
        tail.append(choices[rng.integers(len(choices))])
    if scene.background and rng.random() < 0.2:
        facts["background"] = scene.background
        grey = "gray" if rng.random() < 0.3 else "grey"
        tail.append(f"on a {grey if scene.background == 'grey' else scene.background} background")
    head = _quantity(scene, " ".join([*adjectives, noun]), rng, facts)
    return " ".join([head, *tail]), facts


def _quantity(scene: Scene, phrase: str, rng: np.random.Generator, facts: dict[str, object]) -> str:
    count = len(scene.places)
    if count > 1:
        if rng.random() < 0.2:
            return phrase
        facts["count"] = count
        return f"{count if rng.random() < 0.3 else DIGITS[count]} {phrase}"
    article = rng.random()
    if "digit " in phrase or "number " in phrase:  # a definite thing: "the digit 7"
        return f"the {phrase}" if article < 0.6 else phrase if article < 0.9 else f"a {phrase}"
    if article < 0.55:
        return _with_article(phrase, rng)
    if article < 0.85:
        return phrase
    return f"the {phrase}" if article < 0.95 else f"one {phrase}"


def _noun(scene: Scene, rng: np.random.Generator, facts: dict[str, object]) -> str:
    if rng.random() < 0.06:
        generic = "shape" if scene.kind == "shape" else "handwritten digit" if rng.random() < 0.5 else "digit"
        return generic + "s" * bool(facts["plural"])
    facts["name"] = scene.name
    name = _name(scene, rng)
    if scene.kind == "digit":
        forms = (
            "{}",
            "handwritten {}",
            "digit {}",
            "handwritten digit {}",
            "number {}",
            "handwritten number {}",
        )
        return forms[rng.choice(6, p=(0.15, 0.15, 0.3, 0.2, 0.15, 0.05))].format(name)
    return _PLURALS.get(name, name + "s") if facts["plural"] else name


def _name(scene: Scene, rng: np.random.Generator) -> str:
    if scene.kind == "digit" and rng.random() < 0.5:
        return str(DIGITS.index(scene.name))
    return scene.name
