"""The likeliest text is found: by the search alone, and by the engine, whose rows it takes and gives back."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import exp

import pytest
import torch
from company import BUILD, EARLY, LM, PROMPTS, alone, free
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import LAYOUT, features, run, tiny_bundle, tone

from omni2.config import GREEDY, Pick, Sampling, Seek
from omni2.engine import Engine, Step
from omni2.errors import BusyError, InputError
from omni2.model import OmniLM
from omni2.omni import OmniModel
from omni2.prompt import Prompt
from omni2.search import Search
from omni2.tokens import AUDIO_LAYERS
from omni2.words import WordStream

SEARCHED = [kind for kind, prompt in PROMPTS.items() if prompt.paired or not prompt.audio_out]
END, LONGEST = 3, 3  # of the texts below: ids 0, 1 and 2 until `END`


def logits(seed: int, text: tuple[int, ...]) -> Tensor:
    """What some model thinks may follow `text`; after `LONGEST` ids only the end may."""
    number = seed
    for token in text:
        number = 5 * number + token + 1
    found = 2 * torch.randn(END + 1, generator=torch.Generator().manual_seed(number))
    return found if len(text) < LONGEST else torch.tensor([-torch.inf] * END + [0.0])


def searched(seed: int, beams: int, weights: tuple[float, ...] = (1.0,)) -> tuple[int, ...]:
    search, texts, most = Search(beams, END, weights), [()], 0.0
    while texts:
        most = search.most
        ways = [[logits(seed + way, text) for way in range(len(weights))] for text in texts]
        grown = search.grow(torch.stack([torch.stack(each) for each in ways]))
        assert len(grown) <= beams
        texts = [(*texts[parent], token) for parent, token in grown]
    best = search.best()
    *text, end = best.ids
    assert end == END
    assert best.score <= most + 1e-6
    whole = sum(weight * score(seed + way, tuple(text)) for way, weight in enumerate(weights))
    assert best.score == pytest.approx(whole, abs=1e-4)
    return tuple(text)


def score(seed: int, text: tuple[int, ...]) -> float:
    return float(sum(logits(seed, text[:n]).log_softmax(-1)[token] for n, token in enumerate((*text, END))))


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 2.0]))
@settings(max_examples=60, deadline=None)
def test_enough_beams_find_the_likeliest_of_all_texts(seed: int, weight: float) -> None:
    every = [text for length in range(LONGEST + 1) for text in product(range(END), repeat=length)]
    best = max(every, key=lambda text: score(seed, text) + weight * score(seed + 1, text))
    assert searched(seed, END**LONGEST, (1.0, weight)) == best


def test_few_beams_find_likelier_texts_than_one_and_one_takes_the_likeliest_tokens() -> None:
    better = 0
    for seed in range(200):
        greedy: tuple[int, ...] = ()
        while (token := int(logits(seed, greedy).argmax())) != END:
            greedy = (*greedy, token)
        assert searched(seed, 1) == greedy
        better += score(seed, searched(seed, 2)) > score(seed, greedy) + 1e-6
    assert better > 20


@pytest.mark.parametrize("beams", [2, 3])
def test_texts_that_end_take_no_place_of_those_that_go_on(beams: int) -> None:
    for seed in range(200):
        texts: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        ended: list[tuple[float, tuple[int, ...]]] = []
        while texts:
            every = [
                (total + float(share), (*text, token))
                for total, text in texts
                for token, share in enumerate(logits(seed, text).log_softmax(-1))
                if share > -torch.inf
            ]
            texts = sorted((one for one in every if one[1][-1] != END), reverse=True)[:beams]
            ended += [one for one in every if one[1][-1] == END and (not texts or one > texts[-1])]
            texts = [one for one in texts if not ended or one > max(ended)]
        assert searched(seed, beams) == max(ended)[1][:-1]


@torch.no_grad()
def reference(
    lm: OmniLM, prompt: Prompt, seek: Seek, room: int | None = None, second: Prompt | None = None
) -> Iterator[Step]:
    """The steps of `prompt` with the text that a search finds, by passes over all that came before, without engine."""
    nothing = [LAYOUT.pad_audio] * AUDIO_LAYERS

    def after(asked: Prompt, steps: list[list[int]], written: bool = False) -> Tensor:
        ids = asked.ids.clone()
        if written:
            ids[:AUDIO_LAYERS, -1] = LAYOUT.pad_audio
        longer = torch.cat([ids, torch.tensor(steps, dtype=ids.dtype).reshape(-1, AUDIO_LAYERS + 1).T], 1)
        return lm(lm.embed(longer[None], [asked.spans]))[0, -1]

    def shares(text: tuple[int, ...]) -> Tensor:
        steps = [[*nothing, token] for token in text]
        logs = [lm.text_logits(after(way, steps, written=True)).float().log_softmax(-1) for way in ways]
        return logs[0] + (seek.cascade * logs[1] if len(logs) > 1 else 0.0)

    ways = [prompt] if second is None else [prompt, second]
    room = room or lm.config.block_size - max(map(len, ways))
    texts: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    ended: list[tuple[float, tuple[int, ...]]] = []
    for _ in range(room):
        longer = []
        for total, text in texts:
            longer += [(total + float(share), (*text, token)) for token, share in enumerate(shares(text))]
        longer.sort(reverse=True)
        texts = [one for one in longer if one[1][-1] != LAYOUT.eot][: seek.beams]
        ended += [one for one in longer if one[1][-1] == LAYOUT.eot and one > texts[-1]]
        texts = [one for one in texts if not ended or one > max(ended)]
        if not texts:
            break
    text = (max(ended) if ended else texts[0])[1]
    if not prompt.audio_out:
        yield from [Step(None, token) for token in text[:-1]]
        yield Step(None, text[-1], "end" if ended else "length")
        return
    said: list[list[int]] = []
    room = lm.config.block_size - len(prompt) if second else room
    for n in range(room):
        codes = tuple(lm.audio_logits(after(prompt, said)).argmax(-1).tolist())
        word = text[n] if n < len(text) else None
        said.append([*codes, LAYOUT.pad_text if word in (None, LAYOUT.eot) else word])
        over = codes[-1] == LAYOUT.eoa
        yield Step(codes, word, "end" if over else "length" if n + 1 == room else None)
        if over:
            return


@pytest.mark.parametrize("kind", SEARCHED)
def test_the_engine_tells_what_a_search_by_plain_passes_finds(kind: str) -> None:
    assert alone(kind, "searched") == tuple(reference(LM, PROMPTS[kind], Seek(3)))


@pytest.mark.parametrize("kind", ["spoken", "spoken, text", "picture and speech"])
@pytest.mark.parametrize("beams", [1, 2])
def test_the_engine_weighs_two_ways_of_asking(kind: str, beams: int) -> None:
    prompt, second, seek = PROMPTS[kind], PROMPTS["typed, speech, two rows"], Seek(beams, 0.6)
    engine = Engine(LM, slots=9)
    neighbour = engine.submit(PROMPTS["transcription"], Sampling(seek=Seek(3)))
    asked = engine.submit(prompt, Sampling(seek=seek), second)
    assert free(engine) == 6 - 2 * beams
    assert list(asked) == list(reference(LM, prompt, seek, second=second))
    assert list(asked) != list(reference(LM, prompt, Seek(beams)))
    assert tuple(neighbour) == alone("transcription", "searched")
    assert free(engine) == 9
    longer = BUILD.typed([1] * LM.config.block_size)
    assert run(Engine(LM), prompt, Sampling(seek=seek)) == [*Engine(LM).submit(prompt, Sampling(seek=seek), longer)]


def test_toys_are_worth_searching_with() -> None:
    """Searches find texts that greedy decoding does not, of several lengths, written and spoken."""
    other = [kind for kind in SEARCHED if alone(kind, "searched") != alone(kind, "greedy")]
    assert len({PROMPTS[kind].audio_out for kind in other}) == 2
    assert len({len(alone(kind, "searched")) for kind in other}) > 2


@pytest.mark.parametrize("kind", ["spoken", "spoken, text", "typed"])
def test_no_room_ends_a_search(kind: str) -> None:
    prompt = PROMPTS[kind]
    steps = run(Engine(LM), prompt, Sampling(max_tokens=len(prompt) + 3, seek=Seek(2)))
    assert steps == list(reference(LM, prompt, Seek(2), 3))
    assert (len(steps), steps[-1].finish_reason) == (3, "length")
    assert LAYOUT.eot not in [step.text for step in steps]


def test_a_text_cut_for_want_of_room_is_all_that_is_spoken() -> None:
    """Where words and not the sound of a question fill the context, speech goes on without text."""
    limit = LM.config.block_size
    second = BUILD.typed([5] * (limit - 7))
    steps = list(Engine(LM).submit(PROMPTS["spoken"], Sampling(seek=Seek(2, 0.1)), second))
    told = limit - len(second)
    assert len(steps) > told > 0
    assert [step.text is not None for step in steps] == [n < told for n in range(len(steps))]
    assert LAYOUT.eot not in [step.text for step in steps]


def test_speech_whose_text_is_its_own_is_not_searched() -> None:
    for kind in set(PROMPTS) - set(SEARCHED):
        assert alone(kind, "searched") == alone(kind, "greedy")


@torch.no_grad()
@pytest.mark.parametrize("kind", [EARLY, "spoken, text"])
def test_a_conversation_knows_how_likely_the_text_found_is(kind: str) -> None:
    prompt, engine = PROMPTS[kind], Engine(LM, slots=3)
    steps = alone(kind, "searched")
    total, ids = 0.0, prompt.ids.clone()
    ids[:AUDIO_LAYERS, -1] = LAYOUT.pad_audio
    for token in (step.text for step in steps if step.text is not None):
        logs = LM.text_logits(LM(LM.embed(ids[None], [prompt.spans]))[0, -1]).float().log_softmax(-1)
        total += float(logs[token])
        ids = torch.cat([ids, torch.tensor([[*[LAYOUT.pad_audio] * AUDIO_LAYERS, token]]).T], 1)
    conversation = engine.submit(prompt, Sampling(seek=Seek(3)))
    assert conversation.likely(exp(total) * 0.999)
    assert engine.live == (kind == EARLY)  # a written answer is whole then
    assert not conversation.likely(exp(total) * 1.001)
    assert tuple(conversation) == steps
    assert not Engine(LM).submit(prompt).likely(1e-300)


def test_a_search_for_what_is_too_unlikely_is_told_at_once() -> None:
    engine = Engine(LM)
    conversation = engine.submit(PROMPTS[EARLY], Sampling(seek=Seek(3)))
    assert not conversation.likely(1.0)  # no id is certain
    assert engine.steps == 1
    assert tuple(conversation) == alone(EARLY, "searched")


def test_a_search_takes_a_row_a_beam_and_its_speech_one() -> None:
    engine = Engine(LM, slots=4)
    conversation = engine.submit(PROMPTS[EARLY], Sampling(seek=Seek(3)))
    assert free(engine) == 1
    with pytest.raises(BusyError):
        engine.submit(PROMPTS["transcription"], Sampling(seek=Seek(2)))
    next(conversation)
    assert free(engine) == 3
    list(conversation)
    assert (engine.live, free(engine)) == (0, 4)


def test_others_are_served_while_a_search_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, asked = Engine(LM, slots=5), threading.Event()
    other = engine.submit(PROMPTS["spoken, one row"])
    searching = engine.submit(PROMPTS["typed"], Sampling(seek=Seek(2)))
    step, served = engine.lm.text_logits, []

    def slow(hidden: Tensor) -> Tensor:
        asked.set()
        time.sleep(0.005)
        return step(hidden)

    def read() -> None:
        asked.wait()
        for _ in range(5):
            next(other)
            served.append(engine.steps)

    monkeypatch.setattr(engine.lm, "text_logits", slow)
    reader = threading.Thread(target=read)
    reader.start()
    searching.likely(0)
    ended = engine.steps
    reader.join()
    assert served[-1] < ended


def test_closing_amid_a_search_frees_its_rows() -> None:
    engine = Engine(LM, slots=6)
    for steps in range(4):
        searching = engine.submit(PROMPTS["spoken"], Sampling(seek=Seek(3)))
        other = engine.submit(PROMPTS["spoken, one row"])
        for _ in range(steps):
            next(other)
        searching.close()
        assert free(engine) == 5
        other.close()
        assert free(engine) == 6


def test_impossible_searches_are_refused() -> None:
    with pytest.raises(InputError, match="or more, not 0"):
        Seek(0)
    with pytest.raises(InputError, match="to 10, not -1"):
        Seek(cascade=-1.0)
    with pytest.raises(InputError, match="a probability, 0 to 1"):
        Seek(sure=1.1)
    with pytest.raises(InputError, match="temperature 0"):
        Sampling(Pick(0.7), seek=Seek(2))
    engine = Engine(LM, slots=2)
    with pytest.raises(InputError, match="search takes 3 rows, and there are 2"):
        engine.submit(BUILD.typed([1]), Sampling(seek=Seek(3)))
    assert free(engine) == 2


def test_a_model_searches_by_as_many_beams_as_it_is_made_for() -> None:
    """Unless another number is asked for, or the text is drawn."""
    bundle = tiny_bundle()
    searching, plain = OmniModel(replace(bundle, seek=Seek(4))), OmniModel(bundle)
    sound = [searching.prompts.transcription(features(9 + n, seed=n)) for n in range(8)]

    def texts(model: OmniModel, sampling: Sampling | None) -> list[str]:
        return [model._start(prompt, sampling).collect().text for prompt in sound]

    greedy = texts(plain, None)
    assert texts(searching, None) == texts(plain, Sampling(seek=Seek(4))) != greedy
    assert texts(searching, Sampling(seek=GREEDY)) == greedy
    drawn = Sampling(Pick(1.0), seed=3)
    assert texts(searching, drawn) == texts(plain, drawn) != greedy


def test_a_model_counts_what_it_wrote_down_of_a_spoken_question(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, seek = tiny_bundle(block_size=128), Seek(2, 1.0)
    plain, both = OmniModel(replace(bundle, seek=Seek(2))), OmniModel(replace(bundle, seek=seek), slots=4)
    other = 0
    for seconds, hertz in ((0.3, 200), (0.3, 600), (0.5, 300)):
        heard = plain.hear(tone(seconds, hertz))
        written = plain.transcribe(heard)
        second = plain.prompts.typed(plain._read(written))
        steps = Engine(bundle.lm).submit(plain.prompts.spoken(heard.features), Sampling(seek=seek), second)
        words = WordStream(bundle.tokenizer, LAYOUT)
        text = "".join(words.push(step.text) for step in steps if step.text is not None) + words.flush()
        assert both.answer(tone(seconds, hertz)).text == both.answer(heard).text == text
        assert both.transcribe(heard) == written
        other += plain.answer(heard).text != text
    assert other
    assert both.answer(text="hello").text == plain.answer(text="hello").text
    deaf = OmniModel(replace(bundle, abilities=frozenset({"answer"}), seek=seek))  # it never learned to write
    assert deaf.answer(heard).text == plain.answer(heard).text
    past, sure = [("hello", "no")], OmniModel(replace(bundle, seek=Seek(2, 1.0, sure=0.0)))
    monkeypatch.setattr(sure, "transcribe", lambda heard: pytest.fail("written down though sure"))
    assert sure.answer(heard).text == plain.answer(heard).text
    monkeypatch.setattr(both, "transcribe", lambda heard: pytest.fail("written down behind an earlier turn"))
    assert both.answer(heard, history=past).text == plain.answer(heard, history=past).text


def test_what_fails_in_a_search_gives_its_rows_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = OmniModel(replace(tiny_bundle(), seek=Seek(2, 1.0)), slots=4)
    logits = model.bundle.lm.text_logits

    def fail(hidden: Tensor) -> Tensor:
        if len(hidden) > 1:
            raise RuntimeError("no memory left")
        return logits(hidden)

    monkeypatch.setattr(model.bundle.lm, "text_logits", fail)
    with pytest.raises(RuntimeError, match="no memory left"):
        model.stream(tone())
    with pytest.raises(InputError, match="chunk sizes"):
        model.stream(tone(), first_chunk_frames=0)
    assert (model.engine.live, free(model.engine)) == (0, 4)
