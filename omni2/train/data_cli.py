"""`omni2 data …`: from text, recordings and pictures to shards of samples; every command goes on where it stopped."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni2.errors import InputError, OmniError
from omni2.terminal import plain_errors

if TYPE_CHECKING:
    from omni2.train.data.encode import Encode
    from omni2.train.data.pipeline import Skipped, Step
    from omni2.train.data.schema import Row

data = typer.Typer(no_args_is_help=True, help="Make training data: speech, samples, features and codes.")

Out = Annotated[Path, typer.Argument(help="the folder for the shards and manifest.json")]
Runs = Annotated[Path, typer.Option(help="the folder that holds all parts and logs")]
Workers = Annotated[int, typer.Option(help="processes")]
Against = Annotated[list[Path] | None, typer.Option(help="files and folders kept for evaluation, besides the bundled")]
Voices = Annotated[
    list[str] | None,
    typer.Option(
        "--voice",
        help="who asks: a voice, a pattern such as 'kokoro-*', or command:PROGRAM, may be repeated; else all training "
        "voices but Kokoro's",
    ),
]
AnswerVoice = Annotated[str, typer.Option(help='who answers: a voice, command:PROGRAM, or "none"')]
Model = Annotated[
    str | None,
    typer.Option(help="make features and codes at once: a model's name or folder, or whisper-tiny for its ear alone"),
]
Keep = Annotated[bool, typer.Option("--keep", help="keep sounds and pictures beside the features made of them")]
Codec = Annotated[Path | None, typer.Option(help="the folder of a codec in training, in place of the model's")]


@data.command()
@plain_errors
def build(
    source: Annotated[
        str,
        typer.Argument(
            help="corpus, followups, answers, sentences or definitions (this package's own); a json, jsonl or parquet "
            "file, a folder or hub id of them (question and answer, Open-Orca, MOSS, VoiceAssistant-400K, ALLaVA); "
            "a folder laid out as LibriSpeech or LibriTTS"
        ),
    ],
    out: Out,
    voices: Voices = None,
    answer_voice: AnswerVoice = "hibari",
    typed: Annotated[bool, typer.Option("--typed", help="leave the questions unspoken")] = False,
    model: Model = None,
    codec: Codec = None,
    keep: Keep = False,
    passes: Annotated[int, typer.Option(help="say each question so many times, in other voices and places")] = 1,
    phrasings: Annotated[int | None, typer.Option(help="of the corpus: at most so many of each question")] = None,
    first: Annotated[
        bool, typer.Option("--first", help="of the corpus: only what the first version learned (340 answers)")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="take only the first so many samples")] = None,
    augment: Annotated[bool, typer.Option(help="speed, pitch, rooms, telephones, noise for the questions")] = True,
    split: Annotated[str, typer.Option(help="of a hub id")] = "train",
    question: Annotated[str, typer.Option(help="of a table: the column of the questions")] = "question",
    answer: Annotated[str, typer.Option(help="of a table: the column of the answers")] = "answer",
    licence: Annotated[str, typer.Option(help="of a table: its licence, where it is not known")] = "",
    question_words: Annotated[int, typer.Option(help="of a table: leave out longer questions")] = 60,
    answer_words: Annotated[int, typer.Option(help="of a table: leave out longer answers")] = 100,
    pictures: Annotated[Path | None, typer.Option(help="of a table: where the paths of pictures begin")] = None,
    against: Against = None,
    workers: Workers = 2,
    seed: int = 0,
) -> None:
    """Turn a source into shards: text becomes speech, and with --model features and codes."""
    from omni2.train.data.leaks import Guard
    from omni2.train.data.own import SOURCES, own_rows
    from omni2.train.data.pipeline import make, repeat
    from omni2.train.data.questions import FIRST, TOPICS
    from omni2.train.data.readers import Table, is_speech_folder, speech_folder
    from omni2.train.data.speak import Speak

    asking = () if typed else _names(voices)
    steps: list[Step] = [Speak(asking, None if answer_voice == "none" else answer_voice, augment, seed)]
    rows: Callable[[], Iterable[Row | Skipped]]
    if source in SOURCES:
        rows = partial(own_rows, source, phrasings, seed, FIRST if first else TOPICS)
    elif is_speech_folder(Path(source)):
        rows = partial(speech_folder, Path(source))
    else:
        rows = Table(source, split, question, answer, licence, question_words, answer_words, pictures).rows
    taken = islice(repeat(rows, passes), limit)
    _report(make(taken, out, [*steps, *_encode(model, codec, keep)], workers=workers, guard=Guard(against or [])))


@data.command()
@plain_errors
def interruption(
    out: Out,
    count: Annotated[int, typer.Option(help="windows, a third of them with an order to stop")] = 20_000,
    phrase: Annotated[list[str] | None, typer.Option(help='what to stop at; else "Stop Omni"')] = None,
    near: Annotated[list[str] | None, typer.Option(help="what not to stop at, besides the list within")] = None,
    talk: Annotated[int, typer.Option(help="different sentences that people say besides")] = 400,
    snr: Annotated[tuple[float, float], typer.Option(help="dB of a phrase over all else, from and to")] = (0.0, 30.0),
    voices: Voices = None,
    answer_voice: AnswerVoice = "hibari",
    model: Model = None,
    keep: Keep = False,
    workers: Workers = 2,
    seed: int = 0,
) -> None:
    """Make windows of a microphone, each labelled irq or n-irq: orders to stop among speech, noise, babble and echo."""
    from omni2.train.data.interruption import PHRASES, Listen, windows
    from omni2.train.data.near import near_phrases
    from omni2.train.data.own import own_rows
    from omni2.train.data.pipeline import make

    try:
        sentences = own_rows("sentences", seed=seed)
    except OmniError:  # no dictionary: the corpus' questions do as well
        sentences = own_rows("corpus", seed=seed)
    texts = tuple(row.question_text for row in sentences[:talk])
    own = tuple(row.answer_text for row in own_rows("answers"))
    phrases, others = tuple(phrase or PHRASES), (*near_phrases(), *(near or ()))
    listen = Listen(_names(voices), answer_voice, texts, own, phrases, others, snr=snr, seed=seed)
    _report(make(windows(count, seed), out, [listen, *_encode(model, None, keep)], workers=workers, total=count))


@data.command()
@plain_errors
def pictures(
    out: Out,
    count: Annotated[int, typer.Option(help="pictures; each gives three rows")] = 5_000,
    voices: Voices = None,
    typed: Annotated[bool, typer.Option("--typed", help="leave the questions unspoken")] = False,
    model: Model = None,
    workers: Workers = 2,
    seed: int = 0,
) -> None:
    """Draw and imagine pictures, as features of the embedded eye, with questions about them and answers in text."""
    from omni2.train.data.pictures import QUESTIONS, Ask, rows
    from omni2.train.data.pipeline import make
    from omni2.train.data.speak import Speak

    speak = None if typed else Speak(_names(voices), None, seed=seed)
    ask = Ask(speak, _encoder(model, None))
    _report(make(rows(count, seed), out, [ask], workers=workers, total=count * QUESTIONS))


@data.command()
@plain_errors
def encode(
    folder: Annotated[Path, typer.Argument(help="shards with sounds and pictures, made without --model")],
    out: Out,
    model: Annotated[str, typer.Option(help="a model's name or folder, or whisper-tiny for its ear alone")] = "nano",
    codec: Codec = None,
    keep: Keep = False,
    workers: Workers = 2,
) -> None:
    """Turn the sounds and pictures of a folder into a model's features and codes, in another folder."""
    from omni2.train.data.encode import Encode
    from omni2.train.data.pipeline import make
    from omni2.train.data.store import read_manifest, read_rows

    if folder.resolve() == out.resolve():
        raise InputError("encode writes to another folder than it reads")
    total = read_manifest(folder).get("rows")
    _report(make(read_rows(folder), out, [Encode(model, codec, keep)], workers=workers, total=total))


