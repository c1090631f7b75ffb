"""English sentences by a small grammar of phrases.txt: as many as wanted, the same for the same seed."""

import functools
import random
import re
from pathlib import Path

FORMS = (
    "{people} {deeds} {things} {places}.",
    "{times}, {people} {deeds} {things}.",
    "{people} {deeds} {things} {clauses}.",
    "Who {deeds} {things} {places}?",
    "{places}, {people} {deeds} {things} {times}.",
    "Do you know why {people} {deeds} {things}?",
    "{people} {deeds} {things}, {clauses}.",
)


def sentences(count: int, seed: int) -> list[str]:
    """`count` different sentences. The first n of them do not depend on `count`."""
    chance, found = random.Random(seed), dict[str, None]()
    while len(found) < count:
        form = chance.choice(FORMS)
        text = form.format(**{name: chance.choice(choices) for name, choices in phrases().items()})
        found[text[0].upper() + text[1:]] = None
    return list(found)


@functools.cache
def phrases() -> dict[str, list[str]]:
    """Kind -> phrases of that kind."""
    text = (Path(__file__).parent / "phrases.txt").read_text(encoding="utf-8")
    sections = re.split(r"^(\w+):$", text, flags=re.MULTILINE)[1:]
    return {
        kind: [" ".join(phrase.split()) for phrase in body.split("|")]
        for kind, body in zip(sections[::2], sections[1::2], strict=True)
    }
