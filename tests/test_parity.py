"""The released code's answers, token for token, and the ways of decoding against each other."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import parity
import pytest
import torch

from omni2.checkpoint import load_released
from omni2.config import Pick, Sampling
from omni2.engine import Conversation, Engine, Step
from omni2.model import KVCache, OmniLM, Rows
from omni2.prompt import Prompt, PromptBuilder
from omni2.tokens import RELEASED

SEED, STEPS, TOLERANCE = 11, 48, 1e-4
EXPECTED = json.loads((Path(__file__).parent / "parity_seed11.json").read_text())["expected"]
TASKS = ("A1A2", "A1A2_batch", "A1T1_asr", "A1T2", "T1A2", "T1T2", "vision_batch")


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> OmniLM:
    folder = parity.write(tmp_path_factory.mktemp("released"), parity.state_dict(SEED), unheard_of="ignored")
    loaded, layout = load_released(folder)
    assert layout == RELEASED
    return loaded


@pytest.fixture(scope="module")
def prompts() -> dict[str, Prompt]:
    builder = PromptBuilder(RELEASED)
    sound, picture, text = parity.inputs(SEED)
    return {
        "A1A2": builder.spoken(sound, paired=False),
        "A1A2_batch": builder.spoken(sound),
        "A1T1_asr": builder.transcription(sound),
        "A1T2": builder.spoken(sound, "text"),
        "T1A2": builder.typed(text, "speech"),
        "T1T2": builder.typed(text),
        "vision_batch": builder.picture(picture, sound),
    }


def tokens(steps: list[Step]) -> list[object]:
    """Steps in the form of the fixtures: eight layers, or the text ids alone."""
    if steps[0].codes is None:
        return [step.text for step in steps]
    return [list(layer) for layer in zip(*[(*(step.codes or ()), step.text) for step in steps], strict=True)]


def take(conversation: Iterator[Step], n: int = STEPS) -> list[Step]:
    return list(islice(conversation, n))


@pytest.mark.parametrize("task", TASKS)
def test_tokens_are_the_released_codes(lm, prompts, task):
    engine = Engine(lm, slots=2)
    conversation = engine.submit(prompts[task])
    assert tokens(take(conversation)) == EXPECTED[task]
    conversation.close()
    assert engine.live == 0


def test_tokens_are_the_released_codes_when_all_share_one_batch(lm, prompts):
    engine = Engine(lm, slots=9)
    live = {task: engine.submit(prompts[task]) for task in TASKS}
    steps: dict[str, list[Step]] = {task: [] for task in TASKS}
    for _ in range(STEPS):
        for task in TASKS:
            steps[task] += take(live[task], 1)
    for task in TASKS:
        assert tokens(steps[task]) == EXPECTED[task], task


@torch.inference_mode()
def test_first_logits_are_the_released_codes(lm, prompts):
    """Of the spoken question: the first eight logits of each layer at the prompt's last position."""
    prompt = prompts["A1A2"]
    hidden = lm(lm.embed(prompt.ids[None], [prompt.spans]))[0, -1]
    first = EXPECTED["first_logits"]
    assert (lm.audio_logits(hidden)[:, :8] - torch.tensor(first["audio"])).abs().max() < TOLERANCE
    assert (lm.text_logits(hidden)[:8] - torch.tensor(first["text"])).abs().max() < TOLERANCE


@torch.inference_mode()
def test_cached_forward_is_the_uncached_one(lm, prompts):
    """A prefix at once, the rest position by position, two rows of different lengths in one batch."""
    given = [prompts["vision_batch"], prompts["A1T2"]]
    embedded = [lm.embed(prompt.ids[None], [prompt.spans]) for prompt in given]
    whole = [lm(x)[0] for x in embedded]
    cache = KVCache(lm.config, 4, torch.float32, torch.device("cpu"))
    slots, starts = torch.tensor([2, 0]), torch.tensor([len(prompt) - 9 for prompt in given])
    for x, slot, start in zip(embedded, slots, starts, strict=True):
        lm(x[:, :start], Rows(cache, slot[None], torch.zeros(1, dtype=torch.int64)))
    for step in range(9):
        x = torch.cat([x[:, start + step][:, None] for x, start in zip(embedded, starts, strict=True)])
        hidden = lm(x, Rows(cache, slots, starts + step))
        for row, start, expected in zip(hidden, starts, whole, strict=True):
            assert torch.allclose(row[0], expected[start + step], atol=TOLERANCE)


@pytest.mark.parametrize(("sampling", "n"), [(Sampling(), 24), (Sampling(Pick(0.8, 40), Pick(1.0, 100), seed=5), 12)])
def test_joining_and_leaving_changes_no_one_elses_tokens(lm, prompts, sampling, n):
    engine = Engine(lm, slots=5)

    def submit(task: str) -> Conversation:
        return engine.submit(prompts[task], sampling)

    alone = {}
    for task in ("A1A2_batch", "T1T2", "vision_batch"):
        conversation = submit(task)
        alone[task] = take(conversation, n)
        conversation.close()
    first = submit("A1A2_batch")
    heard = take(first, 5)
    second = submit("T1T2")
    read = take(second, 3)
    heard += take(first, 4)
    second.close()  # leaves between two steps, its row is taken over
    third, again = submit("vision_batch"), submit("T1T2")
    seen, reread = [], []
    while len(seen) < n:
        seen += take(third, 2)
        heard += take(first, min(1, n - len(heard)))
        reread += take(again, 2)
    heard += take(first, n - len(heard))
    assert heard == alone["A1A2_batch"]
    assert read == alone["T1T2"][:3]
    assert reread == alone["T1T2"]
    assert seen == alone["vision_batch"]