@data.command()
@plain_errors
def check(
    folders: Annotated[list[Path], typer.Argument(help="folders of shards")],
    against: Against = None,
) -> None:
    """Make sure that nothing kept for evaluation is in a folder and that its files are what the manifest says."""
    from omni2.train.data.leaks import Guard
    from omni2.train.data.leaks import check as check_folder

    guard = Guard(against or [])
    for folder in folders:
        typer.echo(f"{folder}: {check_folder(folder, guard)} rows, none kept for evaluation")


@data.command()
@plain_errors
def speech(runs: Runs = Path("runs"), hours: float = 2.5) -> None:
    """Read dictionary definitions aloud in the answer voice, for the codec (needs Debian's wordnet-base)."""
    from omni2.train.data.sentences import definitions, split
    from omni2.train.data.speech import build_speech

    build_speech(split(definitions())[0], runs / "speech", hours)


def _names(voices: list[str] | None) -> tuple[str, ...]:
    """The voices an option names, by default `TRAINING`."""
    from omni2.train.data.voices import TRAINING, named

    return tuple(name for one in voices for name in named(one)) if voices else TRAINING


def _encode(model: str | None, codec: Path | None, keep: bool) -> "list[Step]":
    encoder = _encoder(model, codec, keep)
    return [encoder] if encoder is not None else []


def _encoder(model: str | None, codec: Path | None, keep: bool = False) -> "Encode | None":
    from omni2.train.data.encode import TINY, Encode

    return Encode(model or TINY, codec, keep) if model or codec else None


def _report(manifest: dict[str, Any]) -> None:
    """What a folder holds now, in one line."""
    hours = ", ".join(f"{hours:.2f} h of {name}" for name, hours in manifest["hours"].items() if hours)
    licences = ", ".join(manifest["licences"])
    typer.echo(f"{manifest['rows']} rows" + (f"; {hours}" if hours else "") + (f"; {licences}" if licences else ""))
