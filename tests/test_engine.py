"""The engine says the same tokens to everybody, alone or in company, up to the right end."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from company import BUILD, CHOICES, EARLY, LM, PROMPTS, alone, free
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import LAYOUT, greedy_reference, run

from omni2.config import Pick, Sampling
from omni2.engine import Conversation, Engine, Step
from omni2.errors import BusyError, ContextLengthError, InputError
from omni2.prompt import Prompt
from omni2.tokens import AUDIO_LAYERS


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
    engine = Engine(LM, slots=33)
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
            kind, choice = kinds[which], choices[n % 3]
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
