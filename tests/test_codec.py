from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from omni2.codec import Codec, Range
from omni2.codec.istft import ConvNeXtBlock, IstftCodec, IstftConfig
from omni2.codec.snac import SnacCodec
from omni2.codec.stream import Samples, SpeechStream, to_pcm16
from omni2.errors import InputError

CODES = 16
CONFIG: dict[str, Any] = {
    "sampling_rate": 24_000,
    "encoder_dim": 4,
    "encoder_rates": [2, 4, 8, 8],
    "latent_dim": None,
    "decoder_dim": 32,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": CODES,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}


def package_model(config: Mapping[str, object]) -> Any:  # noqa: ANN401 (the package has no types)
    from snac import SNAC  # type: ignore[import-untyped]  # once omni2.codec.snac has seen to its warning

    torch.manual_seed(5)
    return SNAC(**config).eval()


def istft_codec() -> IstftCodec:
    torch.manual_seed(5)
    codec = IstftCodec(IstftConfig(width=16, n_mels=20, encoder_blocks=2, codebook_size=CODES, codebook_width=4)).eval()
    for block in codec.decoder:
        assert isinstance(block, ConvNeXtBlock)
        torch.nn.init.constant_(block.scale, 2.0)  # so that far frames are heard through float32's rounding
    return codec.requires_grad_(False)


SNAC_STATE: dict[str, Tensor] = package_model(CONFIG).state_dict()
SNAC_CODEC = SnacCodec.from_state(CONFIG, SNAC_STATE)
CODECS: dict[str, Codec] = {"istft": istft_codec(), "snac": SNAC_CODEC}


@pytest.fixture(params=list(CODECS))
def codec(request: pytest.FixtureRequest) -> Codec:
    return CODECS[request.param]


def random_codes(frames: int, seed: int = 0) -> Tensor:
    return torch.randint(CODES, (frames, 7), generator=torch.Generator().manual_seed(seed))


def streamed(stream: SpeechStream, codes: Tensor) -> Samples:
    return np.concatenate([*(stream.push(frame) for frame in codes.tolist()), stream.flush()])


class Loud:
    """A codec without context whose samples are its first code."""

    sample_rate, frame_size, context = 24_000, 2, (0, 0)

    def decode(self, codes: Tensor, start: int = 0, seed: int | None = None, kept: Range | None = None) -> Tensor:
        return codes[slice(*kept) if kept else ..., 0].float().repeat_interleave(2)

    def encode(self, wave: Tensor) -> Tensor:
        return torch.zeros(len(wave) // 2, 7, dtype=torch.int64)


# ---- the stream


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(list(CODECS)),
    frames=st.integers(1, 24),
    first=st.integers(1, 6),
    more=st.integers(0, 6),
    seed=st.none() | st.integers(-(2**63), 2**64),
)
def test_streamed_is_offline(name: str, frames: int, first: int, more: int, seed: int | None) -> None:
    codec, codes = CODECS[name], random_codes(frames)
    offline = codec.decode(codes, seed=seed).clamp(-1, 1).numpy()
    online = streamed(SpeechStream(codec, first, first + more, seed), codes)
    assert online.dtype == np.float32
    assert online.shape == (frames * codec.frame_size,)
    np.testing.assert_allclose(online, offline, atol=1e-4)


def test_chunks_grow_and_wait_for_their_context(codec: Codec) -> None:
    stream = SpeechStream(codec, first_chunk_frames=1, chunk_frames=5)
    frames = [len(stream.push(frame)) // codec.frame_size for frame in random_codes(20).tolist()]
    ahead = codec.context[1]
    assert [n for n in frames if n] == [1, 2, 4, 5, 5][: sum(map(bool, frames))]
    assert [at + 1 for at, n in enumerate(frames) if n] == [at + ahead for at in (1, 3, 7, 12, 17)]
    assert len(stream.flush()) == (20 - sum(frames)) * codec.frame_size


def test_only_the_context_is_decoded_again(codec: Codec) -> None:
    lengths = []

    class Spy(Loud):
        frame_size, context = codec.frame_size, codec.context

        def decode(self, codes: Tensor, start: int = 0, seed: int | None = None, kept: Range | None = None) -> Tensor:
            lengths.append(len(codes))
            return codec.decode(codes, start, seed, kept)

    streamed(SpeechStream(Spy(), 1, 4), random_codes(40))
    assert max(lengths) == 4 + sum(codec.context)


def test_empty_stream_and_end(codec: Codec) -> None:
    stream = SpeechStream(codec)
    assert stream.flush().shape == (0,)
    assert stream.flush().dtype == np.float32
    with pytest.raises(InputError, match="ended"):
        stream.push([0] * 7)


@pytest.mark.parametrize(("first", "most"), [(0, 4), (-1, 4), (5, 4)])
def test_chunk_sizes_are_checked(first: int, most: int) -> None:
    with pytest.raises(InputError, match="chunk"):
        SpeechStream(Loud(), first, most)


@pytest.mark.parametrize("frame", [[], [0] * 6, [0] * 8])
def test_frames_have_seven_codes(frame: Sequence[int]) -> None:
    stream = SpeechStream(Loud())
    with pytest.raises(InputError, match="7 codes"):
        stream.push(frame)
    assert stream.flush().shape == (0,)


def test_samples_are_clipped() -> None:
    samples = streamed(SpeechStream(Loud()), torch.tensor([[1] * 7, [-3] * 7, [40_000] * 7, [0] * 7]))
    assert samples.tolist() == [1, 1, -1, -1, 1, 1, 0, 0]


def test_pcm16_clips_and_never_wraps() -> None:
    samples = np.array([0, 1, -1, 1.001, -7, 0.5, np.nan, np.inf, -np.inf], np.float32)
    expected = [0, 32767, -32767, 32767, -32767, 16384, 0, 32767, -32767]
    assert np.frombuffer(to_pcm16(samples), "<i2").tolist() == expected
    assert to_pcm16(np.empty(0, np.float32)) == b""


# ---- codecs


def test_context_is_exact(codec: Codec) -> None:
    past, future = codec.context
    frames, at = 16, 8
    codes = random_codes(frames)
    heard = set()
    for seed in range(4):
        other = codes.clone()
        other[at] = (codes[at] + 1 + random_codes(1, seed)[0] % (CODES - 1)) % CODES
        difference = (codec.decode(codes) != codec.decode(other)).view(frames, -1).any(1)
        heard |= set(difference.nonzero().flatten().tolist())
    assert heard == set(range(at - future, at + past + 1))


def test_look_ahead_of_the_embedded_codec() -> None:
    assert IstftCodec.context[1] <= 2


@given(
    name=st.sampled_from(list(CODECS)), frames=st.integers(1, 16), cut=st.tuples(st.integers(0, 15), st.integers(1, 16))
)
@settings(deadline=None)
def test_frames_that_are_kept_are_those_of_the_whole(name: str, frames: int, cut: Range) -> None:
    codec, codes = CODECS[name], random_codes(frames)
    first = min(cut[0], frames - 1)
    last = min(first + cut[1], frames)
    whole = codec.decode(codes, start=5, seed=1)[first * codec.frame_size : last * codec.frame_size]
    torch.testing.assert_close(codec.decode(codes, start=5, seed=1, kept=(first, last)), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("samples", [1, 2047, 2048, 2049, 10_000])
def test_encode_and_decode_shapes(codec: Codec, samples: int) -> None:
    wave = torch.rand(samples, generator=torch.Generator().manual_seed(1)) - 0.5
    codes = codec.encode(wave)
    frames = -(-samples // 2048)
    assert (codec.frame_size, codec.sample_rate) == (2048, 24_000)
    assert codes.shape == (frames, 7)
    assert codes.dtype == torch.int64
    assert 0 <= codes.min() <= codes.max() < CODES
    decoded = codec.decode(codes)
    assert decoded.shape == (frames * 2048,)
    assert decoded.dtype == torch.float32


def test_threads_do_not_disturb_each_other(codec: Codec) -> None:
    codes = random_codes(6)
    seeds = [None, *range(7)]
    alone = [codec.decode(codes, seed=seed) for seed in seeds]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda seed: codec.decode(codes, seed=seed), seeds))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_inverse_stft_inverts() -> None:
    codec = istft_codec()
    c = codec.config
    wave = torch.randn(2, 20 * c.hop, generator=torch.Generator().manual_seed(3))
    side = (c.n_fft - c.hop) // 2
    spectrum = torch.stft(
        F.pad(wave, (side, side)), c.n_fft, c.hop, window=codec.window, center=False, return_complex=True
    )
    torch.testing.assert_close(codec.inverse_stft(spectrum.abs(), spectrum.angle()), wave, atol=1e-4, rtol=0)
