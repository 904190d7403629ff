"""`omni2 train …`: presets, their parts, and trained models taken up with new data; all go on where they stopped."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni2.errors import InputError
from omni2.terminal import plain_errors
from omni2.train.data_cli import data

if TYPE_CHECKING:
    from omni2.train.feed import Training
    from omni2.train.stages import Stage

__all__ = ["data", "train"]

train = typer.Typer(help="Train a model: a preset from the beginning, or --from a trained one on your own data.")

Runs = Annotated[Path, typer.Option(help="the folder that holds all parts and logs")]
From = Annotated[str, typer.Option("--from", help="the model to begin with: a folder, a hub id, or nano")]
Data = Annotated[list[str] | None, typer.Option(help="a folder or hub id of rows (omni2 data build); may be repeated")]
Out = Annotated[Path, typer.Option(help="checkpoints, log.jsonl, losses.png, and the trained model in model/")]
Processes = Annotated[int, typer.Option(help="on this machine; for several machines use torchrun or accelerate launch")]
StageName = Annotated[str | None, typer.Option(help="stop after this stage")]
Steps = Annotated[str, typer.Option(help='steps of each stage, as in "1200,800"; 0 leaves a stage out')]
Batch = Annotated[int | None, typer.Option(help="samples in each part of a step")]
Parts = Annotated[
    int | None,
    typer.Option(help="batches a step takes, shared out to the processes; by default one each"),
]
Average = Annotated[
    int, typer.Option(help="processes learn alone and average their weights every so many steps; 0 shares gradients")
]
Sharded = Annotated[bool, typer.Option(help="spread weights over the processes (FSDP2), for large models on GPUs")]
Workers = Annotated[int, typer.Option(help="processes that draw samples ahead, for a GPU; 0 draws between the steps")]
SaveEvery = Annotated[int, typer.Option(help="steps from one checkpoint to the next")]


@train.callback(invoke_without_command=True)
@plain_errors
def continued(
    context: typer.Context,
    start: From = "",
    data: Data = None,
    out: Out = Path("runs/continued"),
    lora: Annotated[int, typer.Option(help="rank of low-rank changes to the blocks; 0 trains all weights")] = 0,
    steps: Annotated[int, typer.Option(help="steps of the optimiser")] = 1000,
    rate: Annotated[
        float | None, typer.Option(help="peak learning rate; by default 2e-4 with --lora, else 5e-5")
    ] = None,
    batch: Batch = 8,
    parts: Parts = None,
    processes: Processes = 1,
    sharded: Sharded = False,
    save_every: SaveEvery = 200,
    seed: int = 0,
) -> None:
    """Train a preset from the beginning, or a trained model on new data, for another voice or field.

    omni2 train --from gpt-omni/mini-omni2 --data rows --lora 8 --out runs/mine
    """
    if context.invoked_subcommand:
        return
    if not start or not data:
        raise InputError("say what to train: a preset (omni2 train nano), or --from MODEL with --data FOLDER")
    from omni2.hub import load_bundle
    from omni2.train.fit import Plan, run
    from omni2.train.presets import continued as stage

    training = _training(batch, parts, processes, sharded, save_every, seed)
    stages = (stage(steps, rate or (2e-4 if lora else 5e-5), bool(lora)),)
    plan = Plan(partial(load_bundle, start), tuple(data), stages, out, training, lora=lora)
    typer.echo(f"the trained model is in {run(plan, processes)}")


@train.command()
@plain_errors
def nano(
    start: From = "",
    data: Data = None,
    runs: Runs = Path("runs"),
    vision: Annotated[str, typer.Option(help="the model whose vision encoder to take")] = "",
    stage: StageName = None,
    steps: Steps = "",
    batch: Batch = None,
    parts: Parts = None,
    processes: Processes = 2,
    average_every: Average = 0,
    workers: Workers = 0,
    save_every: SaveEvery = 200,
    seed: int = 0,
) -> None:
    """Train the embedded model: to understand, to speak, to generalise, to stay steady, to see, to hear.

    By default on all folders of rows below RUNS/data, with the codec in RUNS/codec; the model is in RUNS/lm/model.
    """
    from omni2.train.fit import Plan, run
    from omni2.train.nano import Workshop, begin, tokenizer
    from omni2.train.presets import NANO

    shop = Workshop(runs)
    if not start:
        tokenizer(shop)  # once, before there are several processes
    training = _training(batch or NANO.batch, parts, processes, False, save_every, seed, average_every, workers)
    stages = _stages(NANO.stages, stage, steps)
    rows = tuple(data or shop.sources())
    plan = Plan(partial(begin, shop, start, vision), rows, stages, shop.lm, training)
    typer.echo(f"the trained model is in {run(plan, processes)}")


@train.command(name="mini-omni2")
@plain_errors
def mini_omni2(
    start: From = "",
    data: Data = None,
    out: Out = Path("runs/mini-omni2"),
    qwen2: Annotated[str, typer.Option(help="the language model to begin with: a hub id or folder")] = "",
    encoders: Annotated[str, typer.Option(help="a hub id or folder with small.pt and ViT-B-32.pt")] = "",
    snac: Annotated[str, typer.Option(help="the codec: a hub id or folder")] = "",
    stage: StageName = None,
    steps: Steps = "",
    batch: Batch = None,
    parts: Parts = None,
    processes: Processes = 1,
    sharded: Sharded = False,
    save_every: SaveEvery = 500,
    seed: int = 0,
) -> None:
    """Train a model of the released shape in the three stages of the paper: adapters, language, speech.

    It begins from Qwen2-0.5B.  Rows are read streaming; make them with `omni2 data build SOURCE FOLDER` from the
    paper's sets, which the README lists.
    """
    from omni2 import checkpoint
    from omni2.hub import load_bundle
    from omni2.train import released
    from omni2.train.fit import Plan, run
    from omni2.train.presets import MINI_OMNI2

    if not data:
        sources = ", ".join(MINI_OMNI2.sources)
        raise InputError(f"give folders or hub ids of rows as --data; make them with `omni2 data build` from {sources}")
    new = partial(released.begin, qwen2 or released.QWEN2, encoders or checkpoint.MINI_OMNI2, snac or checkpoint.SNAC)
    training = _training(batch or MINI_OMNI2.batch, parts, processes, sharded, save_every, seed)
    stages = _stages(MINI_OMNI2.stages, stage, steps)
    begin = partial(load_bundle, start) if start else new
    typer.echo(f"the trained model is in {run(Plan(begin, tuple(data), stages, out, training, True), processes)}")


@train.command()
@plain_errors
def codec(
    start: From = "",
    runs: Runs = Path("runs"),
    decoder_only: Annotated[bool, typer.Option(help="leave the encoder and the codes as they are")] = False,
    steps: int = 3000,
    batch: Batch = None,
    rate: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    envelope: Annotated[float, typer.Option(help="weight of the envelopes' correlation")] = 1.0,
    adversarial: Annotated[float, typer.Option(help="the discriminator's share in the decoder's gradient")] = 0.1,
    adversarial_from: Annotated[int, typer.Option(help="the step at which the discriminator sets in")] = 0,
    save_every: SaveEvery = 250,
    threads: int = 2,
) -> None:
    """Train the embedded model's codec on RUNS/speech, or --decoder-only against a discriminator of spectrograms.

    The latter takes up RUNS/codec, or the codec of the model given as --from; RUNS/codec/codec.safetensors can replace
    the file of that name in any model with the same codes.
    """
    from omni2.train.codec_loop import CodecTraining
    from omni2.train.decoder_loop import DecoderTraining
    from omni2.train.nano import Workshop, make_codec, make_decoder

    if start and not decoder_only:
        raise InputError("a trained codec keeps its codes, which its models learned: add --decoder-only to --from")
    given = {"steps": steps, "batch": batch, "learning_rate": rate, "envelope": envelope, "save_every": save_every}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not decoder_only:
        make_codec(Workshop(runs), CodecTraining(**chosen), threads)
        return
    training = DecoderTraining(**chosen, adversarial=adversarial, adversarial_from=adversarial_from)
    make_decoder(Workshop(runs), start, training, threads)


@train.command()
@plain_errors
def eye(
    out: Annotated[Path, typer.Argument(help="the folder for the run, and for the model in its folder `model`")],
    start: From = "nano",
    steps: int = 1500,
    batch: Batch = None,
    rate: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    save_every: SaveEvery = 50,
    seed: int = 0,
    threads: int = 2,
) -> None:
    """Train the eye of nano, or of a model trained like it, on drawings by many artists."""
    from omni2.train.eye import EyeTraining
    from omni2.train.nano import make_eye

    given = {"batch": batch, "learning_rate": rate}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    training = EyeTraining(steps=steps, save_every=save_every, seed=seed, **chosen)
    typer.echo(f"the trained model is in {make_eye(start, out, training, threads)}")


@train.command()
@plain_errors
def turns(out: Path | None = None, count: int = 12_000, steps: int = 1200) -> None:
    """Train the network that hears whether a turn is finished, on COUNT questions, half of them broken off."""
    from omni2.duplex.finished import WEIGHTS
    from omni2.hub import load_bundle
    from omni2.train.turns import make

    nano = load_bundle("nano")
    right = make(nano.audio_encoder, nano.window, out or WEIGHTS, count, steps)
    typer.echo(", ".join(f"{name} turns known: {share:.1f} %" for name, share in right.items()))


@train.command()
@plain_errors
def overheard(
    folder: Annotated[Path, typer.Argument(help="windows made by `omni2 data interruption`")],
    out: Path | None = None,
    steps: int = 3000,
    rate: Annotated[float, typer.Option(help="peak learning rate")] = 6e-4,
    start: Annotated[Path | None, typer.Option("--from", help="the weights to begin with")] = None,
    back: Annotated[float, typer.Option(min=0, max=1, help="share of the way back to them at the end")] = 0.0,
) -> None:
    """Train the network that hears what is said over an answer: an order, a nod or other talk."""
    from omni2.duplex.overheard import WEIGHTS
    from omni2.train.overheard import make
    from omni2.train.reading import Fitting

    right = make(folder, out or WEIGHTS, Fitting(steps, 64, rate, careful=True, back=back), start)
    typer.echo(", ".join(f"{name} known: {share:.1f} %" for name, share in right.items()))


@train.command()
@plain_errors
def assets(runs: Runs = Path("runs"), out: Path | None = None) -> None:
    """Make RUNS/lm/model the package's own, mostly in int8, with its card."""
    from omni2.train.fit import MODEL
    from omni2.train.nano import ASSETS, Workshop, make_assets

    make_assets(Workshop(runs).lm / MODEL, out or ASSETS)


