"""Speech as frames of seven codes: what a codec has to do, whoever made it.

`snac` holds the released models' codec, `istft` the embedded one, `stream` turns frames into sound as they come.
"""

from typing import Protocol

from torch import Tensor

Range = tuple[int, int]  # the first of something, and one past the last


class Codec(Protocol):
    """Waveform ↔ codes.  A frame is one coarse code, two middle and four fine ones, in this order ("codebook order").

    Decoding is local: a sample of frame k depends on frames k - past … k + future alone, `context` being
    (past, future).  Beyond the first and the last frame handed in there is nothing, as at the ends of a recording.
    """

    @property
    def sample_rate(self) -> int:
        """Samples a second (Hz)."""

    @property
    def frame_size(self) -> int:
        """Samples a frame."""

    @property
    def context(self) -> tuple[int, int]:
        """Frames of the past and of the future a sample depends on."""

    def decode(self, codes: Tensor, start: int = 0, seed: int | None = None, kept: Range | None = None) -> Tensor:
        """Codes (frames, 7) int64, at least one frame → samples (frames * frame_size,) float32, not clipped.

        A codec that mixes noise in takes it from (`seed`, position in the whole stream), so that frames decoded in
        pieces sound as decoded at once; `start` is the index of the first frame there.  No seed, no noise.
        With `kept` the samples of frames kept[0] … kept[1] - 1 of those given alone; the others are their context.
        Keeps nothing between calls: threads may share a codec.
        """

    def encode(self, wave: Tensor) -> Tensor:
        """Samples (n,) float32 in [-1, 1] at `sample_rate`, n > 0 → codes (ceil(n / frame_size), 7) int64."""
