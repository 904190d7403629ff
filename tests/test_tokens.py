import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omni2.tokens import (
    AUDIO_LAYERS,
    FIRST_FRAME_STEP,
    FRAME_ORDER,
    LAYERS,
    NANO,
    RELEASED,
    TEXT_LAYER,
    DelayLine,
    TokenLayout,
    delay,
)


def test_released_layout_has_the_numbers_of_the_released_weights() -> None:
    assert (RELEASED.text_ids, RELEASED.text_block, RELEASED.codebook_size, RELEASED.audio_block) == (
        151936,
        152000,
        4096,
        4160,
    )
    text = [RELEASED.eot, RELEASED.pad_text, RELEASED.input_text, RELEASED.answer_text, RELEASED.asr]
    assert text == [151936, 151937, 151938, 151939, 151940]
    audio = [RELEASED.eoa, RELEASED.pad_audio, RELEASED.input_audio, RELEASED.answer_audio]
    assert [*audio, RELEASED.image, RELEASED.image_end] == [4096, 4097, 4098, 4099, 4101, 4102]
    assert RELEASED.vocab_size == 181120
    assert RELEASED.offsets().tolist() == [152000 + 4160 * layer for layer in range(7)] + [0]
    assert RELEASED.offsets().dtype == torch.int64


def test_nano_layout_has_room_for_its_specials() -> None:
    assert (NANO.text_ids, NANO.text_block, NANO.codebook_size, NANO.audio_block) == (2048, 2112, 1024, 1088)
    assert NANO.vocab_size == 2112 + 7 * 1088


@pytest.mark.parametrize("layout", [RELEASED, NANO])
def test_specials_differ_and_lie_between_the_ids_and_the_end_of_their_block(layout: TokenLayout) -> None:
    names = ("eot", "pad_text", "input_text", "answer_text", "asr", "speak", "listen", "irq", "n_irq")
    text = [getattr(layout, name) for name in names]
    names = ("eoa", "pad_audio", "input_audio", "answer_audio", "image", "image_end")
    audio = [getattr(layout, name) for name in names]
    assert len({*text}) == len(text)
    assert len({*audio}) == len(audio)
    assert all(layout.text_ids <= token < layout.text_block for token in text)
    assert all(layout.codebook_size <= token < layout.audio_block for token in audio)


def test_rows_of_the_layers_do_not_overlap() -> None:
    layout = TokenLayout(text_ids=2, text_block=11, codebook_size=3, audio_block=10)
    blocks = [layout.audio_block] * AUDIO_LAYERS + [layout.text_block]
    rows = [range(at, at + size) for at, size in zip(layout.offsets().tolist(), blocks, strict=True)]
    assert sorted(row for block in rows for row in block) == list(range(layout.vocab_size))


@pytest.mark.parametrize(("text_block", "audio_block"), [(10, 10), (11, 9)])
def test_layout_without_room_for_the_specials_is_refused(text_block: int, audio_block: int) -> None:
    with pytest.raises(ValueError, match="no room"):
        TokenLayout(text_ids=2, text_block=text_block, codebook_size=3, audio_block=audio_block)


def test_frames_are_codes_alone() -> None:
    assert NANO.is_frame([0, 1, 2, 3, 4, 5, 1023])
    assert not NANO.is_frame([0, 1, 2, 3, 4, 5, NANO.eoa])
    assert not NANO.is_frame([NANO.pad_audio, 1, 2, 3, 4, 5, 6])


def test_delay_by_hand() -> None:
    """Layer j lags by j + 1; in codebook order a frame is layers 0 | 1, 4 | 2, 3, 5, 6."""
    delayed = delay(torch.arange(7)[None] * 10, NANO)
    pad, end = NANO.pad_audio, NANO.eoa
    assert delayed.tolist() == [
        [pad, 0, end, pad, pad, pad, pad, pad, pad],
        [pad, pad, 10, end, pad, pad, pad, pad, pad],
        [pad, pad, pad, 30, end, pad, pad, pad, pad],
        [pad, pad, pad, pad, 40, end, pad, pad, pad],
        [pad, pad, pad, pad, pad, 20, end, pad, pad],
        [pad, pad, pad, pad, pad, pad, 50, end, pad],
        [pad, pad, pad, pad, pad, pad, pad, 60, end],
    ]
    assert FRAME_ORDER == (0, 1, 4, 2, 3, 5, 6)
    assert (AUDIO_LAYERS, LAYERS, TEXT_LAYER, FIRST_FRAME_STEP) == (7, 8, 7, 7)


frames_of_codes = st.lists(st.lists(st.integers(0, 1023), min_size=7, max_size=7), max_size=12)


@given(frames_of_codes)
@settings(max_examples=50, deadline=None)
def test_delay_line_undoes_delay(frames: list[list[int]]) -> None:
    delayed = delay(torch.tensor(frames, dtype=torch.int64).reshape(-1, 7), NANO)
    assert delayed.shape == (AUDIO_LAYERS, len(frames) + LAYERS)
    line = DelayLine()
    pushed = [line.push(codes) for codes in delayed.T.tolist()]
    assert pushed[:FIRST_FRAME_STEP] == [None] * FIRST_FRAME_STEP
    assert pushed[FIRST_FRAME_STEP:] == [*map(tuple, frames), (NANO.eoa,) * 7]


@given(frames_of_codes, st.integers(0, 25))
@settings(max_examples=50, deadline=None)
def test_delay_cut_or_padded_to_any_length(frames: list[list[int]], steps: int) -> None:
    codes = torch.tensor(frames, dtype=torch.int64).reshape(-1, 7)
    whole, cut = delay(codes, NANO), delay(codes, NANO, steps)
    n = min(steps, whole.shape[1])
    assert cut.shape == (AUDIO_LAYERS, steps)
    assert torch.equal(cut[:, :n], whole[:, :n])
    assert bool((cut[:, n:] == NANO.pad_audio).all())