@train.command()
@plain_errors
def blend(
    model: Annotated[str, typer.Argument(help="the trained model: a folder or hub id")],
    other: Annotated[str, typer.Argument(help="the model it was trained from")],
    out: Annotated[Path, typer.Argument(help="the folder for the blend")],
    share: Annotated[float, typer.Option(help="of the other's weights, from 0 to 1")] = 0.2,
) -> None:
    """Blend the weights of a trained model with those it began from: what it learned too well comes back."""
    import torch

    from omni2.bundle import save
    from omni2.hub import load_bundle
    from omni2.train.nano import blend as blended

    save(blended(load_bundle(model), load_bundle(other), share), out, torch.float32)
    typer.echo(f"the blend is in {out}")


def _training(
    batch: int | None,
    parts: int | None,
    processes: int,
    sharded: bool,
    save_every: int,
    seed: int,
    average_every: int = 0,
    workers: int = 0,
) -> "Training":
    from omni2.train.feed import Training

    if (batch or 1) < 1 or (parts or processes) % processes:
        raise InputError(f"--batch is 1 or more, --parts a multiple of the {processes} processes")
    for name, number in {"--average-every": average_every, "--workers": workers}.items():
        if number < 0:
            raise InputError(f"{name} is 0 (none) or more, not {number}")
    return Training(
        batch or 1,
        parts or processes,
        seed=seed,
        save_every=save_every,
        sharded=sharded,
        average_every=average_every,
        workers=workers,
    )


def _stages(stages: "tuple[Stage, ...]", last: str | None, steps: str) -> "tuple[Stage, ...]":
    """The stages up to `last`, with as many steps as asked for."""
    if steps:
        try:
            numbers = [int(number) for number in steps.split(",")]
        except ValueError as error:
            raise InputError(f'--steps is whole numbers with commas between, not "{steps}"') from error
        if len(numbers) > len(stages) or min(numbers) < 0:
            raise InputError(f"--steps has a number for each of {', '.join(stage.name for stage in stages)}")
        stages = (*(replace(s, steps=n) for s, n in zip(stages, numbers, strict=False)), *stages[len(numbers) :])
    names = [stage.name for stage in stages]
    if last is not None and last not in names:
        raise InputError(f"no stage {last!r}; there are {', '.join(names)}")
    return stages if last is None else stages[: names.index(last) + 1]
