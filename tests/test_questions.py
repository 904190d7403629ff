"""The text corpus of the embedded model."""

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from omni2.train.data import questions
from omni2.train.data.questions import FIRST, UNKNOWN, Item, check, corpus, normalise, unknown

NUMBERS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17,
    "eighteen": 18, "nineteen": 19, "zero": 0,
}  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "one hundred")
NUMBERS |= {word: 10 * ten for ten, word in enumerate(TENS, 2)}
NUMBERS |= {f"{ten} {word}": NUMBERS[ten] + NUMBERS[word] for ten in TENS[:8] for word in list(NUMBERS)[:9]}


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return corpus()


def test_corpus_holds_every_rule(items: list[Item]) -> None:
    check([*items, unknown()])


def test_sizes(items: list[Item]) -> None:
    assert len(items) >= 1500
    assert len({item.answer for item in items}) == len(items)
    assert len({item.topic for item in items}) >= 12
    assert all(len(item.train) >= 8 and len(item.test) >= 3 for item in items)
    assert Counter(item.topic for item in items).keys() == set(questions.TOPICS)


def test_first_scope_is_part_of_the_whole(items: list[Item]) -> None:
    first = corpus(FIRST)
    assert len(first) == 340
    assert items[:340] == first


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        ("Austin is the capital of Texas.", "Which city is Texas's capital?"),
        ("The Netherlands are in Europe.", "Where are the Netherlands?"),
        ("In Brazil, people speak Portuguese.", "What language do people speak in Brazil?"),
        ("The plural of mouse is mice.", "What is the plural of mouse?"),
        ("The past of go is went.", "What is the past tense of go?"),
        ("An eagle is a bird.", "What kind of animal is an eagle?"),
        ("Raisins are made of dried grapes.", "What are raisins made of?"),
        ("Coconuts come from palm trees.", "Where do coconuts come from?"),
        ("Homer wrote the Odyssey.", "Who wrote the Odyssey?"),
        ("January comes after December.", "Which month comes after December?"),
    ],
)
def test_templates_are_filled(items: list[Item], answer: str, asked: str) -> None:
    found = {item.answer: (*item.train, *item.test) for item in items}
    assert asked in found[answer]


def test_articles_fit_their_words(items: list[Item]) -> None:
    otherwise = ("hour", "honor", "honest", "uni", "one", "euro")  # spelled with a vowel or not, spoken the other way
    for item in items:
        for sentence in (item.answer, *item.train[:12], *item.test):
            for article, word in pairwise(normalise(sentence).split()):
                if article in ("a", "an") and not word.startswith(otherwise) and len(word) > 1:
                    assert (article == "an") == (word[0] in "aeiou"), sentence


def test_order_is_the_same_each_time(items: list[Item]) -> None:
    assert corpus() == items


def test_train_test_and_intents_are_disjoint(items: list[Item]) -> None:
    train = [{normalise(q) for q in item.train} for item in items]
    test = [{normalise(q) for q in item.test} for item in items]
    assert sum(map(len, train)) == len(set().union(*train))
    assert sum(map(len, test)) == len(set().union(*test))
    assert not set().union(*train) & set().union(*test)


def test_unknown_is_wide_and_out_of_scope(items: list[Item]) -> None:
    other = unknown()
    assert other.answer == UNKNOWN
    assert other.topic == "unknown"
    assert len({normalise(q) for q in other.train}) >= 700
    assert len({normalise(q) for q in other.test}) >= 150
    in_scope = {normalise(q) for item in items for q in (*item.train, *item.test)}
    assert not in_scope & {normalise(q) for q in (*other.train, *other.test)}


def test_sums_are_right(items: list[Item]) -> None:
    operations = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}
    operations |= {"divided by": int.__floordiv__}
    pattern = re.compile(rf"(.+) ({'|'.join(operations)}) (.+) is (.+)")
    sums = [item.answer.lower().rstrip(".") for item in items if item.topic in ("arithmetic", "sums")]
    parts = [found.groups() for answer in sums if (found := pattern.fullmatch(answer))]
    assert len(parts) >= 150
    for first, operation, second, result in parts:
        assert operations[operation](NUMBERS[first], NUMBERS[second]) == NUMBERS[result], (first, operation, second)


def test_halves_doubles_and_neighbours_are_right(items: list[Item]) -> None:
    rules = {"half of (.+) is (.+)": (0, 2), "twice (.+) is (.+)": (0, 0.5), "(.+) comes after (.+)": (-1, 1)}
    rules |= {"(.+) comes before (.+)": (1, 1)}
    checked = 0
    for item in items:
        for pattern, (shift, factor) in rules.items():
            found = re.fullmatch(pattern, item.answer.lower().rstrip("."))
            if item.topic in ("sums", "counting") and found:
                first, second = (NUMBERS[word] for word in found.groups())
                assert first + shift == factor * second, item.answer
                checked += 1
    assert checked >= 50


def test_sums_are_asked_both_ways(items: list[Item]) -> None:
    (item,) = [item for item in items if item.answer == "Five plus seven is twelve."]
    assert {"What is five plus seven?", "What is seven plus five?"} <= set(item.train)


def test_normalise() -> None:
    assert normalise("What's the capital, please?") == "what is the capital please"
    assert normalise("I'm France's friend!") == "i am france's friend"


GOOD = Item("test", "There are three lights.", tuple(f"Which light is {c}?" for c in "abcdefgh"), ("A?", "B?", "C?"))


@pytest.mark.parametrize(
    ("bad", "finding"),
    [
        ([GOOD, replace(GOOD, answer="There are four lights.")], "asks for"),
        ([GOOD, replace(GOOD, train=tuple(f"Say {c}." for c in "abcdefgh"), test=("D?", "E?", "F?"))], "two intents"),
        ([replace(GOOD, answer="There are 3 lights.")], "characters"),
        ([replace(GOOD, answer="There are three caf\u00e9s.")], "characters"),
        ([replace(GOOD, answer="There are three lights")], "characters"),
        ([replace(GOOD, answer="There is " + "a very " * 9 + "long answer.")], "length of answer"),
        ([replace(GOOD, test=("What is " + "a very " * 9 + "long one?", "B?", "C?"))], "length of question"),
        ([replace(GOOD, test=("Which light is, a!", "B?", "C?"))], "is a training one"),
        ([replace(GOOD, test=("A?", "A!", "C?"))], "twice"),
        ([replace(GOOD, train=GOOD.train[:7])], "phrasings"),
        ([replace(GOOD, test=GOOD.test[:2])], "phrasings"),
    ],
)
def test_check_names_what_is_wrong(bad: list[Item], finding: str) -> None:
    check([GOOD])
    with pytest.raises(ValueError, match=finding):
        check(bad)


@pytest.mark.parametrize(
    "group",
    [
        {"answer": "{a} is it.", "columns": ["b"], "rows": [["x"]]},
        {"answer": "{a} is it.", "columns": ["a"], "rows": [["x", "y"]]},
    ],
)
def test_malformed_groups_are_refused(group: questions.Group) -> None:
    with pytest.raises(ValueError, match="column"):
        questions._expand("test", group)
