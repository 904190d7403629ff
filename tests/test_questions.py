"""The text corpus of the embedded model."""

from collections import Counter
from dataclasses import replace

import pytest

from omni2.train.data import questions
from omni2.train.data.questions import UNKNOWN, Item, check, corpus, normalise, unknown

NUMBERS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17,
    "eighteen": 18, "twenty": 20, "twenty five": 25,
}  # fmt: skip


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return corpus()


def test_corpus_holds_every_rule(items: list[Item]) -> None:
    check([*items, unknown()])


def test_sizes(items: list[Item]) -> None:
    assert len(items) >= 300
    assert len({item.answer for item in items}) == len(items)
    assert len({item.topic for item in items}) >= 6
    assert all(len(item.train) >= 8 and len(item.test) >= 3 for item in items)
    assert Counter(item.topic for item in items).keys() == set(questions.TOPICS)


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
    assert len({normalise(q) for q in other.test}) >= 100
    in_scope = {normalise(q) for item in items for q in (*item.train, *item.test)}
    assert not in_scope & {normalise(q) for q in (*other.train, *other.test)}


def test_sums_are_right(items: list[Item]) -> None:
    operations = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}
    sums = [item.answer for item in items if item.topic == "arithmetic"]
    assert len(sums) >= 90
    for answer in sums:
        left, result = answer.lower().rstrip(".").split(" is ")
        first, operation, second = left.split()
        assert operations[operation](NUMBERS[first], NUMBERS[second]) == NUMBERS[result], answer


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
