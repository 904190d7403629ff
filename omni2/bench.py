"""`omni2 bench`: how fast a model runs on this machine, and what it costs as contexts and conversations grow.

The released size has random weights: speed does not depend on them, and nothing has to be downloaded.
"""

import dataclasses
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from torch import Tensor

from omni2 import bundle as own
from omni2.audio import SAMPLE_RATE
from omni2.codec.stream import CHUNK_FRAMES
from omni2.config import ModelConfig
from omni2.encoder import AudioEncoder, Window
from omni2.engine import Conversation, Engine
from omni2.eval.report import Figure, Table
from omni2.model import OmniLM
from omni2.omni import AnswerStream, OmniModel
from omni2.precision import as_weights
from omni2.prompt import Prompt
from omni2.tokens import RELEASED
from omni2.weights import SCALE

CONTEXT = 500  # positions, where steps are timed
CONTEXTS = (100, 500, 1000, 1900)
CONVERSATIONS = (1, 2, 4, 8, 16)
FURTHER = 8  # conversations beside the first, whose memory is taken
QUESTION = 3.0  # seconds of sound
RUNS = 9  # of which the median counts

SIZES = ModelConfig(24, 14, 2, 64, 896, 4864, 2048, 768)  # gpt-omni/mini-omni2's, without its eye
EAR = {"n_mels": 80, "n_ctx": 1500, "width": 768, "heads": 12, "layers": 12}
SNAC = {
    "sampling_rate": 24_000,
    "encoder_dim": 48,
    "encoder_rates": [2, 4, 8, 8],
    "latent_dim": None,
    "decoder_dim": 1024,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": 1 << 12,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}


def write_released(folder: Path) -> None:
    """A folder of the released size, random weights in int8, as `omni2 convert --int8` writes it."""
    from omni2.codec.snac import SnacCodec
    from snac import SNAC as SnacModel  # noqa: N811 isort: skip (its warning is silenced there)

    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        lm, ear = OmniLM(SIZES, RELEASED), AudioEncoder(**EAR)
    save_file(random_state(lm.state_dict()), folder / own.MODEL)
    heard = {name: value for name, value in ear.state_dict().items() if name != own.POSITIONS}
    save_file(random_state(heard), folder / own.AUDIO_ENCODER)
    codec = SnacCodec.from_state(SNAC, SnacModel(**SNAC).state_dict()).model
    save_file({name: value.contiguous() for name, value in codec.state_dict().items()}, folder / own.CODEC)
    Tokenizer(models.BPE()).save(str(folder / own.TOKENIZER))
    config = {
        "format": own.FORMAT,
        "name": "released size, random weights",
        "abilities": ["answer", "transcribe"],
        "window": "exact",
        "model": dataclasses.asdict(SIZES),
        "layout": dataclasses.asdict(RELEASED),
        "audio_encoder": EAR,
        "vision_encoder": None,
        "codec": {"kind": "snac", "noise": True, "depthwise": True}
        | {key: getattr(codec, key) for key in own.SNAC_KEYS},
    }
    (folder / own.CONFIG).write_text(json.dumps(config), encoding="utf-8")


def random_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the shapes of `state`: matrices and convolutions in int8 with scales, the rest ones and zeros."""
    made: dict[str, Tensor] = {}
    for name, value in state.items():
        if value.ndim > 1 and value[0].numel() >= 64:
            made[name] = torch.randint(-127, 128, value.shape, dtype=torch.int8)
            made[name + SCALE] = torch.full(value.shape[:1], 0.01 / value[0].numel() ** 0.5, dtype=torch.float16)
        else:
            made[name] = torch.ones(value.shape) if name.endswith("weight") else torch.zeros(value.shape)
    if "embedding.weight" in made:  # no special token is ever the likeliest, so that answers go on
        scale, layout = made["embedding.weight" + SCALE], RELEASED
        scale[layout.text_ids : layout.text_block] = 0
        scale[layout.text_block :].view(7, -1)[:, layout.codebook_size :] = 0
    return made


def clock(call: Callable[[], object], runs: int = RUNS) -> float:
    """Median milliseconds of `call`, after two calls to warm up."""
    times = []
    for run in range(runs + 2):
        began = time.perf_counter()
        call()
        if run > 1:
            times.append(1000 * (time.perf_counter() - began))
    return median(times)


def resident() -> float:
    """Megabytes of memory this process holds now; where there is no /proc, the most it ever held."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def bandwidth() -> float:
    """Gigabytes a second that all threads read together, of 400 MB that fit into no cache."""
    data = torch.ones(100_000_000)
    return 400 / clock(data.sum, 5)


class Bench:
    """The measurements of one loaded model."""

    def __init__(self, model: OmniModel, name: str) -> None:
        self.model, self.name = model, name
        self.wave = (0.1 * np.random.default_rng(0).standard_normal(round(QUESTION * SAMPLE_RATE))).astype(np.float32)

    def figure(self, key: str, what: str, value: float, unit: str = "ms") -> Figure:
        """One number under this model's name."""
        return Figure(f"bench.{self.name}.{key}", what, value, unit)

    @contextmanager
    def live(self, n: int, context: int, pair: bool = True) -> Iterator[Callable[[], None]]:
        """`n` conversations whose rows stand at position `context`; yields what makes one step of all."""
        engine = Engine(self.model.bundle.lm, 2 * n)

        def begin() -> Conversation:
            nonlocal engine
            if not pair:  # the row taken away below never comes back to its engine
                engine = Engine(self.model.bundle.lm, 2 * n)
            talk = engine.submit(self.prompt(0.2))
            if not pair:
                talk._turn.text_ended = True
                del talk._turn.rows[1:]
            for row in talk._turn.rows:
                row.position = min(context, self.model.bundle.lm.config.block_size - 40)
            return talk

        talks = [begin() for _ in range(n)]

        def step() -> None:
            for i, talk in enumerate(talks):
                if next(talk, None) is None:  # it ended: another takes its place, too rarely to move a median
                    talks[i] = begin()

        yield step

    def prompt(self, seconds: float) -> Prompt:
        """A spoken question, its features zeros."""
        features = torch.zeros(int(seconds * 50) + 1, self.model.bundle.audio_encoder.width)
        return self.model.prompts.spoken(features)

    def steps(self) -> list[Figure]:
        """One step, of more positions and of more conversations."""
        figures, speed = [], bandwidth()
        size = sum(v.numel() for v in step_weights(self.model)) / 1e6  # MB a step at one byte a weight
        for n, context, pair in [
            (1, CONTEXT, True),
            (1, CONTEXT, False),
            *((n, CONTEXT, True) for n in CONVERSATIONS[1:]),
            *((1, context, True) for context in CONTEXTS if context != CONTEXT),
        ]:
            with self.live(n, context, pair) as step:
                took = clock(step)
            what = f"a step of {n} pair{'s' * (n > 1)}, {context} positions" if pair else "… after the text has ended"
            figures.append(self.figure(f"step.{n}.{context}{'' if pair else '.speech'}", what, took))
        share = 100 * size / speed / figures[0].value
        figures.append(self.figure("bandwidth", "memory bandwidth read by torch", speed, "GB/s"))
        return [*figures, self.figure("bandwidth.share", "… of which a step uses, int8 weights", share, "%")]

    def waiting(self) -> list[Figure]:
        """From a question to its first sound, part by part and together."""
        ear, engine, prompt = self.model.bundle.audio_encoder, self.model.engine, self.prompt(2)
        figures = [self.figure("prefill", "prefill of a 2 s question", clock(lambda: engine.submit(prompt).close(), 5))]
        windows: tuple[Window, ...] = ("trimmed", "exact")
        for window in windows:
            took = clock(lambda window=window: ear.encode(self.wave, window), 5)  # type: ignore[misc]
            figures.append(self.figure(f"encoder.{window}", f"question encoder, 3 s question, {window} window", took))
        for window in windows:
            took = clock(lambda window=window: self._first(window), 3)  # type: ignore[misc]
            figures.append(self.figure(f"first.{window}", f"end of question to first samples, {window} window", took))
        heard = self.model.hear(self.wave)
        what = "… when the encoder starts in the pause that ends the turn"
        early = clock(lambda: self._first_sound(self.model.stream(heard)), 3)
        return [*figures, self.figure("first.early", what, early)]

    def _first(self, window: Window) -> None:
        self._first_sound(self.model.stream(self.wave, window=window))

    @staticmethod
    def _first_sound(stream: AnswerStream) -> None:
        with stream as chunks:
            while not next(chunks).audio.size:
                pass

    def sound(self) -> list[Figure]:
        """The codec, and how many conversations keep up with real time, sound included."""
        codec = self.model.bundle.codec
        frame = codec.frame_size / codec.sample_rate
        codes = torch.randint(0, 1000, (CHUNK_FRAMES + sum(codec.context), 7))
        kept = (codec.context[0], codec.context[0] + CHUNK_FRAMES)
        took = clock(lambda: codec.decode(codes, seed=0, kept=kept), 5)
        what = f"codec, times faster than real time, {CHUNK_FRAMES} frames a chunk"
        figures = [self.figure("codec", what, 1000 * CHUNK_FRAMES * frame / took, "")]
        keeping = 0
        for n in count(1):
            with self.live(n, CONTEXT) as step:
                together = clock(step, 5) + n * took / CHUNK_FRAMES
            if together > 1000 * frame or n > 64:
                break
            keeping = n
        what = "conversations in real time at once: step and codec one after the other"
        return [*figures, self.figure("conversations", what, keeping, "")]


def step_weights(model: OmniModel) -> Iterator[Tensor]:
    """The matrices that one step of a pair reads, as shapes without memory."""
    with torch.device("meta"):
        lm = OmniLM(model.bundle.lm.config, model.bundle.lm.layout)
    return (value for name, value in lm.state_dict().items() if value.ndim > 1 and "adapter" not in name)


def starting(folder: str, weights: str) -> tuple[float, float, float]:
    """Seconds from nothing to a model that has answered, its megabytes, and those that each of `FURTHER` conversations
    adds, in a process of its own: one that did more before has memory to spare."""
    code = (
        "import sys, time, numpy as np; began = time.perf_counter()\n"
        "from omni2 import OmniModel\n"
        "from omni2.config import ROWS\n"
        "further = int(sys.argv[3])\n"
        "model = OmniModel.from_pretrained(sys.argv[1], weights=sys.argv[2], slots=ROWS * (1 + further))\n"
        "ready = time.perf_counter() - began\n"
        "sound = np.sin(np.arange(48000) / 9).astype(np.float32)\n"
        "first = model.stream(sound)\n"
        "for _ in range(12): next(first, None)\n"
        "from omni2.bench import resident; held = resident()\n"
        "others = [model.stream(sound) for _ in range(further)]\n"
        "for _ in range(100): [next(one, None) for one in others]\n"
        "print(ready, held, (resident() - held) / further)"
    )
    command = [sys.executable, "-c", code, folder, weights, str(FURTHER)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ready, held, more = map(float, done.stdout.split())
    return ready, held, more


def machine() -> str:
    """Processor, threads and versions in one line."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    parts = [names[0] if names else platform.processor() or platform.machine(), f"{torch.get_num_threads()} threads"]
    parts += [f"{name} {version(name)}" for name in ("torch", "openvino", "omni2")]
    return ", ".join([*parts, f"Python {platform.python_version()}"])


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def run(name: str, folder: str, weights: str, each: Callable[[str], None] = lambda what: None) -> Table:
    """Everything about the model in `folder` (a name as for `from_pretrained`); `each` is told what comes next."""
    each("starting")
    ready, held, more = starting(folder, weights)
    each("loading")
    bench = Bench(OmniModel.from_pretrained(folder, weights=as_weights(weights), slots=64), name)
    figures = [
        bench.figure("start", "start to ready", ready, "s"),
        bench.figure("memory.answering", "resident memory, one conversation, in a fresh process", held, "MB"),
        bench.figure("memory.more", "each further conversation", more, "MB"),
    ]
    for part in (bench.steps, bench.waiting, bench.sound):
        each(part.__name__)
        measured = part()
        for figure in measured:
            each(f"  {figure.what}: {figure}")
        figures += measured
    return Table(figures, [f"{machine()}; weights {weights}; medians of up to {RUNS} runs"])


def draw(table: Table, file: Path) -> None:
    """Milliseconds a step over positions, and over conversations, as a picture."""
    from matplotlib.figure import Figure as Plot

    values = {figure.key.split(".step.")[-1]: figure.value for figure in table.figures if ".step." in figure.key}
    plot = Plot(figsize=(9, 3.5), layout="constrained")
    for axes, name, points in zip(
        plot.subplots(1, 2),
        ("positions of context", "conversations"),
        ([(n, f"1.{n}") for n in CONTEXTS], [(n, f"{n}.{CONTEXT}") for n in CONVERSATIONS]),
        strict=True,
    ):
        axes.plot([n for n, _ in points], [values[key] for _, key in points], "o-")
        axes.set(xlabel=name, ylabel="ms a step", ylim=(0, None))
    plot.savefig(file)
