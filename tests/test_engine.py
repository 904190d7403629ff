import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import DRAWN, LAYOUT, features, greedy_reference, prompts, run, tiny_lm

from omni2.config import Pick, Sampling
from omni2.engine import BUFFER, Conversation, Engine, Step
from omni2.errors import BusyError, ContextLengthError, InputError
from omni2.model import OmniLM
from omni2.prompt import Prompt, PromptBuilder
from omni2.tokens import AUDIO_LAYERS

LM = tiny_lm()
PROMPTS = prompts()
CHOICES = {"greedy": Sampling(), "drawn": DRAWN}
BUILD = PromptBuilder(LAYOUT)
EARLY = "picture and speech"  # a pair whose text ends long before its speech


@cache
def alone(kind: str, choice: str) -> tuple[Step, ...]:
    """What a conversation says when it has the engine for itself."""
    return tuple(run(Engine(LM), PROMPTS[kind], CHOICES[choice]))


def free(engine: Engine) -> int:
    """How many one-row conversations still fit."""
    taken: list[Conversation] = []
    try:
        while True:
            taken.append(engine.submit(BUILD.typed([1])))
    except BusyError:
        return len(taken)
    finally:
        for conversation in taken:
            conversation.close()


# ---- the same tokens, alone or in company


@pytest.mark.parametrize("kind", PROMPTS)
def test_greedy_steps_are_those_of_plain_passes_without_cache(kind: str) -> None:
    assert list(alone(kind, "greedy")) == list(greedy_reference(LM, PROMPTS[kind]))


def test_toys_are_worth_testing_with() -> None:
    """Answers of many lengths and tokens, some of which end, and in some the text ends before the speech."""
    answers = [alone(kind, choice) for kind in PROMPTS for choice in CHOICES]
    assert len({len(steps) for steps in answers}) > 6
    assert {steps[-1].finish_reason for steps in answers} == {"end", "length"}
    assert max(len({step.text for step in steps}) for steps in answers) > 10
    assert 1 < sum(step.text is not None for step in alone(EARLY, "greedy")) < len(alone(EARLY, "greedy")) - 1


@pytest.mark.parametrize("choice", CHOICES)
def test_all_kinds_in_one_batch_say_what_each_says_alone(choice: str) -> None:
    engine = Engine(LM, slots=20)
    open_turns = {kind: engine.submit(prompt, CHOICES[choice]) for kind, prompt in PROMPTS.items()}
    said: dict[str, list[Step]] = {kind: [] for kind in PROMPTS}
    while open_turns:
        for kind in [*open_turns]:
            step = next(open_turns[kind], None)
            if step is None:
                del open_turns[kind]
            else:
                said[kind].append(step)
    assert said == {kind: list(alone(kind, choice)) for kind in PROMPTS}
    assert engine.live == 0


def test_read_one_after_the_other_they_say_the_same() -> None:
    engine = Engine(LM, slots=20)
    turns = {kind: engine.submit(prompt) for kind, prompt in PROMPTS.items()}
    for kind in reversed(PROMPTS):
        assert tuple(turns[kind]) == alone(kind, "greedy"), kind


actions = st.lists(
    st.tuples(st.sampled_from(["join", "read", "read", "read", "leave"]), st.integers(0, 10)), min_size=10, max_size=60
)


@given(actions)
@settings(max_examples=12, deadline=None)
def test_joins_and_leaves_between_any_steps_disturb_nobody(schedule: list[tuple[str, int]]) -> None:
    engine, kinds, choices = Engine(LM, slots=7), [*PROMPTS], [*CHOICES]
    turns: list[tuple[Iterator[Step], str, str, list[Step]]] = []
    for n, (action, which) in enumerate(schedule):
        if action == "join":
            kind, choice = kinds[which], choices[n % 2]
            try:
                turns.append((engine.submit(PROMPTS[kind], CHOICES[choice]), kind, choice, []))
            except BusyError:
                assert engine.live > 2
        elif turns:
            conversation, kind, choice, said = turns[which % len(turns)]
            if action == "leave":
                assert isinstance(conversation, Conversation)
                conversation.close()
                turns.pop(which % len(turns))
            else:
                said += [step] if (step := next(conversation, None)) else []
            assert tuple(said) == alone(kind, choice)[: len(said)]
    for conversation, kind, choice, said in turns:
        assert (*said, *conversation) == alone(kind, choice)
    assert engine.live == 0
    assert free(engine) == 7


# ---- rows


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


# ---- ends


