"""When each word of an answer begins: told by the answer voice itself, or guessed from the words' lengths.

hibari's network draws a duration for every phoneme before it makes sound of them; they are read off inside its graph.
"""

from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from omni2.errors import OmniError

DURATIONS = "/Clip_output_0"  # of the graph: units of each phoneme
UNIT = 600 / 24_000  # seconds
SPACE = " "


def guessed_starts(text: str, seconds: float) -> tuple[float, ...]:
    """Seconds at which the words of `text` (between blanks) begin if every letter takes as long as another."""
    words = text.split()
    ends = np.cumsum([len(word) + 1 for word in words])
    return tuple(float(x) for x in seconds * np.r_[0, ends[:-1]] / max(ends[-1], 1)) if words else ()


def hibari_starts(engine: Any, text: str, speed: float = 1.0) -> tuple[float, ...] | None:  # noqa: ANN401
    """Seconds at which the words of `text` begin in what `engine(text, speed=speed)` gives.

    None where the voice reads another number of words than are written.  Raises OmniError: the package onnx is missing.
    """
    starts: list[float] = []
    before = 0.0
    for phonemes in engine.phonemize(text):
        ids = engine.ids(phonemes)
        feed = {"ids": np.asarray([ids], np.int64), "speed": np.asarray([speed], np.float32)}
        units: npt.NDArray[np.float32] = _timed(engine.model_path).run([DURATIONS], feed)[0].reshape(-1)
        known = [sign for sign in phonemes if sign in engine.vocab]
        ends = before + UNIT * np.cumsum(units)
        first = [i for i, sign in enumerate(known) if sign != SPACE and (i == 0 or known[i - 1] == SPACE)]
        starts += [float(ends[i]) for i in first]  # units has one pad before the first phoneme
        before = float(ends[-1])
    return tuple(starts) if len(starts) == len(text.split()) else None


@cache
def _timed(model: str) -> Any:  # noqa: ANN401
    """A session of the graph that also gives its durations."""
    try:
        onnx, ort = import_module("onnx"), import_module("onnxruntime")
    except ImportError as error:
        raise OmniError(f"the Python package {error.name} is missing: pip install {error.name}") from error
    graph = onnx.load(model)
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(DURATIONS))
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
