"""`omni2 eval …`: every figure of the model card and the README, printed again, for any model."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omni2.terminal import plain_errors

if TYPE_CHECKING:
    from omni2.eval.everything import Session, Sizes
    from omni2.eval.report import Table
    from omni2.omni import OmniModel

evaluate = typer.Typer(no_args_is_help=True, help="Measure a model; needs the `dev` extra and the reserved voices.")

Model = Annotated[str, typer.Option(help="nano, a folder, or a hub id such as gpt-omni/mini-omni2")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps …")]
Weights = Annotated[str, typer.Option(help="auto (as the other commands have them), float32, bfloat16 or int8")]
Limit = Annotated[int | None, typer.Option(min=1, help="measure at most so many of everything")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object instead of a table")]
First = Annotated[bool, typer.Option("--first", help="ask only what the first version learned (340 answers)")]
Update = Annotated[
    list[Path] | None,
    typer.Option(help="put the figures between the marks in this file: all, or those that the table there has"),
]
Wrong = Annotated[bool, typer.Option("--wrong", help="list every wrong answer on stderr")]


@evaluate.command("all")
@plain_errors
def run_all(
    model: Model = "nano",
    limit: Limit = None,
    first: First = False,
    as_json: Json = False,
    update: Update = None,
    wrong: Wrong = False,
    device: Device = "cpu",
    weights: Weights = "auto",
) -> None:
    """Everything, in sizes for two cores, as one table with its targets and the released models' figures."""
    from omni2.eval.everything import QUICK, evaluate_all

    _tell(evaluate_all(_session(model, device, weights, limit, QUICK, first)), as_json, update, wrong, whole=True)


@evaluate.command()
@plain_errors
def qa(
    model: Model = "nano",
    data: Annotated[
        str | None, typer.Option(help="a jsonl file, a folder, or hub-id:config:split of questions")
    ] = None,
    limit: Limit = None,
    first: First = False,
    as_json: Json = False,
    update: Update = None,
    wrong: Wrong = False,
    device: Device = "cpu",
    weights: Weights = "auto",
) -> None:
    """Right answers: spoken and typed, in and out of scope, in noise, by topic and voice; or to a set of others."""
    if data is None:
        _run("qa", model, limit, first, as_json, update, wrong, device, weights)
        return
    from omni2.eval import sets

    questions = sets.cases(data, limit or 500)
    _tell(sets.table(data, sets.run(_load(model, device, weights), questions)), as_json, update, wrong)


@evaluate.command()
@plain_errors
def asr(
    model: Model = "nano",
    data: Annotated[Path | None, typer.Option(help="a folder laid out as LibriSpeech or LibriTTS")] = None,
    limit: Limit = None,
    first: First = False,
    as_json: Json = False,
    update: Update = None,
    wrong: Wrong = False,
    device: Device = "cpu",
    weights: Weights = "auto",
) -> None:
    """Word error rate of transcription: questions, unseen everyday sentences; or of a folder of recordings."""
    if data is None:
        _run("asr", model, limit, first, as_json, update, wrong, device, weights)
        return
    from omni2.eval import transcription
    from omni2.eval.recognise import recogniser

    cases, unused = transcription.folder_cases(data, limit or 500)
    table = transcription.table(transcription.run(_load(model, device, weights), cases, recogniser()))
    if unused:
        table.notes.append(f"{unused} recordings are missing, damaged or longer than 30 s")
    _tell(table, as_json, update, wrong)


def _command(name: str, what: str) -> None:
    """Add a command without options of its own."""

    @evaluate.command(name, help=what)
    @plain_errors
    def run(
        model: Model = "nano",
        limit: Limit = None,
        first: First = False,
        as_json: Json = False,
        update: Update = None,
        wrong: Wrong = False,
        device: Device = "cpu",
        weights: Weights = "auto",
    ) -> None:
        _run(name, model, limit, first, as_json, update, wrong, device, weights)


for _name, _what in {
    "tts": "Word error rate of what it reads aloud: new sentences of its answers' words, unseen everyday sentences.",
    "speech": "Word error rate of spoken answers against their own text.",
    "vision": "Drawings of an artist it never saw: what, which colour, how many; and photographs, one by one.",
    "interruption": "The stop command over babble: precision, recall, F1, delay; false stops an hour of other speech.",
    "duplex": "Both at once: orders, near misses, nods, coughs, echo, turns, pauses: stopped or not, and when.",
    "codec": "What the codec keeps of speech: STOI, log-mel distance, PESQ, word error rate before and after.",
    "latency": "Seconds to load, from the end of a question to the first sound, and of work a second of speech.",
}.items():
    _command(_name, _what)


@evaluate.command()
@plain_errors
def int8(
    model: Model = "nano", limit: Limit = None, first: First = False, as_json: Json = False, wrong: Wrong = False
) -> None:
    """What int8 weights, and the encoder's other window, change in answers and transcriptions."""
    from omni2.eval import precision
    from omni2.eval.questions import cases
    from omni2.omni import OmniModel
    from omni2.train.data.questions import FIRST, TOPICS, corpus

    exact, fast = (OmniModel.from_pretrained(model, weights=weights) for weights in ("float32", "int8"))
    asked = cases(corpus(FIRST if first else TOPICS), limit or 300)
    _tell(precision.run(exact, fast, asked), as_json, None, wrong)


@evaluate.command()
@plain_errors
def hearing(
    model: Model = "nano", limit: Limit = None, first: First = False, as_json: Json = False, device: Device = "cpu"
) -> None:
    """How surely it answers: nats of the right answers, and how many greedy decoding would give; in float32."""
    from omni2.eval import hearing
    from omni2.train.data.questions import FIRST, TOPICS, corpus

    loaded = _load(model, device, "float32")
    _tell(hearing.run(loaded, corpus(FIRST if first else TOPICS), limit or 600), as_json, None, False)


def _run(
    name: str,
    model: str,
    limit: int | None,
    first: bool,
    as_json: bool,
    update: list[Path] | None,
    wrong: bool,
    device: str,
    weights: str,
) -> None:
    from omni2.eval.everything import Sizes, evaluate

    _tell(evaluate(name, _session(model, device, weights, limit, Sizes(), first)), as_json, update, wrong)


def _session(name: str, device: str, weights: str, limit: int | None, sizes: "Sizes", first: bool) -> "Session":
    """The model, loaded, how long that took, and what it is asked about."""
    from omni2.eval.everything import Session
    from omni2.train.data.questions import FIRST, TOPICS, corpus

    began = time.perf_counter()
    model = _load(name, device, weights)
    loading, items = time.perf_counter() - began, corpus(FIRST if first else TOPICS)
    return Session(model, sizes if limit is None else sizes.limited(limit), loading, items)


def _load(name: str, device: str, weights: str) -> "OmniModel":
    from omni2.omni import OmniModel
    from omni2.precision import as_weights

    return OmniModel.from_pretrained(name, device=device, weights=as_weights(weights))


def _tell(table: "Table", as_json: bool, update: list[Path] | None, wrong: bool, whole: bool = False) -> None:
    """Print the table, list what was wrong, put it into the files: all of it, or the rows that are there."""
    from omni2.eval.report import as_json as to_json
    from omni2.eval.report import markdown, put_table, refreshed

    typer.echo(json.dumps(to_json(table)) if as_json else markdown(table))
    for file in update or []:
        put_table(file, lambda old: markdown(table) if whole else refreshed(old, table))
    for line in table.wrong if wrong else ():
        typer.echo(line, err=True)
