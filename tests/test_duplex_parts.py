"""The parts of a conversation in both directions: phrases, words heard, turns remembered, echo, the end of a turn."""

import numpy as np
import pytest
from duplex import CAPITAL, WEEK, likeness
from hypothesis import given
from hypothesis import strategies as st

from omni2.duplex.ear import Frame
from omni2.duplex.echo import BLOCK, EchoCanceller
from omni2.duplex.heard import Memory, Words
from omni2.duplex.judge import EVERY, SOON, Judge
from omni2.duplex.listeners import Opinion, Order
from omni2.duplex.phrases import begun, distance, folded, is_call, is_nod, ordered
from omni2.duplex.turns import LONG, SHORT, UNSURE, patience
from omni2.duplex.vad import WINDOW

RATE = 24_000


@pytest.mark.parametrize(
    "text", ["Stop Omni.", "stop, omney", "Stop Omnie!", "Please stop omni", "Omni, stop.", "stopp omny"]
)
def test_orders_however_spelled(text: str) -> None:
    assert ordered(text)


@pytest.mark.parametrize(
    "text",
    ["Don't stop, Omni.", "Never stop Omni", "Stop Omni is what I said", "The bus stop.", "Stop Tony.", "Stop.",
     "Omni.", "Stow a pony.", "Omni, go on.", "What is the capital of France?", ""],
)  # fmt: skip
def test_no_orders(text: str) -> None:
    assert not ordered(text)


def test_an_order_may_be_begun() -> None:
    assert begun("Please stop")
    assert not begun("Don't stop")
    assert not begun("Stop the car")


def test_nods_and_calls() -> None:
    assert all(map(is_nod, ("Uh-huh.", "Right.", "Yeah, right. Okay!", "I see.", "Mm-hmm")))
    assert not any(map(is_nod, ("Right now I want this", "Wait!", "See you")))
    assert is_call("Wait!")
    assert not is_call("Wait for me")


@given(st.text("abcd", max_size=6), st.text("abcd", max_size=6), st.text("abcd", max_size=6))
def test_distance_is_one(a: str, b: str, c: str) -> None:
    assert distance(a, b) == distance(b, a)
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, c) <= distance(a, b) + distance(b, c)


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz", max_size=8), max_size=4))
def test_folding_twice_is_folding_once(words: list[str]) -> None:
    assert len(folded(words)) <= len("".join(words))


@given(played=st.integers(0, 5 * RATE))
def test_words_are_heard_once_half_of_them_was_said(played: int) -> None:
    words = Words(RATE)
    for index, word in enumerate(["One ", "two ", "thr", "ee ", "four."]):
        words.add(word, index * RATE)
    made = 5 * RATE
    heard = words.heard(played, made, True).split()
    assert "".join(heard) == "".join(words.text.split()[: len(heard)])
    middles = [0.5, 1.5, 3.0, 4.5]  # of "One", "two", "three", "four."
    assert len(heard) == sum(played >= middle * RATE for middle in middles)


@given(st.integers(0, 100), st.integers(0, 100))
def test_more_played_is_more_heard(a: int, b: int) -> None:
    words = Words(RATE)
    words.add("What a fine day it is", None)
    first, second = (words.heard(share * RATE // 25, 4 * RATE, True) for share in sorted((a, b)))
    assert second.startswith(first)
    assert words.heard(4 * RATE, 4 * RATE, True) == "What a fine day it is"
    assert words.heard(RATE // 5, RATE // 5, False).count(" ") < 2  # much of it is still to be said


def test_the_oldest_turns_leave() -> None:
    memory = Memory(20, lambda text: len(text.split()))
    for number in range(6):
        memory.add(f"question {number}", "a short answer")
    assert [question for question, _ in memory.turns] == ["question 4", "question 5"]
    memory.add("nothing heard", " ")
    assert len(memory) == 2
    memory.add("a " * 30, "too long")
    assert memory.turns == ()


def test_the_filter_learns_the_way_of_an_echo() -> None:
    rng = np.random.default_rng(0)
    far = np.concatenate([CAPITAL, WEEK, CAPITAL, WEEK])
    far = far[: len(far) // BLOCK * BLOCK]
    way = np.zeros(1500)
    way[400] = 0.6
    way[420:1500] = 0.05 * rng.standard_normal(1080) * np.exp(-np.linspace(0, 6, 1080))
    echo = np.convolve(far, way)[: len(far)].astype(np.float32)
    near = np.zeros(len(far), np.float32)
    near[-len(WEEK) :] = 0.5 * WEEK
    canceller = EchoCanceller()
    rest, left = canceller.push(echo + near, far)
    early, late = slice(0, 8_000), slice(len(CAPITAL) + 8_000, len(far) - len(WEEK))
    power = [np.square(echo[part]).mean() / np.square(rest[part]).mean() for part in (early, late)]
    assert 10 * np.log10(power[1]) > 12  # dB
    assert left > 0
    assert likeness(rest[-len(WEEK) :], WEEK)[0] > 0.9  # who speaks over it stays


def test_without_an_echo_nothing_is_taken_away() -> None:
    heard = CAPITAL[: len(CAPITAL) // BLOCK * BLOCK]
    rest, left = EchoCanceller().push(heard, 0 * heard)
    assert np.allclose(rest, heard)
    assert left == 0


def test_patience_falls_with_certainty() -> None:
    waits = [patience(share / 10) for share in range(11)]
    assert waits == sorted(waits, reverse=True)
    assert (waits[0], waits[-1], patience(None)) == (LONG, SHORT, UNSURE)


def test_an_order_is_one_when_three_questions_in_a_row_find_it_likely() -> None:
    judge = Judge()
    assert [judge.take(likely) for likely in (0.9, 0.9, 0.1, 0.9, 0.9)] == [False] * 5  # a moment each
    assert judge.take(0.8)
    judge.reset()
    assert [judge.take(likely) for likely in (0.99, 0.3, 0.55)] == [False, False, True]  # by all of them
    assert [judge.take(likely) for likely in (0.55, 0.55, 0.55)] == [False] * 3  # those before no longer count
    assert not Judge().take(1.0)


def test_who_suspects_an_order_asks_again_soon() -> None:
    judge, waits = Judge(), []
    for likely in (0.1, 0.3, 0.9, 0.0):
        judge.take(likely)
        waits.append(judge.wait)
    assert waits == [EVERY, SOON, SOON, EVERY]
    assert SOON < EVERY


class Hearing:
    """A model that finds an order as likely as it is told, question by question."""

    def __init__(self, *likely: float) -> None:
        self.likely = list(likely)

    def ordered(self, audio: np.ndarray) -> float:
        return self.likely.pop(0) if self.likely else 0.0


@pytest.mark.parametrize(
    ("likely", "worst"),
    [
        ((0.1, 0.1), Opinion.NOTHING),
        ((0.9, 0.1, 0.9, 0.9), Opinion.SUSPICION),
        ((0.8, 0.8, 0.8), Opinion.STOP),
        ((0.99, 0.99), Opinion.SUSPICION),
    ],
)
def test_a_listener_for_orders_doubts_a_moment_and_obeys_three(likely: tuple[float, ...], worst: Opinion) -> None:
    listener = Order(Hearing(*likely))
    voice = Frame(0, np.full(WINDOW, 0.1, np.float32), 1.0, -20.0, -80.0, -100.0)
    opinions = [listener.push(voice) for _ in range(4 * 8)]
    assert max(opinions) is worst
