"""Rows to train toys on: every task, a few of each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import torch
from torch import Tensor
from toys import HEARD, LAYOUT, tiny_bundle, tiny_lm, tiny_tokenizer, tone

from omni2.audio import SAMPLE_RATE
from omni2.bundle import Bundle
from omni2.train.data.schema import Row, keyed
from omni2.train.data.sound import flac
from omni2.train.data.store import summarise, write_shard
from omni2.train.feed import Training
from omni2.train.fit import Plan
from omni2.train.mixture import Mixture
from omni2.train.sources import Pool
from omni2.train.stages import Stage

datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # five seconds at the end of every stream

CONFIG = tiny_lm(block_size=128, stride=2).config
FRAME_RATE = 24_000 / 2048
SECONDS = (0.4, 0.32, 0.56)  # whole frames: mels end with the frame that a sound breaks off in
QUESTIONS = {"the cat": ("what is it", "who is it"), "paris": ("capital", "the capital")}


def frames(n: int, seed: int = 0) -> Tensor:
    """Codes of so many frames."""
    return torch.randint(0, LAYOUT.codebook_size, (n, 7), generator=torch.Generator().manual_seed(seed))


def rows(sentences: tuple[str, ...] = (), heard: int = HEARD, seen: int = 0, listens: bool = False) -> list[Row]:
    """Two answers with two questions each, one out of scope; their codes in rows to read; what else is asked for."""
    generator = torch.Generator().manual_seed(3)

    def sound(n: int) -> Tensor:
        return torch.randn(n, heard, generator=generator).half()

    made = []
    for answer, questions in (*QUESTIONS.items(), ("no", ("there",))):
        topic = "unknown" if answer == "no" else "t"
        made += [
            Row(
                "",
                "answer",
                "toy",
                "MIT",
                topic,
                question_text=q,
                question_features=sound(5 + len(q)),
                answer_text=answer,
            )
            for q in questions
        ]
    for i, answer in enumerate((*QUESTIONS, "no")):
        made.append(Row("", "read", "toy", "MIT", answer_text=answer, answer_codes=frames(3 + i, i)))
    made += [Row("", "transcribe", "toy", "MIT", question_text=s, question_features=sound(9)) for s in sentences]
    if seen:
        shown = [torch.randn(5, seen, generator=generator).half() for _ in range(3)]
        for i, (name, picture) in enumerate(zip(("a cat", "a dog", "a car"), shown, strict=True)):
            question = {"question_text": "what", "question_features": sound(6)} if i else {}
            row = Row("", "see", "toy", "MIT", picture_features=picture, answer_text=name, answer_codes=frames(2, i))
            made.append(replace(row, **question))
    if listens:
        made += [
            Row("", "listen", "toy", "MIT", sha256=str(i), question_features=sound(8), label=label)
            for i, label in enumerate(("irq", "n-irq", "n-irq", "n-irq"))
        ]
    return [keyed(row) for row in made]


def sounding() -> list[Row]:
    """Questions as sounds, for a stage that trains the ear."""
    made = [
        Row("", "answer", "toy", "MIT", "t", question_text=f"a {n}", answer_text="cat", question_audio=sound)
        for n, sound in enumerate(flac(tone(s, 300 + 100 * s), SAMPLE_RATE) for s in SECONDS)
    ]
    return [keyed(row) for row in (*made, Row("", "read", "toy", "MIT", answer_text="cat", answer_codes=frames(3)))]


def mixture(sentences: tuple[str, ...] = (), one_in: int = 0, **more: object) -> Mixture:
    """All of `rows` in memory; prompts of the toy with two frames a position."""
    return Mixture(Pool(rows(sentences, **more), one_in), tiny_tokenizer(), LAYOUT, CONFIG, FRAME_RATE)


def write(folder: Path, made: list[Row], shards: int = 2) -> str:
    """`made` as a folder of shards."""
    folder.mkdir(parents=True)
    for number in range(shards):
        write_shard(made[number::shards], folder / f"rows-{number:05d}.parquet")
    summarise(folder)
    return str(folder)


STAGES = (
    Stage("one", {"A1T2": 1.0, "A1T1": 0.5, "T1T2": 0.5}, steps=6, learning_rate=1e-3, warmup=2),
    Stage("two", {"A1A2": 1.0, "T1A2": 0.5, "T1A1": 0.5}, steps=5, learning_rate=1e-3, warmup=2, corrupted=0.1),
)


def toy() -> Bundle:
    """What a plan begins with."""
    return replace(tiny_bundle(), lm=tiny_lm(block_size=128, stride=2).float())


def plan(folder: Path, out: str, stages: tuple[Stage, ...] = STAGES, **options: object) -> Plan:
    """A run on `folder`/data."""
    begin: Callable[[], Bundle] = options.pop("begin", toy)
    training = Training(batch=4, save_every=4, log_every=1, evaluate_every=4, evaluation=1, bfloat16=False)
    chosen = {name: options.pop(name) for name in ("streamed", "lora") if name in options}
    return Plan(begin, (str(folder / "data"),), stages, folder / out, replace(training, **options), **chosen)
