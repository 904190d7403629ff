"""Speech of the answer voice on disk: one int16 file of samples and an index, written piece by piece."""

import json
from pathlib import Path

import numpy as np
from rich.progress import track

from omni2.errors import OmniError


def build_speech(sentences: list[str], folder: Path, hours: float, speed: float = 1.0) -> None:
    """Read `sentences` aloud into `folder` until `hours` are reached; takes up where an earlier run stopped.

    Writes `speech.i16` (24 kHz, mono) and `speech.jsonl` (one `{"text", "start", "samples"}` a line).
    """
    from hibari import Hibari

    folder.mkdir(parents=True, exist_ok=True)
    index, samples = folder / "speech.jsonl", folder / "speech.i16"
    done = [json.loads(line) for line in index.read_text().splitlines()] if index.exists() else []
    at = done[-1]["start"] + done[-1]["samples"] if done else 0
    voice = Hibari(threads=1)
    with samples.open("r+b" if samples.exists() else "w+b") as sound, index.open("a") as lines:
        sound.truncate(2 * at)
        sound.seek(2 * at)
        for text in track(sentences[len(done) :], description="reading aloud"):
            if at >= hours * 3600 * 24_000:
                break
            wave = np.clip(voice(text, speed=speed, seed=0), -1, 1)
            sound.write((wave * 32767).astype(np.int16).tobytes())
            sound.flush()
            lines.write(json.dumps({"text": text, "start": at, "samples": len(wave)}) + "\n")
            lines.flush()
            at += len(wave)


def load_speech(folder: Path) -> np.ndarray:
    """All samples of `build_speech` as an int16 array (n,) mapped from disk."""
    path = folder / "speech.i16"
    if not path.exists():
        raise OmniError(f"{path} is missing; make it with `omni2 data speech`")
    return np.memmap(path, np.int16, "r")
