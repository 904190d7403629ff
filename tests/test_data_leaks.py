"""What is kept for evaluation is known to the guard, and differs from all that is trained on."""

import pytest

from omni2.eval import vision
from omni2.train.data import interruption, reserved
from omni2.train.data.leaks import Guard, digest
from omni2.train.data.near import NODS, near_phrases
from omni2.train.data.questions import ANSWER_WORDS, corpus, normalise, unknown
from omni2.train.data.schema import Row
from omni2.train.data.things import phrasings

CAPITALS = ["The capital of France is Paris.", "The capital of Italy is Rome.", "The capital of Peru is Lima."]
DAYS = ["Monday comes after Sunday.", "Tuesday comes after Monday."]


def read(text: str) -> Row:
    return Row("1", "read", "toy", "MIT", answer_text=text)


def test_the_reserved_artists_drawings_are_guarded():
    row = Row("1", "see", "toy", "MIT", question_text="what is it", sha256=digest(vision.FONT))
    assert "kept for evaluation" in Guard().reason(row)
    assert Guard().reason(Row("2", "see", "toy", "MIT", question_text="what is it", sha256="0" * 64)) == ""


def test_texts_made_to_measure_with_are_guarded():
    guard = Guard()
    for text in (
        reserved.new_sentences()[0],
        reserved.new_sentences()[-1],
        reserved.NEAR[0],
        phrasings("name", "test")[0],
    ):
        assert "kept for evaluation" in guard.reason(read(text.lower()))


def test_texts_made_to_measure_with_are_no_training_texts():
    trained = {normalise(text) for item in (*corpus(), unknown()) for text in (item.answer, *item.train)}
    trained |= {normalise(text) for text in (*interruption.PHRASES, *near_phrases(), *NODS)}
    trained |= {normalise(text) for about in ("name", "colour", "count") for text in phrasings(about, "train")}
    made = [normalise(text) for text in reserved.made_texts()]
    assert len(set(made)) == len(made) > reserved.NEW
    assert not trained & {*made}


def test_new_sentences_are_made_of_the_words_of_answers():
    words = {word for item in (*corpus(), unknown()) for word in item.answer.split()}
    sentences = reserved.new_sentences()
    assert len(sentences) == reserved.NEW
    assert all({*sentence.split()} <= words and len(sentence.split()) in ANSWER_WORDS for sentence in sentences)


def test_sentences_are_joined_where_they_are_alike():
    known = {normalise(text) for text in (*CAPITALS, *DAYS)}
    made = reserved.recombined([CAPITALS, DAYS], known, 100)
    assert {*made} >= {"The capital of France is Rome.", "The capital of Peru is Paris.", "Monday comes after Monday."}
    assert len(made) == len(set(made))
    assert not known & set(map(normalise, made))
    assert not [text for text in made if text.startswith(("Monday", "Tuesday")) and "capital" in text]
    assert made == reserved.recombined([CAPITALS, DAYS], known, 100)
    assert reserved.recombined([CAPITALS], known | set(map(normalise, made)), 5) == []


@pytest.mark.parametrize("count", [4, 8])
def test_no_topic_begins_more_than_its_share(count: int):
    numbers = [f"{a} plus {b} is {a}." for a in "Two Three Four Five Six".split() for b in ("seven", "eight", "nine")]  # noqa: SIM905
    made = reserved.recombined([numbers, CAPITALS], set(), count)
    assert sum("plus" in text for text in made) <= reserved.MOST * count
