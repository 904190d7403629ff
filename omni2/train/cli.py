"""`omni2 data …` and `omni2 train …`: the embedded model's parts, one command each, all resumable."""

from pathlib import Path
from typing import Annotated

import typer

from omni2.terminal import plain_errors

data = typer.Typer(no_args_is_help=True, help="Make training data: speech, questions, codes.")
train = typer.Typer(no_args_is_help=True, help="Train the parts of the embedded model and put them together.")

Runs = Annotated[Path, typer.Option(help="the folder that holds all parts and logs")]


@data.command()
@plain_errors
def speech(runs: Runs = Path("runs"), hours: float = 2.5) -> None:
    """Read dictionary definitions aloud in the answer voice (needs Debian's wordnet-base)."""
    from omni2.train.nano import Workshop, make_speech

    make_speech(Workshop(runs), hours)


@data.command()
@plain_errors
def questions(runs: Runs = Path("runs"), phrasings: int = 40, passes: int = 2, workers: int = 2) -> None:
    """Say the training questions in many voices and keep encoder features (needs flite and espeak-ng)."""
    from omni2.train.nano import Workshop, make_questions

    make_questions(Workshop(runs), phrasings, passes, workers)


@data.command()
@plain_errors
def sentences(runs: Runs = Path("runs"), passes: int = 1, workers: int = 2) -> None:
    """Say everyday sentences in many voices and keep encoder features (needs wordnet-base, flite and espeak-ng)."""
    from omni2.train.nano import Workshop, make_sentences

    make_sentences(Workshop(runs), passes, workers)


@data.command()
@plain_errors
def codes(runs: Runs = Path("runs")) -> None:
    """Say the answers in the answer voice and keep the trained codec's codes."""
    from omni2.train.nano import Workshop, make_codes

    make_codes(Workshop(runs))


@train.command()
@plain_errors
def start(model: str = "nano", runs: Runs = Path("runs")) -> None:
    """Take up from a finished model: its codec, tokenizer and language model become the parts in `runs`."""
    from omni2.train.nano import Workshop, take_up

    take_up(Workshop(runs), model)


@train.command()
@plain_errors
def codec(runs: Runs = Path("runs"), steps: int = 3000, threads: int = 2) -> None:
    """Train the codec."""
    from omni2.train.nano import Workshop, make_codec

    make_codec(Workshop(runs), steps, threads)


@train.command()
@plain_errors
def lm(
    runs: Runs = Path("runs"),
    understand: int = 1200,
    speak: int = 800,
    generalise: int = 2400,
    steady: int = 200,
    batch: int = 32,
    processes: int = 2,
) -> None:
    """Train the language model: to understand and write, to speak, then to do so for unseen phrasings and voices."""
    from omni2.train.nano import Workshop, make_lm

    make_lm(Workshop(runs), (understand, speak, generalise, steady), batch, processes)


@train.command()
@plain_errors
def assets(runs: Runs = Path("runs"), out: Path | None = None) -> None:
    """Put the trained parts together as a model folder, by default the package's own."""
    from omni2.train.nano import ASSETS, Workshop, make_assets

    make_assets(Workshop(runs), out or ASSETS)
