"""Ready-made trainings: which model begins, its stages, and where its data come from."""

from collections.abc import Mapping
from dataclasses import dataclass

from omni2.train.stages import Stage, Task, Trained


@dataclass(frozen=True)
class Preset:
    """Stages, samples a step, how the data are read, and `sources` to make these of with `omni2 data build`."""

    stages: tuple[Stage, ...]
    batch: int
    streamed: bool
    sources: tuple[str, ...]


SEEN: Mapping[Task, float] = {"VA1T2": 0.02, "VT1T2": 0.02, "VT2": 0.01}

WHOLE: Mapping[Task, float] = {
    **{"A1A2": 0.16, "T1A2": 0.05, "T1A1": 0.2, "A1T2": 0.14, "A1T1": 0.2, "T1T2": 0.06},
    **{"VA1T2": 0.04, "VT1T2": 0.04, "VT2": 0.02, "VA1A2": 0.02, "listen": 0.07},
}
# What stays behind is hearing: questions in voices and words never heard, when typed ones are answered.  Typed ones
# are cheap, and hold the ways of asking that were not recorded.
HEARD: Mapping[Task, float] = {**WHOLE, "A1T2": 0.26, "A1T1": 0.18, "T1A1": 0.12, "T1A2": 0.04, "T1T2": 0.2}

NANO = Preset(
    (
        # What is known is learned from text, where a sample costs a third of a spoken one; hearing has to reach it.
        Stage("understand", {"A1T1": 0.3, "A1T2": 0.35, "T1T2": 0.35, **SEEN}, steps=1200, learning_rate=1e-3),
        Stage(
            "speak",
            {"A1A2": 0.18, "T1A2": 0.06, "T1A1": 0.16, "A1T2": 0.3, "A1T1": 0.14, "T1T2": 0.16, **SEEN, "listen": 0.05},
            steps=800,
            learning_rate=1e-3,
            remembered=0.1,
        ),
        # A spoken answer is learned as a whole, code by code: said some thirty times, it is at 0.2 nats a code.
        Stage("generalise", WHOLE, steps=4600, learning_rate=1e-3, corrupted=0.1, remembered=0.1),
        # The rate stays, and the mean of the weights along the way comes out: it hears voices unlike those it learned
        # from better than what a falling rate ends with, and the mean of two such runs better still.
        Stage(
            "steady",
            HEARD,
            steps=3400,
            learning_rate=3e-4,
            warmup=100,
            floor=1.0,
            corrupted=0.1,
            masked=0.6,
            restyled=0.5,
            remembered=0.1,
            averaged=0.75,
        ),
        # The vision adapter alone: nothing else can be unlearned, and a sample is short.
        Stage("see", {"VT1T2": 0.75, "VT2": 0.25}, steps=1800, learning_rate=1e-3, trains="adapters", restyled=0.5),
        # The audio encoder and its adapter alone, so that no other ability can be unlearned: Whisper tiny seldom met
        # such voices and words.  Text is all there is to learn from: hearing is the same whatever the reply.  Two
        # times of two, voices never heard were understood better half the way back (`omni2 train blend --share 0.5`).
        Stage(
            "hear",
            {"A1T2": 0.5, "A1T1": 0.4, "listen": 0.1},
            steps=850,
            learning_rate=1.5e-4,
            warmup=50,
            trains="ear",
            sentences=0.3,
            masked=0.8,
            remembered=0.1,
        ),
    ),
    batch=32,
    streamed=False,
    sources=("corpus", "followups", "answers", "sentences"),
)

# The three stages: arXiv 2410.11190; rates and ranges of steps (here their middle): arXiv 2408.16725.  Shares of the
# tasks and the warm-up are not told there.
MINI_OMNI2 = Preset(
    (
        Stage(
            "adapters",
            {"A1T1": 0.7, "VT2": 0.3},
            steps=15_000,
            learning_rate=1e-3,
            floor=0.004,
            trains="adapters",
            heard=0.0,
            masked=0.0,
            loose=0.0,
            warmup=1500,
        ),
        Stage(
            "language",
            {"A1T1": 0.2, "A1T2": 0.3, "T1T2": 0.3, "VA1T2": 0.1, "VT1T2": 0.1},
            steps=25_000,
            learning_rate=4e-4,
            floor=0.01,
            trains="lm",
            heard=0.0,
            masked=0.0,
            loose=0.0,
            warmup=1500,
        ),
        Stage(
            "speech",
            {
                **{"A1A2": 0.3, "T1A2": 0.15, "A1T2": 0.1, "T1T2": 0.1, "A1T1": 0.1},
                **{"VA1A2": 0.1, "VT1A2": 0.05, "VA1T2": 0.05, "listen": 0.05},
            },
            steps=55_000,
            learning_rate=4e-4,
            floor=0.01,
            heard=0.0,
            masked=0.0,
            loose=0.0,
            warmup=1500,
        ),
    ),
    batch=24,
    streamed=True,
    sources=(
        "gpt-omni/VoiceAssistant-400K",
        "mythicinfinity/libritts",
        "CSTR-Edinburgh/vctk",
        "parler-tts/mls_eng",
        "Open-Orca/OpenOrca",
        "fnlp/moss-002-sft-data",
        "FreedomIntelligence/ALLaVA-4V",
    ),
)
PRESETS: Mapping[str, Preset] = {"nano": NANO, "mini-omni2": MINI_OMNI2}

CONTINUED: Mapping[Task, float] = {
    **{"A1A2": 0.3, "T1A2": 0.15, "T1A1": 0.1, "A1T2": 0.15, "T1T2": 0.1, "A1T1": 0.1},
    **{"VA1A2": 0.1, "VT1T2": 0.05, "VT2": 0.05, "listen": 0.1},
}


def continued(steps: int, learning_rate: float, lora: bool) -> Stage:
    """The stage that takes up a trained model with new data: all tasks that the data serve."""
    warmup = min(100, max(1, steps // 10))
    trains: Trained = "lora" if lora else "all"
    return Stage("continued", CONTINUED, steps, learning_rate, warmup, trains=trains, heard=0.0, masked=0.1, loose=0.0)
