"""The command line: `omni2 ask | transcribe | speak | convert | serve`, and what makes and measures `nano`."""

import json
import sys
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omni2.errors import InputError
from omni2.eval.cli import evaluate
from omni2.terminal import plain_errors
from omni2.train.cli import data, train

if TYPE_CHECKING:
    from omni2.omni import Answer, AnswerStream, OmniModel

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Spoken conversation with Mini-Omni2 models.")
app.add_typer(data, name="data")
app.add_typer(train, name="train")
app.add_typer(evaluate, name="eval")

Model = Annotated[str, typer.Option(help="nano, a folder, or a hub id such as gpt-omni/mini-omni2")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps …")]
Weights = Annotated[
    str,
    typer.Option(help="auto (the fastest the device has), float32 (exact), bfloat16 or int8", envvar="OMNI2_WEIGHTS"),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object a line")]
Save = Annotated[Path | None, typer.Option(help="write the spoken answer to this wav file")]


class Reply(str, Enum):
    """How to answer."""

    speech = "speech"
    text = "text"


@app.command()
@plain_errors
def ask(
    question: Annotated[Path | None, typer.Argument(help="a sound file with the question")] = None,
    text: Annotated[str | None, typer.Option(help="a typed question")] = None,
    image: Annotated[Path | None, typer.Option(help="a picture; alone it is described")] = None,
    reply: Annotated[Reply, typer.Option(help="speech and text, or text alone")] = Reply.speech,
    save: Save = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy; for text and sound alike")] = 0.0,
    top_k: Annotated[int, typer.Option(help="draw from the best so many; 0 is off")] = 0,
    top_p: Annotated[float, typer.Option(help="draw from this share of the probability; 1 is off")] = 1.0,
    seed: int = 0,
    beams: Annotated[int | None, typer.Option(help="texts searched side by side; by default the model's")] = None,
    cascade: Annotated[float, typer.Option(help="with --beams: what the question's transcript counts, beside 1")] = 0.0,
    model: Model = "nano",
    device: Device = "cpu",
    weights: Weights = "auto",
    as_json: Json = False,
) -> None:
    """Ask a question; the words appear as they are spoken."""
    from omni2.config import Pick, Sampling, Seek

    pick = Pick(temperature, top_k, top_p)
    loaded = _load(model, device, weights)
    began = time.perf_counter()
    sampling = Sampling(pick, pick, seed=seed, seek=None if beams is None else Seek(beams, cascade))
    chunks = loaded.stream(question, text=text, image=image, reply=reply.value, sampling=sampling)
    _tell(chunks, loaded.sample_rate, began, as_json, save)


@app.command()
@plain_errors
def transcribe(
    file: Annotated[Path, typer.Argument(help="a sound file")],
    model: Model = "nano",
    device: Device = "cpu",
    weights: Weights = "auto",
    as_json: Json = False,
) -> None:
    """Write down what is said."""
    heard = _load(model, device, weights).transcribe(file)
    typer.echo(json.dumps({"type": "transcript", "text": heard}) if as_json else heard)


@app.command()
@plain_errors
def speak(
    text: Annotated[str, typer.Argument(help="what to read aloud")],
    save: Save = None,
    model: Model = "nano",
    device: Device = "cpu",
    weights: Weights = "auto",
    as_json: Json = False,
) -> None:
    """Read a sentence aloud."""
    loaded = _load(model, device, weights)
    began = time.perf_counter()
    _tell(loaded.read_aloud(text), loaded.sample_rate, began, as_json, save)


@app.command()
@plain_errors
def convert(
    folder: Annotated[str, typer.Argument(help="a released folder or hub id")],
    out: Annotated[Path, typer.Argument(help="where to write the converted model")],
    half: Annotated[bool, typer.Option("--half", help="store float16 instead of float32")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="store int8, which starts in seconds")] = False,
    as_json: Json = False,
) -> None:
    """Turn a released checkpoint into safetensors and a config.json, which load faster."""
    import torch

    from omni2.bundle import AUDIO_ENCODER, MODEL, save
    from omni2.hub import load_bundle

    bundle = load_bundle(folder)
    compact = (MODEL, AUDIO_ENCODER) if int8 else ()
    save(bundle, out, torch.float16 if half or int8 else torch.float32, compact)
    report = {"type": "converted", "out": str(out), "abilities": sorted(bundle.abilities)}
    typer.echo(json.dumps(report) if as_json else f"{out}: {', '.join(sorted(bundle.abilities))}")


@app.command()
@plain_errors
def batch(
    source: Annotated[
        Path, typer.Argument(help="a folder of sound files, or a manifest: JSON lines with audio or text")
    ],
    out: Annotated[Path, typer.Option(help="where results.jsonl and the spoken answers go; run again, it goes on")],
    at_once: Annotated[int, typer.Option(min=1, help="conversations that share the steps")] = 8,
    reply: Annotated[Reply, typer.Option(help="speech and text, or text alone")] = Reply.speech,
    model: Model = "nano",
    device: Device = "cpu",
    weights: Weights = "auto",
    as_json: Json = False,
) -> None:
    """Answer many questions, several at once; a run that was stopped goes on where it was."""
    from omni2 import batch as many

    todo = many.items(source)
    loaded = _load(model, device, weights, at_once)
    with many.bar(len(todo), len({item.id for item in todo} & many.finished(out).keys())) as tell:
        for result in many.run(loaded, todo, out, at_once, reply.value):
            tell(result)
            if as_json:
                typer.echo(json.dumps({"type": "result", **result}))


@app.command()
@plain_errors
def bench(
    size: Annotated[
        str, typer.Option(help="released (random weights, no download), nano, or a model's folder")
    ] = "nano",
    weights: Weights = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of a table")] = False,
    plot: Annotated[Path | None, typer.Option(help="draw growth with context and conversations into this file")] = None,
) -> None:
    """Measure speed and memory on this machine, and how they grow with context and conversations."""
    import tempfile

    from omni2 import bench as measure
    from omni2.eval.report import as_json as to_json
    from omni2.eval.report import markdown

    with tempfile.TemporaryDirectory() as folder:
        name = folder if size == "released" else size
        if size == "released":
            typer.echo("making random weights of the released size", err=True)
            measure.write_released(Path(folder))
        table = measure.run(Path(size).name, name, weights, lambda what: typer.echo(what, err=True))
    typer.echo(json.dumps(to_json(table)) if as_json else markdown(table))
    if plot is not None:
        measure.draw(table, plot)


@app.command()
@plain_errors
def serve(
    ip: Annotated[str, typer.Option(help="the address to listen at; 0.0.0.0 is all of the machine's")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one")] = 60808,
    model: Annotated[str | None, typer.Option(help="nano (the default), a folder, or a hub id")] = None,
    device: Annotated[str | None, typer.Option(help="cpu (the default), cuda, mps …")] = None,
) -> None:
    """Answer over HTTP and WebSockets; limits are set by variables (OMNI2_API_KEY, OMNI2_MAX_SESSIONS and so on)."""
    from omni2.serve import run
    from omni2.serve.settings import Settings

    run.serve(Settings.from_environment(model=model, device=device), ip, port)


def _load(name: str, device: str, weights: str = "auto", at_once: int = 8) -> "OmniModel":
    from omni2.config import ROWS
    from omni2.omni import OmniModel
    from omni2.precision import as_weights

    try:
        return OmniModel.from_pretrained(name, device=device, weights=as_weights(weights), slots=ROWS * at_once)
    except RuntimeError as error:  # torch's words for a device that is not there
        raise InputError(f"cannot use the device {device!r}: {str(error).splitlines()[0]}") from error


def _tell(chunks: "AnswerStream", rate: int, began: float, as_json: bool, save: Path | None) -> None:
    """Print an answer as it comes and keep its sound."""

    def each(text: str, samples: int) -> None:
        if as_json:
            typer.echo(json.dumps({"type": "chunk", "text": text, "samples": samples}))
        else:
            typer.echo(text, nl=False)
        sys.stdout.flush()

    answer = chunks.collect(began, each)
    if save is not None:
        from omni2.codec.stream import write_wav

        write_wav(save, answer.audio, rate)
    typer.echo(json.dumps(summary(answer)) if as_json else f"\n{_figures(answer, save)}")


def summary(answer: "Answer") -> dict[str, object]:
    """The last object of `--json`: what was said and how long it took."""
    times = answer.timings
    return {
        "type": "answer",
        "text": answer.text,
        "seconds": round(times.audio, 3),
        "first_audio_ms": None if times.first_audio is None else round(1000 * times.first_audio),
        "rtf": None if times.rtf is None else round(times.rtf, 3),
        "finish_reason": answer.finish_reason,
    }


def _figures(answer: "Answer", save: Path | None) -> str:
    times = answer.timings
    if times.first_audio is None or times.rtf is None:
        return f"[text after {times.total:.2f} s]"
    kept = f", written to {save}" if save is not None else ""
    return (
        f"[first sound after {1000 * times.first_audio:.0f} ms, {times.audio:.1f} s of speech, "
        f"real-time factor {times.rtf:.2f}{kept}]"
    )
