"""One run of training from a model and data to a model folder, in one process or several."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from omni2.audio import to_waveform
from omni2.bundle import Bundle, save
from omni2.encoder import AudioEncoder
from omni2.errors import InputError
from omni2.train.data.pipeline import end_with_parent
from omni2.train.data.schema import Row
from omni2.train.ear import disguised, mels
from omni2.train.feed import Training
from omni2.train.loop import train
from omni2.train.lora import add_lora, merge_lora
from omni2.train.mixture import Mixture
from omni2.train.sources import open_source
from omni2.train.stages import KINDS, Stage
from omni2.vision import load_picture

MODEL = "model"  # the folder of the trained model within a run's

# Of a process on a CPU with glibc: tensors of a step are made in the pages of the step before, large ones, not in fresh
# ones that the kernel has to clear first (15-20 % of the time here).
KEEP_MEMORY = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in (("hugetlb", 1), ("mmap_threshold", 2**25), ("trim_threshold", 2**32), ("top_pad", 2**28))
)


@dataclass(frozen=True)
class Plan:
    """What to train: the model that `begin` makes (the same in every process), on `data`, folders and hub ids of rows.

    `streamed` reads the data as they come instead of holding them in memory.  `lora` is the rank of low-rank changes to
    the blocks, 0 to train the weights themselves.
    """

    begin: Callable[[], Bundle]
    data: tuple[str, ...]
    stages: tuple[Stage, ...]
    out: Path
    training: Training
    streamed: bool = False
    lora: int = 0


@dataclass(frozen=True)
class Encoders:
    """Gives rows the features they lack, by the encoders of the model in training."""

    bundle: Bundle

    def __call__(self, row: Row) -> Row:
        """`row` with features of its sound and picture.  Raises InputError: a sound or picture that cannot be used."""
        bundle = self.bundle
        if row.question_features is None and row.question_audio is not None:
            heard = bundle.audio_encoder.encode(to_waveform(row.question_audio), bundle.window)
            row = replace(row, question_features=heard.cpu())
        if row.picture_features is None and row.picture is not None and bundle.vision_encoder is not None:
            row = replace(row, picture_features=bundle.vision_encoder.encode(load_picture(row.picture)).cpu())
        return row

    def mels(self, row: Row, rng: np.random.Generator | None) -> Tensor:
        """The sound of a row as the encoder takes it (see `omni2.train.ear`), disguised by `rng`, if given.

        Raises InputError for one that cannot be used.
        """
        assert row.question_audio is not None
        n_mels = self.bundle.audio_encoder.n_mels
        heard = mels(to_waveform(row.question_audio), n_mels)
        return heard if rng is None else disguised(heard, n_mels, rng)


def run(plan: Plan, processes: int = 1) -> Path:
    """Train as planned and return the folder of the model, `plan.out`/model, which `OmniModel` loads.

    A run that was killed goes on where it stopped.  One thread a process on a CPU.  Under torchrun or `accelerate
    launch` it is one of their processes, and `processes` is ignored.
    Raises OmniError: nothing to train on, or a model or data that cannot be loaded.
    """
    if processes < 1:
        raise InputError(f"at least one process, not {processes}")
    if processes == 1 or "WORLD_SIZE" in os.environ:
        _work(0, plan, processes=None)
    else:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        if not torch.cuda.is_available():
            os.environ.setdefault("GLIBC_TUNABLES", KEEP_MEMORY)
        context = spawn(_work, (plan, processes, port), processes, join=False)  # type: ignore[no-untyped-call]
        try:
            while not context.join():
                pass
        finally:  # who is interrupted would otherwise leave processes that wait for each other, and for them at its end
            for process in context.processes:
                process.kill()
                process.join()
    return plan.out / MODEL


def _work(rank: int, plan: Plan, processes: int | None, port: int = 0) -> None:
    """One process of a run; `processes` is None where others have set the environment, or it is alone."""
    if processes is not None:
        end_with_parent()  # torch has them interrupted then, which a shell's background jobs ignore
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ |= {name: str(value) for name, value in ranks.items()}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        torch.set_num_threads(1)
    bundle = plan.begin()
    lm, encoders = bundle.trainable(), Encoders(bundle)
    if torch.cuda.is_available():
        for encoder in (bundle.audio_encoder, bundle.vision_encoder):
            if encoder is not None:
                encoder.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    source = open_source(plan.data, plan.streamed, plan.training.seed)
    frame_rate = bundle.codec.sample_rate / bundle.codec.frame_size
    mixture = Mixture(source, bundle.tokenizer, lm.layout, lm.config, frame_rate, encoders, encoders.mels)
    stages = [mixture.possible(stage if lm.config.vision_adapter_dim else _blind(stage)) for stage in plan.stages]
    if plan.lora:
        add_lora(lm, plan.lora, seed=plan.training.seed)
    ear = bundle.audio_encoder if isinstance(bundle.audio_encoder, AudioEncoder) else None
    train(lm, mixture, stages, plan.out, plan.training, ear)
    if int(os.environ.get("RANK", "0")) == 0:
        merge_lora(lm)
        learned = bundle.abilities.union(*(stage.abilities() for stage in stages))
        save(replace(bundle, lm=lm.requires_grad_(False).eval(), abilities=learned), plan.out / MODEL, torch.float32)


def _blind(stage: Stage) -> Stage:
    """`stage` without pictures."""
    return replace(stage, mixture={task: share for task, share in stage.mixture.items() if not KINDS[task].picture})
