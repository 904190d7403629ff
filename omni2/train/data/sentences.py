"""Plain English sentences to be read aloud: dictionary definitions (WordNet 3.0, Debian package `wordnet-base`)."""

import re
from pathlib import Path

import numpy as np

from omni2.errors import OmniError

WORDNET = Path("/usr/share/wordnet/data.noun")
_PLAIN = re.compile(r"[a-z' ,\-]+")


def definitions(path: Path = WORDNET, max_letters: int = 90) -> list[str]:
    """Noun definitions as sentences ("A hand ax is a stone tool with a cutting edge."), in the file's order.

    Raises OmniError if the dictionary is not installed.
    """
    if not path.exists():
        raise OmniError(f"{path} is missing; install WordNet (Debian: apt-get install wordnet-base)")
    sentences = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue
        head, _, gloss = line.partition(" | ")
        word = head.split(" ")[4].replace("_", " ")
        text = gloss.split(";")[0].split("(")[0].strip().rstrip(".,")
        if not (_PLAIN.fullmatch(word) and _PLAIN.fullmatch(text) and 12 <= len(text) <= max_letters - len(word)):
            continue
        article = "An" if word[0] in "aeiou" else "A"
        sentences.append(f"{article} {word} is {text}.")
    return sentences


def shuffled(sentences: list[str], seed: int) -> list[str]:
    """The same sentences in an order drawn from `seed`."""
    return [sentences[i] for i in np.random.default_rng(seed).permutation(len(sentences))]
