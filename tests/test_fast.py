"""Compiled models compute what torch computes from the same weights, keep to their rows, and say what they cannot."""

import dataclasses
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from test_codec import CODES, SNAC_CODEC
from toys import HEARD, LAYOUT, SEEN, features, prompts, tiny_bundle, tone

from omni2.bundle import ENCODERS, MODEL, load, save
from omni2.codec.stream import SpeechStream
from omni2.config import ModelConfig
from omni2.encoder import AudioEncoder
from omni2.engine import Engine
from omni2.errors import CheckpointError, InputError
from omni2.model import OmniLM, Rows
from omni2.omni import OmniModel
from omni2.precision import load_as
from omni2.weights import dequantise, quantise

pytest.importorskip("openvino")
from omni2.fast import FastParts
from omni2.fast.codec import FastSnac, _snake
from omni2.fast.encoder import FastEncoder
from omni2.fast.graph import X86, Compiler, parameter
from omni2.fast.lm import BLOCK, FastLM

CONFIG = ModelConfig(2, 4, 2, 16, 64, 96, 200, HEARD, SEEN)
TOLERANCE = 1e-4


def pair(compact: bool) -> tuple[OmniLM, FastLM]:
    """The same weights in torch and compiled; with `compact` what is left of them in int8."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        lm = OmniLM(CONFIG, LAYOUT).eval()
    state = {name: value.detach() for name, value in lm.state_dict().items()}
    if compact:
        state = quantise(state)
        lm.load_state_dict(dequantise(state))
    return lm, FastLM(CONFIG, LAYOUT, state, Compiler(rounded=False))


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "int8"])
def both(request: pytest.FixtureRequest) -> tuple[OmniLM, FastLM]:
    return pair(request.param)


def positions(n: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, n, CONFIG.n_embd, generator=torch.Generator().manual_seed(seed))


def test_threads_take_turns(both: tuple[OmniLM, FastLM]) -> None:
    _, fast = both  # as where a listener asks while an answer is prefilled
    hidden, given = positions(200)[0], torch.randn(200, CONFIG.audio_stride, HEARD)
    calls: list[Callable[[int], torch.Tensor]] = [
        lambda _: fast.text_logits(hidden),
        lambda _: fast.project(given, "audio"),
    ]
    expected = [call(0) for call in calls]
    with ThreadPoolExecutor(8) as pool:
        for call, right in zip(calls, expected, strict=True):
            for made in pool.map(call, range(200)):
                assert torch.equal(made, right)


@torch.inference_mode()
def test_tokens_features_and_heads_are_torchs(both: tuple[OmniLM, FastLM]) -> None:
    slow, fast = both
    for prompt in prompts().values():
        assert torch.allclose(*(lm.embed(prompt.ids[None], [prompt.spans]) for lm in both), atol=TOLERANCE)
    hidden = positions(3)[0]
    assert torch.allclose(slow.text_logits(hidden), fast.text_logits(hidden), atol=TOLERANCE)
    assert torch.allclose(slow.audio_logits(hidden), fast.audio_logits(hidden), atol=TOLERANCE)
    assert fast.audio_logits(hidden[0]).shape == slow.audio_logits(hidden[0]).shape


@torch.inference_mode()
def test_rows_of_any_length_in_any_slots_are_torchs(both: tuple[OmniLM, FastLM]) -> None:
    assert torch.allclose(*(lm(positions(70, 2)) for lm in both), atol=TOLERANCE)
    same_rows(both, TOLERANCE)


@pytest.mark.skipif(platform.machine() not in X86, reason="other processors have no kernels for it")
@torch.inference_mode()
def test_a_halved_cache_holds_nearly_the_same_in_half_the_room() -> None:
    slow, whole = pair(True)
    halved = FastLM(CONFIG, LAYOUT, quantise(slow.state_dict()), Compiler(rounded=False, halved=True))
    same_rows((slow, halved), 0.002)
    sizes = [sum(store.nbytes for store in lm.cache(4)._stores) for lm in (whole, halved)]
    assert sizes[1] * 2 == sizes[0]
    with pytest.raises(AssertionError):  # or nothing was rounded
        same_rows((slow, halved), TOLERANCE)


@pytest.mark.parametrize(("large", "told"), [(10**9, False), (1, True)])
def test_large_parts_round_and_halve_what_small_ones_keep(
    monkeypatch: pytest.MonkeyPatch, large: int, told: bool
) -> None:
    made = []
    monkeypatch.setattr("omni2.fast.LARGE", large)
    monkeypatch.setattr(
        "omni2.fast.Compiler", lambda *given, **options: made.append(options) or Compiler(*given, **options)
    )
    bundle = dataclasses.replace(tiny_bundle(), lm=pair(False)[0])
    FastParts("int8").remake(bundle)
    assert [one for one in made if one] == [{"halved": told}, {"rounded": told}]
    made.clear()
    FastParts("bfloat16").remake(bundle)
    assert not any(one.get("halved") for one in made)


def same_rows(both: tuple[OmniLM, FastLM], tolerance: float) -> None:
    """Prefills across the blocks' borders, copies, and steps of rows at different places."""
    caches = [lm.cache(4) for lm in both]

    def same(x: torch.Tensor, slots: list[int], starts: list[int]) -> None:
        results = [
            lm(x, Rows(cache, torch.tensor(slots), torch.tensor(starts)))
            for lm, cache in zip(both, caches, strict=True)
        ]
        assert torch.allclose(*results, atol=tolerance)

    same(positions(BLOCK + 3), [2], [0])
    same(positions(2 * BLOCK, 1, 5), [0], [0])
    for cache in caches:
        cache.copy(2, 1, BLOCK + 3)
    same(positions(1, 3, 1), [1, 0, 2], [BLOCK + 3, 2 * BLOCK, BLOCK + 3])
    same(positions(4, 2, 2), [0, 1], [2 * BLOCK + 1, BLOCK + 4])
    same(positions(1, 1, 3), [3], [0])
    same(positions(1, 2, 4), [2, 1], [BLOCK + 4, BLOCK + 8])