def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    engine = Engine(LM, slots=2)
    block = LM.config.block_size
    for ids in ([1] * (block - 3), [1] * 3000):
        with pytest.raises(ContextLengthError, match=str(block)):
            engine.submit(BUILD.typed(ids))
    prompt = BUILD.typed([1, 2, 3])
    with pytest.raises(ContextLengthError, match=str(len(prompt))):
        engine.submit(prompt, Sampling(max_tokens=len(prompt)))
    assert len(run(engine, BUILD.typed([1] * (block - 4)))) >= 1
    assert free(engine) == 2


@pytest.mark.parametrize("kind", ["spoken", "spoken, text", "typed"])
def test_max_tokens_cuts_the_answer_and_says_so(kind: str) -> None:
    prompt, whole = PROMPTS[kind], alone(kind, "greedy")
    shorter = run(Engine(LM), prompt, Sampling(max_tokens=len(prompt) + 4))
    assert shorter[-1].finish_reason == "length"
    assert len(shorter) == 4
    assert [*shorter[:-1], replace(shorter[-1], finish_reason=None)] == list(whole[: len(shorter)])


def test_a_full_context_ends_the_answer() -> None:
    steps = alone("typed", "greedy")
    assert steps[-1].finish_reason == "length"
    assert len(steps) == LM.config.block_size - len(PROMPTS["typed"])
    assert all(step.finish_reason is None for step in steps[:-1])
    beyond = run(Engine(LM), PROMPTS["typed"], Sampling(max_tokens=10**6))
    assert tuple(beyond) == steps


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("choice", CHOICES)
def test_the_last_step_and_it_alone_says_why(kind: str, choice: str) -> None:
    *before, last = alone(kind, choice)
    assert all(step.finish_reason is None for step in before)
    text = [step.text for step in (*before, last) if step.text is not None]
    assert LAYOUT.eot not in text[:-1]
    if PROMPTS[kind].audio_out:
        codes = [step.codes for step in (*before, last)]
        assert all(step is not None and len(step) == AUDIO_LAYERS for step in codes)
        layer_6 = [step[-1] for step in codes if step]
        assert LAYOUT.eoa not in layer_6[:-1]
        assert (layer_6[-1] == LAYOUT.eoa) == (last.finish_reason == "end")
    else:
        assert all(step.codes is None for step in (*before, last))
        assert (text[-1] == LAYOUT.eot) == (last.finish_reason == "end")


# ---- readers


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


# ---- seeds


def drawn(prompt: Prompt, seed: int, text: Pick, audio: Pick, engine: Engine | None = None) -> list[Step]:
    return run(engine or Engine(LM), prompt, Sampling(text, audio, seed))


def test_a_seed_repeats_its_answer_and_others_differ() -> None:
    hot = Pick(2.0)
    answers = [drawn(PROMPTS["spoken"], seed, hot, hot) for seed in range(6)]
    assert answers == [drawn(PROMPTS["spoken"], seed, hot, hot) for seed in range(6)]
    assert len({tuple(answer) for answer in answers}) > 3


def test_a_seed_owes_nothing_to_neighbours_or_global_state() -> None:
    hot = Pick(2.0)
    expected = drawn(PROMPTS["typed"], 5, hot, hot)
    engine = Engine(LM)
    neighbour = engine.submit(PROMPTS["spoken"], Sampling(hot, hot, 5))
    next(neighbour)
    torch.manual_seed(99)
    assert drawn(PROMPTS["typed"], 5, hot, hot, engine) == expected
    torch.manual_seed(100)
    before = torch.random.get_rng_state()
    assert drawn(PROMPTS["typed"], 5, hot, hot) == expected
    assert torch.equal(torch.random.get_rng_state(), before)


def test_text_and_audio_are_picked_apart() -> None:
    """Greedy text stays greedy while the sound is drawn, and the other way round; seen at the first step."""
    prompt, hot = PROMPTS["spoken"], Pick(5.0)
    greedy = drawn(prompt, 0, Pick(), Pick())[0]
    sound = [drawn(prompt, seed, Pick(), hot)[0] for seed in range(8)]
    words = [drawn(prompt, seed, hot, Pick())[0] for seed in range(8)]
    assert {step.text for step in sound} == {greedy.text}
    assert len({step.codes for step in sound}) > 1
    assert {step.codes for step in words} == {greedy.codes}
    assert len({step.text for step in words}) > 1


@pytest.mark.parametrize("seed", [2**64, -(2**70), 1.5, "one"])
def test_impossible_seeds_are_refused_and_cost_no_rows(seed: object) -> None:
    engine = Engine(LM, slots=2)
    with pytest.raises(InputError, match="seed"):
        engine.submit(PROMPTS["spoken"], Sampling(seed=seed))  # type: ignore[arg-type]
    assert free(engine) == 2
