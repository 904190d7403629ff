"""The evaluation of answers: which questions, in which voices and places, and what counts as right."""

import json
from pathlib import Path

import numpy as np
import pytest
from deaf import Speaker, sound

from omni2.errors import InputError
from omni2.eval import asking, questions, sets
from omni2.eval.report import Table
from omni2.train.data.questions import UNKNOWN, Item, normalise
from omni2.train.data.voices import RESERVED

ITEMS = [
    Item("math", f"The answer is {n}.", (f"train {n}",), (f"test {n} a", f"test {n} b")) for n in ["one", "two", "six"]
]
LOST = Item("unknown", UNKNOWN, ("who knows",), ("what is love", "where is it"))


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Voices whose sounds are letters, a corpus of three answers of which the first version had one."""
    monkeypatch.setattr(asking, "say", lambda voice, text: sound(text))
    monkeypatch.setattr(questions, "corpus", lambda topics=None: ITEMS if topics is None else ITEMS[:1])
    monkeypatch.setattr(questions, "unknown", lambda: LOST)
    asking.spoken.cache_clear()
    yield
    asking.spoken.cache_clear()


def oracle(question: str) -> str:
    """Knows everything but six; noise makes no sense to it."""
    known = [item.answer for item in ITEMS[:2] if question in item.test]
    return known[0] if known else UNKNOWN


def figures(table: Table) -> dict[str, float]:
    return {figure.key: figure.value for figure in table.figures}


def test_cases_take_answers_evenly_and_ask_in_unseen_words_and_voices() -> None:
    drawn = questions.cases(ITEMS, 7)
    counts = [sum(case.answer == item.answer for case in drawn) for item in ITEMS]
    assert sorted(counts) == [2, 2, 3]
    assert all(any(case.question in item.test for item in ITEMS) for case in drawn)
    assert {case.voice for case in drawn} <= {*RESERVED}
    assert drawn == questions.cases(ITEMS, 7) != questions.cases(ITEMS, 7, seed=1)


def test_the_table_tells_right_answers_refusals_and_hard_places_apart() -> None:
    model = Speaker(oracle)
    asked = questions.ask_all(model, 6)
    assert len(asked.outside) == 2 * 6  # spoken and typed
    got = figures(questions.table(asked, model))
    assert (got["qa.answers"], got["qa.topics"]) == (3, 1)
    assert got["qa.spoken"] == got["qa.text"] == got["qa.typed"] == pytest.approx(200 / 3)
    assert got["qa.first"] == got["qa.unknown"] == got["qa.unknown.typed"] == 100
    assert got["qa.refused"] == pytest.approx(100 / 3)
    assert got["qa.noise"] == got["qa.room"] == got["qa.telephone"] == 0
    assert got["qa.topic.math"] == got["qa.spoken"]
    assert {key for key in got if key.startswith("qa.voice.")} <= {f"qa.voice.{name}" for name in RESERVED}


def test_wrong_answers_are_listed_with_what_was_understood() -> None:
    model = Speaker(oracle)
    asked = questions.ask(model, [questions.Case("math", "test six a", "flite-kal", "The answer is six.")], "speech")
    expected = f"flite-kal, clean, speech: test six a [test six a] → {UNKNOWN} (right: The answer is six.)"
    assert list(questions.wrong(asked, model)) == [expected]
    deaf = Speaker(oracle, frozenset({"answer"}))
    assert "[" not in next(questions.wrong(asked, deaf))


def test_an_answer_is_right_whatever_its_punctuation() -> None:
    case = questions.Case("math", "?", "flite-kal", "It's two, not one.")
    said = questions.Result(case, "typed", "clean", "it is two not one", sound(""))
    assert said.is_right
    assert not said.is_refusal
    assert normalise(UNKNOWN) == "i do not know that yet"


def test_places_change_the_sound_the_same_way_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    voice = (0.1 * rng.standard_normal(16_000)).astype(np.float32)
    monkeypatch.setattr(asking, "say", lambda name, text: voice)
    clean = asking.spoken("flite-kal", "hello")
    made = {place: asking.spoken("flite-kal", "hello", place) for place in questions.HARD}
    asking.spoken.cache_clear()
    for place, wave in made.items():
        assert wave.shape == clean.shape
        assert np.array_equal(wave, asking.spoken("flite-kal", "hello", place))
        assert np.abs(wave).max() == pytest.approx(10 ** (-3 / 20), abs=1e-4)
    gain = (made["noise"] @ clean) / (clean @ clean)
    noise = made["noise"] - gain * clean
    assert 10 * np.log10(np.square(gain * clean).mean() / np.square(noise).mean()) == pytest.approx(10, abs=0.5)
    spectrum = np.abs(np.fft.rfft(made["telephone"]))
    assert spectrum[:250].max() < 2e-2 * spectrum[300:3400].max()
    assert spectrum[3600:].max() < 2e-2 * spectrum[300:3400].max()


def test_many_questions_at_once_keep_their_order_and_their_errors() -> None:
    assert asking.together(lambda n: n * n, range(20), "squares") == [n * n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        asking.together(lambda n: 1 / n, [1, 0], "parts")


# ---- sets of others


def jsonl(folder: Path, records: list[dict[str, object]]) -> str:
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return str(folder / "mine.jsonl")


def test_a_set_of_others_is_read_typed_and_spoken(tmp_path: Path) -> None:
    (tmp_path / "one.wav").write_bytes(b"RIFF")
    records = [
        {"prompt": "test one a", "reference": "One"},
        {"prompt": "test two a", "reference": ["zwei", "answer is 2"], "audio": {"path": "one.wav", "bytes": None}},
        {"prompt": "test six a", "output": "six", "audio": "one.wav"},
    ]
    typed, listed, spoken = sets.cases(jsonl(tmp_path, records), 10)
    assert (typed.question, typed.references, typed.sound) == ("test one a", ("One",), None)
    assert listed.references == ("zwei", "answer is 2")
    assert listed.sound == spoken.sound == tmp_path / "one.wav"
    assert len(sets.cases(str(tmp_path), 1)) == 1


def test_a_set_of_others_is_judged_by_what_is_contained() -> None:
    cases = [
        sets.Case("test one a", ("One",), None),
        sets.Case("test two a", ("zwei", "the answer is 2"), None),
        sets.Case("test six a", ("six",), None),
    ]
    table = sets.table("some/mine.jsonl", sets.run(Speaker(oracle), cases))
    got = figures(table)
    assert got["qa.mine"] == pytest.approx(200 / 3)
    assert got["qa.mine.wer"] == pytest.approx(100 * (3 + 0 + 6) / (1 + 4 + 1))  # nearest references, after normalising
    assert table.notes == [sets.JUDGED]
    assert list(table.wrong) == [f"test six a → {UNKNOWN} (right: six)"]
    assert not sets.Result(sets.Case("?", ("on",), None), "The answer is one.").is_right


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"prompt": "hm"}, "prompt and reference; there are prompt"),
        ({"reference": "hm"}, "prompt and reference"),
        ({"prompt": "hm", "reference": "um"}, "prompt and reference"),
        ({"prompt": "hm", "reference": "x", "audio": "gone.wav"}, "gone.wav"),
    ],
)
def test_a_set_that_cannot_be_used_says_why(tmp_path: Path, record: dict[str, object], what: str) -> None:
    with pytest.raises(InputError, match=what):
        sets.cases(jsonl(tmp_path, [record]), 10)


def test_sets_of_the_hub_have_configurations_and_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    from omni2.train.data import readers

    asked = []

    def records(name: str, split: str, config: str | None = None) -> list[dict[str, str]]:
        asked.append((name, split, config))
        return [{"prompt": "a", "reference": "b"}]

    monkeypatch.setattr(readers, "records", records)
    for name in ("hlt-lab/voicebench", "hlt-lab/voicebench:sd-qa", "hlt-lab/voicebench:sd-qa:usa"):
        assert sets.cases(name, 5) == [sets.Case("a", ("b",), None)]
    repository = "hlt-lab/voicebench"
    assert asked == [(repository, "test", None), (repository, "test", "sd-qa"), (repository, "usa", "sd-qa")]
    assert sets.set_name("hlt-lab/voicebench:sd-qa:usa") == "sd-qa"
    assert sets.set_name("folder/mine.jsonl") == "mine"


def test_a_smaller_scope_is_asked_about_alone() -> None:
    model = Speaker(oracle)
    asked = questions.ask_all(model, 4, ITEMS[:1])
    assert {one.case.answer for one in asked.inside} == {ITEMS[0].answer}
    got = figures(questions.table(asked, model))
    assert got["qa.answers"] == 1
    assert got["qa.spoken"] == 100
    assert "qa.first" not in got