def test_the_engine_decodes_the_same_tokens(both: tuple[OmniLM, FastLM]) -> None:
    for prompt in prompts().values():
        slow, fast = ([next(steps) for steps in [Engine(lm, 2).submit(prompt)] for _ in range(12)] for lm in both)
        assert slow == fast


def test_the_compiled_encoder_is_torchs() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = AudioEncoder(80, 1500, 64, 2, 2).eval()
    fast = FastEncoder.from_module(encoder, encoder.state_dict(), Compiler())
    for window in ("trimmed", "exact"):
        wanted = encoder.encode(tone(0.7), window)
        assert torch.allclose(fast.encode(tone(0.7), window), wanted, atol=1e-3)


@pytest.mark.parametrize("compact", [(), (MODEL, *ENCODERS)])
def test_a_folder_answers_compiled_nearly_as_in_torch(tmp_path: Path, compact: tuple[str, ...]) -> None:
    bundle = tiny_bundle()
    save(bundle, tmp_path, torch.float32, compact)
    fast, slow = load(tmp_path, FastParts("int8")), load(tmp_path)
    heard = [b.audio_encoder.encode(tone(), "trimmed") for b in (fast, slow)]
    assert (heard[0] - heard[1]).norm() < 0.03 * heard[1].norm()
    answer = OmniModel(fast).answer(tone(), image=None)
    assert answer.audio.size
    assert OmniModel(fast).answer(tone()).text == answer.text
    assert type(FastParts("int8").remake(slow).lm) is FastLM


def test_compiled_weights_cannot_be_saved_trained_or_moved(tmp_path: Path) -> None:
    save(tiny_bundle(), tmp_path)
    bundle = load(tmp_path, FastParts("bfloat16"))
    with pytest.raises(CheckpointError, match="float32"):
        save(bundle, tmp_path / "again")
    with pytest.raises(InputError, match="CPU"):
        bundle.lm.to("meta")
    with pytest.raises(InputError, match="CPU"):
        bundle.audio_encoder.to("meta")


