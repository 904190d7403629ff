"""What a training run is fed with: its options, and the batches of each part of its data, drawn ahead if need be."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module

import torch
from torch.utils.data import DataLoader

from omni2.errors import OmniError
from omni2.train.mixture import Mixture
from omni2.train.samples import Batch, Sample, collate
from omni2.train.sources import Place, Pool
from omni2.train.stages import Stage

GROUP = 8  # batches drawn together, so that samples of like length share one
UNSEEN = 1 << 20  # added to the seed of what is measured on


@dataclass(frozen=True)
class Training:
    """Options that hold for all stages.

    A step takes `parts` batches of `batch` samples, whatever the number of processes: each takes its share of them one
    after the other and adds the gradients up.  So a run's results do not depend on how many processes made it.
    Every `evaluate_every` steps the loss on `evaluation` held-out batches is taken, for each part.  `sharded` spreads
    weights and optimiser over the processes (FSDP2) instead of copying them.  `bfloat16` None is where it is fast.
    `workers` processes draw batches ahead, for a GPU that would else wait for them; data then have to be in memory.
    With `average_every` processes learn from their own parts alone and make their weights one every so many steps
    (local SGD, arXiv 1805.09767): for processes that wait long for each other; results then depend on how many there
    are, and a resumed run takes up the first one's optimiser.
    """

    batch: int = 32
    parts: int = 1
    weight_decay: float = 0.05
    clip: float = 1.0
    seed: int = 0
    save_every: int = 200
    log_every: int = 20
    evaluate_every: int = 200
    evaluation: int = 4
    keep: int = 2
    sharded: bool = False
    average_every: int = 0
    workers: int = 0
    bfloat16: bool | None = None


class Feed:
    """The batches of one part in one stage; which ones depends on (seed, stage, part, step) alone.

    Streamed data depend on where the streams stood as well: `place` is what to go back to for the next step.
    """

    def __init__(self, mixture: Mixture, stage: Stage, index: int, part: int, training: Training) -> None:
        self.mixture, self.stage, self.index, self.part, self.training = mixture, stage, index, part, training
        self._start, self._group = -1, list[list[Sample]]()
        self._before = mixture.source.place()

    def batch(self, step: int) -> Batch:
        """The batch of a step; steps come in a row."""
        start, at = step - step % GROUP, step % GROUP
        if start != self._start:
            self._start, self._before = start, self.mixture.source.place()
            seed = self.training.seed + self.index
            self._group = self.mixture.batches(self.stage, self.training.batch, start, seed, self.part, GROUP)
        generator = torch.Generator().manual_seed(hash((self.training.seed, self.index, self.part, step)) % 2**62)
        return collate(
            self._group[at], self.mixture.layout, self.mixture.config.audio_stride, self.stage.corrupted, generator
        )

    def batches(self, first: int, steps: int) -> Iterator[Batch]:
        """The batches from step `first` to the last of `steps`, drawn ahead by `workers` if there are any.

        Raises OmniError if they are to read streams, which one process alone can keep the place of.
        """
        if not self.training.workers:
            yield from map(self.batch, range(first, steps))
            return
        if not isinstance(self.mixture.source, Pool):
            raise OmniError("streamed data are read by one process; leave --workers out")
        groups = [range(max(start, first), min(start + GROUP, steps)) for start in range(0, steps, GROUP)]
        drawn: DataLoader[list[Batch]] = DataLoader(
            [group for group in groups if group],  # type: ignore[arg-type]
            batch_size=None,
            num_workers=self.training.workers,
            collate_fn=partial(_draw, self),
            pin_memory=torch.cuda.is_available(),
        )
        with _many_open_files():
            for group in drawn:
                yield from group

    def place(self, step: int) -> Place:
        """Where the data stand before `step` is drawn: at the beginning of its group."""
        return self._before if step % GROUP else self.mixture.source.place()

    def held_out(self) -> list[Batch]:
        """The batches that the stage is measured on; none if nothing is held out for its tasks."""
        try:
            unseen = self.mixture.of(self.mixture.source.held_out())
            stage = replace(unseen.possible(self.stage), masked=0.0, loose=0.0, restyled=0.0)
            drawn = unseen.batches(stage, self.training.batch, 0, UNSEEN, self.part, self.training.evaluation)
        except OmniError:
            return []
        return [collate(samples, unseen.layout, unseen.config.audio_stride) for samples in drawn]


@contextmanager
def _many_open_files() -> Iterator[None]:
    """As many as the system allows, for now: every tensor on its way from one process to another is an open file."""
    if os.name != "posix":
        yield
        return
    resource = import_module("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _draw(feed: Feed, steps: range) -> list[Batch]:
    """The batches of these steps, in a process of their own."""
    return [feed.batch(step) for step in steps]
