"""Spoken training questions as encoder features on disk: voice → augmentation → Whisper encoder, in resumable shards.

A shard is one safetensors file: `features` (frames, width) float16 of all its questions one behind the other, `ends`
(n,) int64 where each stops, and in its metadata the questions' texts and voices.
"""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from omni2.audio import to_waveform
from omni2.errors import OmniError
from omni2.train.data.augment import augment
from omni2.train.data.voices import CLEAR, TRAINING, trim, voice
from omni2.train.encoder import load_tiny

SIZE = 256  # questions a shard
CLEAR_SHARE = 0.5  # of the questions are drawn from the natural voices alone, the rest from all


@dataclass(frozen=True)
class Spoken:
    """One spoken question: what was said, by whom, and its encoder features (frames, width) float16."""

    text: str
    voice: str
    features: Tensor


def build_questions(texts: Sequence[str], folder: Path, passes: int, workers: int = 1, seed: int = 0) -> None:
    """Say each of `texts` in drawn voices until it was said `passes` times; what `folder` holds already counts."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = sorted(folder.glob("questions-*.safetensors"))
    said = Counter(text for path in shards for text in _texts(path))
    missing = []
    for turn in range(passes):
        order = np.random.default_rng((seed, turn)).permutation(len(texts))
        missing += [texts[i] for i in order if said[texts[i]] <= turn]
    first = 1 + max((int(path.stem.split("-")[1]) for path in shards), default=-1)
    jobs = []
    for number, at in enumerate(range(0, len(missing), SIZE), first):
        path = folder / f"questions-{number:05d}.safetensors"
        jobs.append((path, missing[at : at + SIZE], (seed, number)))
    if workers == 1:
        for job in track(jobs, description="question shards"):
            _build_shard(job)
        return
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in track(pool.map(_build_shard, jobs), description="question shards", total=len(jobs)):
            pass


def _texts(path: Path) -> list[str]:
    with safe_open(path, "pt") as shard:
        texts: list[str] = json.loads(shard.metadata()["texts"])
    return texts


def _build_shard(job: tuple[Path, list[str], tuple[int, int]]) -> None:
    path, texts, seed = job
    rng, encoder = np.random.default_rng(seed), load_tiny()
    features, names = [], []
    for text in texts:
        names.append(str(rng.choice(CLEAR if rng.random() < CLEAR_SHARE else TRAINING)))
        wave, rate = voice(names[-1]).say(text)
        wave = to_waveform(augment(to_waveform(trim(wave, rate), rate), rng))
        features.append(encoder.encode(wave, "trimmed").half())
    ends = torch.tensor([f.shape[0] for f in features]).cumsum(0)
    part = path.with_suffix(".part")
    metadata = {"texts": json.dumps(texts), "voices": json.dumps(names)}
    save_file({"features": torch.cat(features), "ends": ends}, part, metadata)
    part.replace(path)


def read_questions(folder: Path) -> list[Spoken]:
    """All questions of the shards in `folder`, held in memory. Raises OmniError if there are none."""
    spoken: list[Spoken] = []
    for path in sorted(folder.glob("questions-*.safetensors")):
        with safe_open(path, "pt") as shard:
            texts, names = (json.loads(shard.metadata()[key]) for key in ("texts", "voices"))
            ends = shard.get_tensor("ends").tolist()
            pieces = shard.get_tensor("features").tensor_split(ends[:-1])
        spoken += map(Spoken, texts, names, pieces)
    if not spoken:
        raise OmniError(f"no question shards in {folder}; make them with `omni2 data questions`")
    return spoken
