"""Plain English out of a dictionary (WordNet 3.0, Debian package `wordnet-base`): definitions, examples of use."""

import re
from pathlib import Path

import numpy as np

from omni2.errors import OmniError

WORDNET = Path("/usr/share/wordnet/data.noun")
EXAMPLE_WORDS = range(3, 13)
HELD_OUT = 200  # definitions, and as many examples, that no part is trained on: for measuring codec and transcription
_PLAIN = re.compile(r"[a-z' ,\-]+")
_QUOTED = re.compile(r'"([^"]+)"')
_EXAMPLE = re.compile(r"[A-Za-z][A-Za-z', ]*[a-z][?!]?")


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


def examples(folder: Path = WORDNET.parent, max_letters: int = 64) -> list[str]:
    """Example sentences of all four parts of speech ("The baby cut a tooth."), each once, in the files' order.

    Raises OmniError if the dictionary is not installed.
    """
    sentences: dict[str, None] = {}
    for path in (folder / f"data.{part}" for part in ("noun", "verb", "adj", "adv")):
        if not path.exists():
            raise OmniError(f"{path} is missing; install WordNet (Debian: apt-get install wordnet-base)")
        for line in path.read_text(encoding="utf-8").splitlines():
            for quoted in _QUOTED.findall("" if line.startswith("  ") else line):
                text = quoted.strip().rstrip(".,")
                if _EXAMPLE.fullmatch(text) and len(text) <= max_letters and len(text.split()) in EXAMPLE_WORDS:
                    sentences[text[0].upper() + text[1:] + ("" if text[-1] in "?!" else ".")] = None
    return list(sentences)


def shuffled(sentences: list[str], seed: int) -> list[str]:
    """The same sentences in an order drawn from `seed`."""
    return [sentences[i] for i in np.random.default_rng(seed).permutation(len(sentences))]


def split(sentences: list[str]) -> tuple[list[str], list[str]]:
    """The sentences in drawn order: those to train on, and the `HELD_OUT` ones to measure with."""
    mixed = shuffled(sentences, 0)
    return mixed[:-HELD_OUT], mixed[-HELD_OUT:]
