"""Whether a sound is an order to stop."""

import numpy as np
import pytest
import torch
from toys import ABILITIES, LAYOUT, tiny_model, tone

from omni2 import OmniModel, omni
from omni2.duplex.overheard import Overheard
from omni2.errors import AbilityError, InputError
from omni2.omni import LISTENING


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return tiny_model()


@pytest.fixture(scope="module")
def listener() -> OmniModel:
    return tiny_model(abilities=ABILITIES | {"listen"})


def test_listening_weighs_the_two_tokens_of_the_prompt_it_was_trained_on(listener: OmniModel) -> None:
    sound = np.random.default_rng(1).normal(0, 0.1, round(LISTENING * 16_000)).astype(np.float32)
    heard = listener.bundle.audio_encoder.encode(sound, listener.bundle.window)
    prompt = listener.prompts.listening(heard)
    lm = listener.bundle.lm
    with torch.no_grad():
        logits = lm.text_logits(lm(lm.embed(prompt.ids[None], [prompt.spans]))[0, -1])
    likely = logits[[LAYOUT.irq, LAYOUT.n_irq]].softmax(0)[0]
    assert listener.ordered(sound) == pytest.approx(float(likely), abs=1e-3)
    assert listener.listen(sound, threshold=float(likely) - 0.01)
    assert not listener.listen(sound, threshold=float(likely) + 0.01)
    assert listener.engine.live == 0


def test_only_the_last_seconds_are_heard_and_what_is_missing_is_silence(listener: OmniModel) -> None:
    length = round(LISTENING * 16_000)
    sound = np.random.default_rng(2).normal(0, 0.1, length).astype(np.float32)
    expected = listener.ordered(sound)
    assert listener.ordered(np.concatenate([tone(1.0), sound])) == expected
    assert listener.ordered(np.concatenate([sound, tone(1.0)])) != expected
    short = sound[-8_000:]
    padded = np.concatenate([np.zeros(length - 8_000, np.float32), short])
    assert listener.ordered(short) == listener.ordered(padded)


def test_listening_needs_the_ability_sound_and_a_threshold(model: OmniModel, listener: OmniModel) -> None:
    with pytest.raises(AbilityError, match="listen"):
        model.listen(tone())
    with pytest.raises(InputError, match="samples of type"):
        listener.listen(np.zeros(16_000, bool))
    with pytest.raises(InputError, match="between 0 and 1"):
        listener.listen(tone(), threshold=1.0)


@pytest.mark.parametrize("order", [0.005, 0.5, 0.9])
def test_a_network_rules_out_talk_and_has_half_the_say(
    listener: OmniModel, monkeypatch: pytest.MonkeyPatch, order: float
) -> None:
    alone = listener.ordered(tone(1.0))
    monkeypatch.setattr(omni, "overheard", lambda encoder, features: Overheard(order, 0.0))
    asked: list[int] = []
    prompts = listener.prompts.listening
    monkeypatch.setattr(listener.prompts, "listening", lambda heard: asked.append(1) or prompts(heard))
    both = listener.ordered(tone(1.0))
    if order < omni.FAINT:
        assert (both, asked) == (order, [])
    else:
        odds = np.sqrt(alone / (1 - alone) * order / (1 - order))
        assert both == pytest.approx(odds / (1 + odds), abs=1e-3)
        assert asked == [1]
    assert listener.overheard(tone(1.0)) == listener.overheard(listener.hear(tone(1.0))) == Overheard(order, 0.0)
