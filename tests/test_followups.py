"""Turns that only make sense behind another: their text, their rows, their prompts, what a model makes of them."""

import re
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from lessons import CONFIG, FRAME_RATE, rows
from toys import HEARD, LAYOUT, tiny_bundle, tiny_tokenizer

from omni2.errors import ContextLengthError
from omni2.omni import OmniModel
from omni2.prompt import PromptBuilder
from omni2.tokens import TEXT_LAYER
from omni2.train.data.followups import families, followups
from omni2.train.data.leaks import reserved_texts
from omni2.train.data.own import own_rows
from omni2.train.data.questions import FIRST, corpus, normalise
from omni2.train.data.schema import pack, unpack
from omni2.train.mixture import Mixture
from omni2.train.sources import Pool
from omni2.train.stages import Stage


def test_every_followup_is_answered_by_the_corpus_behind_a_turn_about_something_else():
    answers = {item.answer for item in corpus()}
    for one in followups("train") + followups("test"):
        assert {one.answer, one.before[1]} <= answers, one
        assert one.before[1] != one.answer, one
        assert "{" not in one.question + one.before[0], one


def test_ways_to_go_on_are_kept_for_evaluation():
    def ways(part: Literal["train", "test"]) -> set[str]:
        return {normalise(re.sub(r"\{\w+\}", "it", way)) for family in families() for way in family[part]}

    assert not ways("train") & ways("test")
    kept = {normalise(one.question) for one in followups("test")}
    assert not kept & {normalise(one.question) for one in followups("train")}
    assert kept <= reserved_texts()


def test_a_narrower_scope_has_no_turn_about_anything_else():
    answers = {item.answer for item in corpus(FIRST)}
    for part in ("train", "test"):
        ones = followups(part, topics=FIRST)
        assert {one.topic for one in ones} <= {*FIRST}
        assert {answer for one in ones for answer in (one.answer, one.before[1])} <= answers
    assert 0 < len(own_rows("followups", topics=FIRST)) < len(own_rows("followups"))


def test_rows_keep_the_turn_before():
    made = own_rows("followups")
    assert len({row.key for row in made}) == len(made)
    assert all(len(row.history) == 1 for row in made)
    assert unpack(pack(made[0])) == made[0]


@pytest.mark.parametrize("asked", [[], [5, 6]])
def test_history_stands_before_the_prompt_and_moves_its_sound(asked: list[int]):
    build, sound = PromptBuilder(LAYOUT, 2), torch.randn(7, HEARD)
    alone, behind = build.spoken(sound), build.spoken(sound, history=[(asked, [8, 9])])
    question = [LAYOUT.input_text, *asked, LAYOUT.eot] if asked else []
    past = [*question, LAYOUT.answer_text, 8, 9, LAYOUT.eot]
    n = len(past)
    assert behind.ids[TEXT_LAYER, :n].tolist() == past
    assert (behind.ids[:TEXT_LAYER, :n] == LAYOUT.pad_audio).all()
    assert torch.equal(behind.ids[:, n:], alone.ids)
    assert behind.spans[0].start == alone.spans[0].start + n
    assert torch.equal(behind.spans[0].features, sound)


def test_training_puts_the_turn_before_into_the_prompt_and_at_times_another():
    own = ("what is the capital", "paris")
    made = [replace(row, history=(own,)) if row.answer_text == "the cat" else row for row in rows()]
    mix = Mixture(Pool(made, 0), tiny_tokenizer(), LAYOUT, CONFIG, FRAME_RATE)
    rng = np.random.default_rng(0)
    for share, expected in ((0.0, 0.0), (1.0, 1.0)):
        stage = Stage("s", {"T1T2": 1.0}, 1, 0.1, loose=0.0, remembered=share)
        assert ("history" in stage.abilities()) == (share > 0)
        follows, others = [], []
        for _ in range(200):
            sample = mix.draw(stage, rng)
            text = sample.prompt.ids[TEXT_LAYER].tolist()
            before = text[: len(text) - 1 - text[::-1].index(LAYOUT.input_text)]
            said = [t for t in sample.targets[-1].tolist() if t not in (LAYOUT.eot, LAYOUT.pad_text)]
            (follows if said == mix.encode("the cat") else others).append(before)
        assert all(mix.encode("paris") == before[-2 - 4 :][-1 - len(mix.encode("paris")) : -1] for before in follows)
        assert np.mean([bool(before) for before in others]) == expected


def test_a_model_answers_behind_earlier_turns_and_refuses_what_does_not_fit():
    model = OmniModel(tiny_bundle(abilities=frozenset({"answer"}), block_size=128))
    alone = model.answer(text="what is it", reply="text").text
    behind = model.answer(text="what is it", reply="text", history=[("who", "the cat"), ("", "paris")]).text
    assert isinstance(behind, str)
    assert behind != alone
    with pytest.raises(ContextLengthError):
        model.stream(text="what is it", history=[("who", "the cat")] * 40)
    assert model.answer(text="what is it", reply="text").text == alone
