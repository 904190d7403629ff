"""Phrases that stop an answer, found in transcripts that need not be spelled right; and words that stop nothing."""

import re
from collections.abc import Sequence

PHRASES = ("Stop Omni", "Omni, stop")
CLOSE = 0.2  # letters that may differ, of the phrase's
NEGATIONS = ("dont", "not", "never", "non", "cannot", "wont")
NODS = (
    "uh-huh", "uh huh", "mm-hmm", "mm", "hmm", "mhm", "yeah", "yes", "yep", "right", "okay", "ok", "sure", "i see",
    "really", "oh", "ah", "wow", "good", "great", "nice", "exactly", "all right", "that's right", "of course",
)  # fmt: skip
CALLS = ("wait", "stop", "no", "hold on", "hey", "enough", "quiet", "listen", "sorry", "excuse me")


def plain(text: str) -> list[str]:
    """The words of `text` in small letters alone."""
    return re.findall(r"[a-z0-9]+", text.lower().replace("'", "").replace("’", ""))


def folded(words: Sequence[str]) -> str:
    """Words as they sound more than as they are spelled, in one piece: "stop omney" and "Stop, Omni" are the same."""
    text = "".join(words)
    for spelled, sounds in (("ph", "f"), ("ck", "k"), ("ie", "i"), ("ee", "i"), ("ey", "i"), ("h", "")):
        text = text.replace(spelled, sounds)
    text = text.translate(str.maketrans("yckqzu", "ikkkso"))
    return re.sub(r"(.)\1+", r"\1", text)


def distance(a: str, b: str) -> int:
    """Letters to change, add or leave out to make `b` of `a` (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (one != other))
    return row[-1]


def ordered(text: str, phrases: Sequence[str] = PHRASES) -> bool:
    """Whether `text` ends in one of `phrases`, spelled somehow; "Don't stop, Omni" does not."""
    words = plain(text)
    for phrase in map(plain, phrases):
        sound = folded(phrase)
        for size in range(max(len(phrase) - 1, 1), len(phrase) + 2):
            before, said = words[:-size], words[-size:]
            if len(said) < size or (before and before[-1] in NEGATIONS) or said[0] in NEGATIONS:
                continue
            if distance(folded(said), sound) <= CLOSE * len(sound):
                return True
    return False


def begun(text: str, phrases: Sequence[str] = PHRASES) -> bool:
    """Whether `text` ends in the first word of one of `phrases`: the rest may follow."""
    words = plain(text)
    return bool(words) and any(
        words[-1] == plain(phrase)[0] and (len(words) < 2 or words[-2] not in NEGATIONS) for phrase in phrases
    )


def is_nod(text: str) -> bool:
    """Whether `text` is but what listeners say to show that they listen, once or several times."""
    rest = " ".join(plain(text))
    known = sorted((" ".join(plain(nod)) for nod in NODS), key=len, reverse=True)
    while rest:
        nod = next((nod for nod in known if rest == nod or rest.startswith(nod + " ")), None)
        if nod is None:
            return False
        rest = rest[len(nod) :].strip()
    return True


def is_call(text: str) -> bool:
    """Whether `text` is but a short word that asks for silence or attention."""
    words = " ".join(plain(text))
    return words in {" ".join(plain(call)) for call in CALLS}
