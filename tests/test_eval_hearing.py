"""How likely right answers are: what is told of them is what decoding does."""

from dataclasses import replace

import pytest

from omni2.errors import CheckpointError
from omni2.eval import asking, hearing
from omni2.eval.questions import Case, cases
from omni2.omni import OmniModel
from omni2.train.data.questions import corpus
from omni2.train.data.speak import say


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return OmniModel.from_pretrained("nano")


@pytest.fixture(autouse=True)
def one_voice(monkeypatch: pytest.MonkeyPatch) -> None:
    """All voices are hibari: the reserved ones are not on every machine."""
    monkeypatch.setattr(asking, "say", lambda voice, text: say("hibari", text))
    asking.spoken.cache_clear()
    yield
    asking.spoken.cache_clear()


@pytest.mark.parametrize("condition", ["clean", "telephone", None])
def test_right_is_what_greedy_decoding_would_say(model: OmniModel, condition: asking.Condition | None) -> None:
    asked = cases(corpus(), 8)
    said = []
    for case in asked:
        question = {"text": case.question} if condition is None else {}
        sound = [] if condition is None else [asking.spoken(case.voice, case.question, condition)]
        said.append(model.answer(*sound, **question, reply="text").text)
    own = [replace(case, answer=text) for case, text in zip(asked, said, strict=True)]
    other = [replace(case, answer=f"{text[:-1]} indeed.") for case, text in zip(asked, said, strict=True)]
    results = hearing.forced(model, [*own, *other], condition, "here")
    right = {one.case.answer: one.is_right for one in results}
    assert [right[case.answer] for case in own] == [True] * len(own)
    assert [right[case.answer] for case in other] == [False] * len(other)
    nats = {one.case.answer: one.nats for one in results}
    assert all(nats[a.answer] < nats[b.answer] for a, b in zip(own, other, strict=True))


def test_nats_are_those_of_a_question_alone(model: OmniModel) -> None:
    asked = cases(corpus(), 5)
    together = {one.case: one.nats for one in hearing.forced(model, asked, None, "typed")}
    for case in asked:
        (alone,) = hearing.forced(model, [case], None, "typed")
        assert alone.nats == pytest.approx(together[case], abs=1e-3)


def test_what_was_understood_is_likelier_than_what_was_not(model: OmniModel) -> None:
    case = Case("geography", "What is the capital of France?", "hibari", "The capital of France is Paris.")
    (clear,) = hearing.forced(model, [case], "clean", "clean")
    (typed,) = hearing.forced(model, [case], None, "typed")
    (lost,) = hearing.forced(model, [replace(case, question="What is the capital of Italy?")], "clean", "clean")
    assert clear.is_right
    assert typed.is_right
    assert not lost.is_right
    assert max(clear.nats, typed.nats) < 0.5 < lost.nats


def test_the_table_has_every_place_and_every_voice(model: OmniModel) -> None:
    table = hearing.run(model, corpus(), 6)
    counts = {figure.key: figure.count for figure in table.figures if not figure.detail}
    rights = {key: count for key, count in counts.items() if not key.endswith("nats") and key.count(".") == 1}
    assert rights.pop("hearing.spoken") == 6
    assert set(rights) == {f"hearing.{key}" for key in ("noise", "room", "telephone", "typed", "unknown")}
    assert {*rights.values()} == {2}
    voices = [figure.count for figure in table.figures if figure.key.startswith("hearing.spoken.") and figure.detail]
    assert sum(voices) == 2 * 6  # shares and nats


def test_compiled_weights_are_refused() -> None:
    fast = OmniModel.from_pretrained("nano", weights="int8")
    with pytest.raises(CheckpointError, match="float32"):
        hearing.forced(fast, cases(corpus(), 1), None, "typed")
