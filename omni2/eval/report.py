"""Tables of figures, and the codec's part of them."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from omni2.codec import Codec
from omni2.errors import InputError
from omni2.eval.codec import mel_distance, stoi
from omni2.eval.recognise import Recogniser, wer
from omni2.train.data.sentences import definitions, shuffled
from omni2.train.data.voices import ANSWER, voice

MARKS = ("<!-- nano-table -->", "<!-- /nano-table -->")


def codec_figures(codec: Codec, sentences: int) -> dict[str, float]:
    """Intelligibility of `sentences` dictionary definitions the codec was not trained on, in the answer voice."""
    texts = shuffled(definitions(), 0)[-sentences:] if sentences else []
    recogniser = Recogniser("base")
    intelligible, distances, plain, coded = [], [], [], []
    for text in track(texts, description="codec"):
        wave, rate = voice(ANSWER).say(text)
        made = codec.decode(codec.encode(torch.from_numpy(wave)))[: len(wave)].clamp(-1, 1).numpy()
        intelligible.append(stoi(wave, made, rate))
        distances.append(mel_distance(wave, made, rate))
        plain.append(recogniser.transcribe(wave, rate))
        coded.append(recogniser.transcribe(made, rate))
    if not texts:
        return {}
    return {
        "codec, unseen sentences": float(len(texts)),
        "codec: STOI": float(np.mean(intelligible)),
        "codec: log-mel distance": float(np.mean(distances)),
        "codec: WER of the original voice %": 100 * wer(texts, plain),
        "codec: WER after coding %": 100 * wer(texts, coded),
    }


def markdown(figures: Mapping[str, float]) -> str:
    """Figures as a two-column table."""
    rows = [f"| {name.strip()} | {_shown(name, value)} |" for name, value in figures.items()]
    return "\n".join(["| what | figure |", "|---|---|", *rows])


def _shown(name: str, value: float) -> str:
    if "%" in name:
        return f"{value:.1f}"
    return f"{value:.0f}" if value == int(value) or value > 10 else f"{value:.3f}"


def put_table(file: Path, table: str) -> None:
    """Replace what stands between the marks in `file`.  Raises InputError if they are not there."""
    text = file.read_text(encoding="utf-8")
    start, end = MARKS
    if start not in text or end not in text:
        raise InputError(f"{file} has no {start} … {end}")
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    file.write_text(pattern.sub(lambda _: f"{start}\n{table}\n{end}", text), encoding="utf-8")
