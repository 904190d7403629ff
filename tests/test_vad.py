"""Turn detection: the network against its package, and the rule on top of it."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_architecture import python

from omni2.audio import SAMPLE_RATE, load_audio
from omni2.duplex import vad
from omni2.duplex.vad import CONTEXT, WINDOW, Edge, SpeechMeter, VoiceActivity, load_silero
from omni2.errors import CheckpointError

CAPITAL = Path(__file__).parents[1] / "examples" / "audio" / "capital.wav"
Samples = npt.NDArray[np.float32]


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


@pytest.fixture(scope="module")
def sentence() -> Samples:
    """1.9 s of speech between 1 s of silence and 1.5 s."""
    return np.concatenate([silence(1), load_audio(CAPITAL), silence(1.5)])


def probabilities(wave: Samples) -> list[float]:
    meter = SpeechMeter()
    return [meter.push(window) for window in wave[: len(wave) // WINDOW * WINDOW].reshape(-1, WINDOW)]


def packaged(wave: Samples) -> Iterator[float]:
    """What the package's own ONNX network says."""
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = Path(find_spec("silero_vad").submodule_search_locations[0])
    session = onnxruntime.InferenceSession(folder / "data" / "silero_vad.onnx")
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros((1, CONTEXT), np.float32)
    for window in wave[: len(wave) // WINDOW * WINDOW].reshape(-1, 1, WINDOW):
        seen = {"input": np.concatenate([context, window], 1), "state": state, "sr": np.array(SAMPLE_RATE)}
        said, state = session.run(None, seen)
        context = window[:, -CONTEXT:]
        yield float(said[0, 0])


def test_the_network_is_the_packages(sentence: Samples) -> None:
    assert np.abs(np.subtract(probabilities(sentence), list(packaged(sentence)))).max() < 1e-4


def test_speech_begins_and_ends_where_it_is(sentence: Samples) -> None:
    began, ended = VoiceActivity(silence=0.5).push(sentence)
    assert (began.kind, ended.kind) == ("started", "stopped")
    assert 0.9 < began.position / SAMPLE_RATE < 1.3
    assert 1 + 1.9 - 0.4 + 0.5 < ended.position / SAMPLE_RATE < 1 + 1.9 + 0.2 + 0.5


def test_patience_is_the_silence_that_ends_a_turn(sentence: Samples) -> None:
    quick, slow = (VoiceActivity(silence=seconds).push(sentence)[1].position for seconds in (0.3, 1.0))
    assert slow - quick == pytest.approx(0.7 * SAMPLE_RATE, abs=WINDOW)
    assert [edge.kind for edge in VoiceActivity(silence=2.0).push(sentence)] == ["started"]


def test_a_pause_within_speech_does_not_end_it(sentence: Samples) -> None:
    speech = sentence[SAMPLE_RATE:-SAMPLE_RATE]
    twice = np.concatenate([silence(0.5), speech, silence(0.2), speech, silence(3)])
    assert [edge.kind for edge in VoiceActivity(silence=1.5).push(twice)] == ["started", "stopped"]
    assert [edge.kind for edge in VoiceActivity(silence=0.2).push(twice)][:3] == ["started", "stopped", "started"]


def test_silence_noise_and_tones_are_not_speech() -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, 3 * SAMPLE_RATE).astype(np.float32)
    hum = 0.3 * np.sin(2 * np.pi * 120 * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    for wave in (silence(3), noise, hum):
        assert VoiceActivity().push(wave) == []


def test_the_threshold_counts(sentence: Samples) -> None:
    assert VoiceActivity(threshold=1.0).push(sentence) == []
    assert VoiceActivity(threshold=0.0).push(silence(0.1)) == [Edge("started", 0)]


@given(cuts=st.lists(st.integers(1, 30_000), max_size=12))
@settings(max_examples=10, deadline=None)
def test_pieces_of_any_length_give_the_same_edges(sentence: Samples, cuts: list[int]) -> None:
    wave = sentence[:56_000]
    expected = VoiceActivity(silence=0.3).push(wave)
    assert expected
    activity = VoiceActivity(silence=0.3)
    assert [edge for piece in np.split(wave, sorted(cuts)) for edge in activity.push(piece)] == expected


def test_speakers_do_not_mix(sentence: Samples) -> None:
    expected = VoiceActivity().push(sentence)
    one, other = VoiceActivity(), VoiceActivity()
    found: list[Edge] = []
    for piece in np.array_split(sentence, 20):
        found += one.push(piece)
        assert other.push(0 * piece) == []
    assert found == expected


def test_it_works_without_importing_the_package_that_changes_torchs_threads() -> None:
    code = "import sys; from omni2.duplex.vad import load_silero; load_silero(); print('silero_vad' in sys.modules)"
    assert python(code).strip() == "False"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vad, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="silero-vad"):
        load_silero.__wrapped__()


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vad, "read_torchscript", lambda path: {})
    with pytest.raises(CheckpointError, match="another network"):
        load_silero.__wrapped__()