def test_a_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    save(bundle, tmp_path)
    other = dataclasses.replace(bundle.lm.config, n_layer=1)
    save(dataclasses.replace(bundle, lm=OmniLM(other, LAYOUT)), tmp_path / "other")
    (tmp_path / MODEL).write_bytes((tmp_path / "other" / MODEL).read_bytes())
    with pytest.raises(CheckpointError, match=MODEL):
        load(tmp_path, FastParts("int8"))


def test_weights_are_chosen_by_name_and_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tiny_bundle(), tmp_path)
    assert isinstance(load_as(tmp_path, "float32", "cpu").lm, OmniLM)
    assert isinstance(load_as(tmp_path, "auto", "cpu").lm, FastLM)
    with pytest.raises(InputError, match="int4"):
        load_as(tmp_path, "int4", "cpu")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="int8"):
        load_as(tmp_path, "int8", "meta")
    assert load_as(tmp_path, "auto", "meta").trainable().embedding.weight.dtype == torch.bfloat16
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(load_as(tmp_path, "auto", "cpu").lm, OmniLM)
    with pytest.raises(InputError, match="openvino"):
        load_as(tmp_path, "int8", "cpu")


def test_features_of_other_width_are_refused(both: tuple[OmniLM, FastLM]) -> None:
    with pytest.raises(RuntimeError):
        both[1].adapt(features(5, width=3), "audio")


def test_a_question_heard_early_is_answered_as_one_asked_at_once() -> None:
    model = OmniModel(tiny_bundle())
    heard = model.hear(tone())  # chunks of a told size: others depend on how busy the machine is
    early, late = (list(model.stream(sound, chunk_frames=4)) for sound in (heard, tone()))
    assert [c.text for c in early] == [c.text for c in late]


def test_snac_sounds_as_in_torch_with_its_noise_and_without() -> None:
    parts = FastParts("int8")
    fast = parts.codec(SNAC_CODEC)
    assert type(fast) is FastSnac
    assert parts.codec(fast) is fast
    codes = torch.randint(0, CODES, (9, 7), generator=torch.Generator().manual_seed(1))
    for seed in (None, 5):
        whole = SNAC_CODEC.decode(codes, start=3, seed=seed)
        assert torch.allclose(fast.decode(codes, start=3, seed=seed), whole, atol=TOLERANCE)
        kept = fast.decode(codes, start=3, seed=seed, kept=(4, 6))
        assert torch.allclose(kept, whole[4 * fast.frame_size : 6 * fast.frame_size], atol=TOLERANCE)
    stream = SpeechStream(fast, 1, 2, seed=5)
    pieces = [stream.push(frame) for frame in codes.tolist()]
    streamed = torch.from_numpy(np.concatenate([*pieces, stream.flush()]))
    assert torch.allclose(streamed, SNAC_CODEC.decode(codes, seed=5).clamp(-1, 1), atol=TOLERANCE)


def test_the_compiled_sine_is_right_however_often_it_has_come_round() -> None:
    alpha = torch.tensor([0.01, 0.3, 1.0, -2.0, 9.0])[None, :, None]
    x = torch.linspace(-40, 40, 4001).expand(1, 5, -1).contiguous()
    given = parameter("x", [1, 5, -1])
    graph = Compiler()(_snake(given, alpha), [given])
    made = graph.infer(graph.here, {"x": x.numpy()})
    wanted = x.double() + torch.sin(alpha.double() * x.double()).square() / alpha.double()
    assert (made - wanted).abs().max() < 5e-5  # of 40, in float32


def test_the_embedded_codec_stays_as_it_is() -> None:
    codec = tiny_bundle().codec
    assert FastParts("int8").codec(codec) is codec
