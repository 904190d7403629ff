"""The engine's rows: who takes them, who leaves when, and readers in several threads."""

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from company import BUILD, CHOICES, EARLY, LM, PROMPTS, alone, free
from torch import Tensor
from toys import LAYOUT, features, run, tiny_lm

from omni2.engine import BUFFER, Conversation, Engine
from omni2.errors import BusyError
from omni2.model import OmniLM


def test_the_text_row_of_a_pair_leaves_when_the_text_has_ended() -> None:
    engine = Engine(LM, slots=2)
    conversation = engine.submit(PROMPTS[EARLY])
    with pytest.raises(BusyError):
        engine.submit(BUILD.typed([1]))
    for step in conversation:
        if step.text == LAYOUT.eot:
            break
    guest = engine.submit(PROMPTS["spoken, text"])
    rest = list(conversation)
    assert rest
    assert all(step.text is None for step in rest)
    assert tuple(rest) == alone(EARLY, "greedy")[-len(rest) :]
    assert tuple(guest) == alone("spoken, text", "greedy")
    assert free(engine) == 2


def test_only_the_heads_in_use_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, calls = tiny_lm(), {"text": 0, "audio": 0, "rows": 0}

    def counted(name: str, call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def wrapper(hidden: Tensor) -> Tensor:
            calls[name] += len(hidden)
            return call(hidden)

        return wrapper

    monkeypatch.setattr(lm, "text_logits", counted("text", lm.text_logits))
    monkeypatch.setattr(lm, "audio_logits", counted("audio", lm.audio_logits))
    steps = run(Engine(lm), PROMPTS[EARLY])
    assert calls["audio"] == len(steps)
    assert calls["text"] == sum(step.text is not None for step in steps) < len(steps)
    calls.update(text=0, audio=0)
    steps = run(Engine(lm), PROMPTS["transcription"])
    assert (calls["text"], calls["audio"]) == (len(steps), 0)


@pytest.mark.parametrize("read", [0, 1, 5])
def test_closing_frees_all_rows_at_once(read: int) -> None:
    engine = Engine(LM, slots=3)
    conversation = engine.submit(PROMPTS["spoken, one row"])
    pair = engine.submit(PROMPTS["typed, speech, two rows"])
    for _ in range(read):
        next(pair)
    conversation.close()
    assert (engine.live, free(engine)) == (1, 1)
    pair.close()
    pair.close()
    assert (engine.live, free(engine)) == (0, 3)
    assert list(pair) == []
    assert list(conversation) == []


def test_closing_in_the_midst_of_reading_spares_the_others() -> None:
    engine = Engine(LM, slots=4)
    first, second = engine.submit(PROMPTS["transcription"]), engine.submit(PROMPTS["picture"])
    said = []
    for n, step in enumerate(second):
        said.append(step)
        if n == 3:
            first.close()
            assert engine.live == 1
    assert tuple(said) == alone("picture", "greedy")


def test_closing_an_ended_conversation_drops_what_was_not_read() -> None:
    engine = Engine(LM)
    unread, other = engine.submit(PROMPTS["transcription"]), engine.submit(PROMPTS["picture"])
    list(other)
    unread.close()
    assert list(unread) == []


@pytest.mark.parametrize("place", ["forward", "audio_logits", "text_logits"])
def test_closing_by_the_garbage_collector_within_a_step_harms_nobody(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dropped stream in a reference cycle dies whenever the collector runs: also inside a step of its own thread."""

    class Dropped:
        def __init__(self, conversation: Conversation) -> None:
            self.conversation, self.cycle = conversation, self

        def __del__(self) -> None:
            died.append(True)
            self.conversation.close()

    lm, died = tiny_lm(), []
    plain = getattr(lm, place)

    def collecting(x: Tensor, *rest: object) -> Tensor:
        step = place != "forward" or x.shape[1] == 1  # not the prefill
        if step and not died:
            gc.collect()
            assert died, "nothing was collected"
        result: Tensor = plain(x, *rest)
        return result

    monkeypatch.setattr(lm, place, collecting)
    engine, said = Engine(lm, slots=3), []
    reader = threading.Thread(target=lambda: said.extend(engine.submit(PROMPTS["spoken, text"])), daemon=True)
    gc.disable()
    try:
        Dropped(engine.submit(PROMPTS["spoken"]))
        reader.start()
        reader.join(20)
    finally:
        gc.enable()
    assert not reader.is_alive(), "deadlock"
    assert died
    assert tuple(said) == alone("spoken, text", "greedy")
    assert (engine.live, free(engine)) == (0, 3)


def test_a_full_engine_says_so_and_goes_on() -> None:
    engine = Engine(LM, slots=3)
    pair = engine.submit(PROMPTS["spoken"])
    with pytest.raises(BusyError, match="3"):
        engine.submit(PROMPTS["spoken"])
    single = engine.submit(PROMPTS["transcription"])
    with pytest.raises(BusyError):
        engine.submit(PROMPTS["transcription"])
    assert tuple(pair) == alone("spoken", "greedy")
    assert tuple(single) == alone("transcription", "greedy")
    assert tuple(engine.submit(PROMPTS["spoken"])) == alone("spoken", "greedy")


def test_rows_are_as_new_when_taken_again() -> None:
    engine = Engine(LM, slots=2)
    for _ in range(2):
        for kind in PROMPTS:
            assert tuple(run(engine, PROMPTS[kind])) == alone(kind, "greedy"), kind


def test_a_failing_prefill_gives_its_rows_back() -> None:
    engine = Engine(LM, slots=2)
    wrong = BUILD.spoken(features(5, width=3))
    for _ in range(3):
        with pytest.raises(RuntimeError):
            engine.submit(wrong)
    assert (engine.live, free(engine)) == (0, 2)
    assert tuple(run(engine, PROMPTS["spoken"])) == alone("spoken", "greedy")


def long_lm() -> OmniLM:
    """Its text never ends before its 200 positions."""
    lm = tiny_lm(block_size=200)
    heads = lm.text_logits

    def endless(hidden: Tensor) -> Tensor:
        return heads(hidden).index_fill(-1, torch.tensor([LAYOUT.eot]), -torch.inf)

    lm.text_logits = endless  # type: ignore[method-assign]
    return lm


def test_a_slow_reader_is_waited_for_while_the_others_go_on() -> None:
    engine, passes = Engine(long_lm(), slots=2), 0
    slow, quick = engine.submit(BUILD.typed([4, 5])), engine.submit(BUILD.typed([6]))
    turn = slow._turn
    for _ in quick:
        passes += 1
        assert len(turn.steps) == min(passes, BUFFER)
    assert passes > 2 * BUFFER
    assert tuple(slow) == tuple(run(Engine(long_lm()), BUILD.typed([4, 5])))


def test_many_threads_at_once() -> None:
    engine, jobs = Engine(LM, slots=20), [*PROMPTS, *PROMPTS]

    def job(n: int, kind: str) -> bool:
        choice = [*CHOICES][n % 2]
        conversation = engine.submit(PROMPTS[kind], CHOICES[choice])
        if n % 5 == 4:
            next(conversation)
            conversation.close()
            return next(conversation, None) is None
        return tuple(conversation) == alone(kind, choice)

    for kind in PROMPTS:
        alone(kind, "greedy"), alone(kind, "drawn")
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(job, range(len(jobs)), jobs))
    assert (engine.live, free(engine)) == (0, 20)


def test_closing_from_another_thread_ends_the_reading() -> None:
    engine = Engine(long_lm(), slots=2)
    conversation, said = engine.submit(BUILD.typed([4, 5])), []

    def read() -> None:
        for step in conversation:
            said.append(step)
            if len(said) == 3:
                started.set()

    started = threading.Event()
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert started.wait(20)
    conversation.close()
    reader.join(20)
    assert not reader.is_alive()
    assert (engine.live, free(engine)) == (0, 2)
    assert all(step.finish_reason is None for step in said[:3])
