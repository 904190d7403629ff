"""Nothing that is kept for evaluation is built, overlooked in a folder, or among this package's own rows."""

from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from building import samples

from omni2.errors import InputError, OmniError
from omni2.train.data import leaks, own, pipeline
from omni2.train.data.leaks import Guard, check
from omni2.train.data.own import UNKNOWN_TIMES, own_rows
from omni2.train.data.pipeline import make
from omni2.train.data.questions import FIRST, UNKNOWN, UNKNOWN_SHARE, corpus
from omni2.train.data.schema import Row
from omni2.train.data.speak import Speak
from omni2.train.data.store import shard, write_shard


def test_reserved_voices_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="kept for evaluation"):
        Speak(("hibari", "piper-joe"), None)
    with pytest.raises(InputError, match="kept for evaluation"):
        Speak((), "festival-kal")
    with pytest.raises(InputError, match="no voice 'siri'"):
        Speak(("siri",), None)


def leaking(tmp_path: Path) -> tuple[Path, dict[str, Row]]:
    """A file kept for evaluation, and rows that must not be trained on."""
    kept = tmp_path / "kept" / "bell.wav"
    kept.parent.mkdir()
    kept.write_bytes(b"a recording")
    tested = corpus()[0].test[0].lower()
    return kept, {
        "voice": Row("1", "answer", "toy", "MIT", voice="flite-kal", question_text="hm"),
        "phrasing": Row("2", "transcribe", "toy", "MIT", question_text=tested),
        "read aloud": Row("3", "read", "toy", "MIT", answer_text=tested),
        "file": Row("4", "transcribe", "toy", "MIT", question_text="hm", sha256=leaks.digest(kept)),
    }


@pytest.mark.parametrize("which", ["voice", "phrasing", "read aloud", "file"])
def test_evaluation_data_are_neither_built_nor_overlooked(tmp_path: Path, which: str) -> None:
    kept, rows = leaking(tmp_path)
    guard = Guard([kept.parent])
    assert "evaluation" in guard.reason(rows[which])
    assert make([*samples(2), rows[which]], tmp_path / "built", [], guard=guard)["rows"] == 2
    assert check(tmp_path / "built", guard) == 2
    (tmp_path / "foreign").mkdir()
    write_shard([*samples(2), rows[which]], shard(tmp_path / "foreign", 0))
    pipeline.summarise(tmp_path / "foreign")
    with pytest.raises(OmniError, match=f"row {rows[which].key}: .*evaluation"):
        check(tmp_path / "foreign", guard)


def test_check_finds_damage_and_doubles(tmp_path: Path) -> None:
    make(samples(4), tmp_path, [], size=2)
    guard = Guard()
    assert check(tmp_path, guard) == 4
    write_shard(samples(2), shard(tmp_path, 1))
    with pytest.raises(OmniError, match=r"rows-00001.parquet is not what the manifest says; row .* twice"):
        check(tmp_path, guard)
    write_shard(samples(1), shard(tmp_path, 2))
    with pytest.raises(OmniError, match="not in the manifest"):
        check(tmp_path, guard)
    with pytest.raises(OmniError, match="does not exist"):
        Guard([tmp_path / "nowhere"])


def test_the_corpus_gives_training_phrasings_only() -> None:
    items = corpus()
    rows = own_rows("corpus", phrasings=3)
    tested = {text for item in items for text in item.test}
    known = {(text, item.answer) for item in items for text in item.train}
    assert {(row.question_text, row.answer_text) for row in rows if row.topic != "unknown"} <= known
    assert not tested & {row.question_text for row in rows}
    assert max(Counter(row.answer_text for row in rows if row.topic != "unknown").values()) == 3
    assert Counter(row.topic == "unknown" for row in rows)[True] == 3 * UNKNOWN_TIMES
    assert len({row.key for row in rows}) == len(rows)
    for limited in (rows, own_rows("corpus", phrasings=3, topics=FIRST)):
        outside = Counter(row.topic == "unknown" for row in limited[:400])[True] / 400
        assert abs(outside - UNKNOWN_SHARE) < 0.06  # as much as is drawn in training, however wide the scope
    answers = own_rows("answers")
    assert {row.answer_text for row in answers} >= {item.answer for item in items}
    first = {item.answer for item in corpus(FIRST)} | {UNKNOWN}
    for name in ("corpus", "answers"):
        assert {row.answer_text for row in own_rows(name, topics=FIRST)} == first
    assert {row.task for row in answers} == {"read"}


def test_dictionary_sentences_hold_some_out(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["".join(letters) for letters in product("aeiou", "klmnr", "aeiou", "st", "eo")]
    lists: dict[str, Callable[[], list[str]]] = {
        "examples": lambda: [f"The {word} sleeps." for word in words],
        "definitions": lambda: [f"A {word} is a thing." for word in words],
    }
    for module in (own, leaks):
        for name, made in lists.items():
            monkeypatch.setattr(module, name, made)
    monkeypatch.setattr(leaks, "WORDNET", Path(__file__))
    leaks.reserved_texts.cache_clear()
    guard = Guard()
    for name, task in (("sentences", "transcribe"), ("definitions", "read")):
        rows = own_rows(name)
        assert len(rows) == 300  # of 500
        assert {row.task for row in rows} == {task}
        texts = lists["examples" if task == "transcribe" else "definitions"]()
        refused = [text for text in texts if guard.reason(Row("k", "transcribe", "s", "MIT", question_text=text))]
        assert not {row.question_text for row in rows} & {*refused}
    leaks.reserved_texts.cache_clear()
