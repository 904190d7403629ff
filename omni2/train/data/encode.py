"""The step from sounds and pictures to what a model takes: encoder features and codec codes."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import soxr
import torch
from torch import Tensor

from omni2.audio import to_waveform
from omni2.codec import Codec
from omni2.codec.istft import IstftCodec, IstftConfig
from omni2.efficientnet import EfficientNet
from omni2.encoder import Encoder, Window
from omni2.errors import InputError
from omni2.hub import load_bundle
from omni2.pickles import load_pickle
from omni2.train.data.schema import Row
from omni2.train.data.sound import read_sound
from omni2.train.encoder import load_tiny
from omni2.train.run import fast_bfloat16
from omni2.vision import VisionEncoder, load_picture

TINY = "whisper-tiny"  # the encoder of models that do not exist yet: Whisper tiny.en, with which that of `nano` began


@dataclass(frozen=True)
class Parts:
    """What turns sounds and pictures into numbers; None where a model has no such part."""

    audio_encoder: Encoder
    window: Window
    vision_encoder: VisionEncoder | EfficientNet | None
    codec: Codec | None


@dataclass(frozen=True)
class Encode:
    """Replace the sounds and pictures of a row by features and codes.

    `model` is what `OmniModel.from_pretrained` takes, or "whisper-tiny" for that encoder alone; `codec` the folder of a
    codec in training (`omni2 train codec`), used in place of the model's.  With `keep` the originals stay as well.
    """

    model: str
    codec: Path | None = None
    keep: bool = False

    def __call__(self, row: Row) -> Row:
        """`row` with `question_features`, `picture_features` and `answer_codes` of all it holds.

        What the model has no part for stays as it was.  Raises InputError: a sound or picture that cannot be used.
        """
        parts = load_parts(self.model, self.codec)
        if row.question_audio is not None and row.question_features is None:
            with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):  # three times as fast where it is
                features = parts.audio_encoder.encode(to_waveform(row.question_audio), parts.window).half()
            row = replace(row, question_features=features, question_audio=row.question_audio if self.keep else None)
        if row.picture is not None and row.picture_features is None and parts.vision_encoder is not None:
            features = parts.vision_encoder.encode(load_picture(row.picture)).half()
            row = replace(row, picture_features=features, picture=row.picture if self.keep else None)
        if row.answer_audio is not None and row.answer_codes is None and parts.codec is not None:
            codes = _codes(self.model, self.codec, row.answer_audio)
            row = replace(row, answer_codes=codes, answer_audio=row.answer_audio if self.keep else None)
        return row


@lru_cache(maxsize=1)
def load_parts(model: str, codec: Path | None) -> Parts:
    """The parts `Encode` needs, without the language model.  Raises CheckpointError: they cannot be loaded."""
    if model == TINY:
        parts = Parts(load_tiny(), "trimmed", None, None)
    else:
        bundle = load_bundle(model)
        parts = Parts(bundle.audio_encoder, bundle.window, bundle.vision_encoder, bundle.codec)
    return parts if codec is None else replace(parts, codec=_training_codec(codec))


def _training_codec(folder: Path) -> IstftCodec:
    """The codec that `omni2 train codec` keeps in `folder`, as far as it is trained."""
    codec = IstftCodec(IstftConfig())
    codec.load_state_dict(load_pickle(folder / "codec.pt")["codec"])
    return codec.eval()


@lru_cache(maxsize=512)  # the same answer comes again and again
def _codes(model: str, folder: Path | None, sound: bytes) -> Tensor:
    codec = load_parts(model, folder).codec
    assert codec is not None
    wave, rate = read_sound(sound)
    if not wave.size:
        raise InputError("an answer without samples")
    if rate != codec.sample_rate:
        wave = soxr.resample(wave, rate, codec.sample_rate)
    return codec.encode(torch.from_numpy(wave)).cpu()
