"""`omni2 eval …`: the figures of the model card and the README, printed again."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from omni2.terminal import plain_errors

evaluate = typer.Typer(no_args_is_help=True, help="Measure a model; needs the `dev` extra and the reserved voices.")


@evaluate.command()
@plain_errors
def nano(
    model: Annotated[str, typer.Option(help="nano or a folder of the same kind")] = "nano",
    questions: Annotated[
        int, typer.Option(help="in-scope questions; a quarter as many out of scope come on top")
    ] = 340,
    sentences: Annotated[int, typer.Option(help="unseen sentences through the codec")] = 40,
    update: Annotated[list[Path] | None, typer.Option(help="put the table between the marks in this file")] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="list every wrong answer on stderr")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of a table")] = False,
) -> None:
    """Right answers in reserved voices and unseen phrasings, word error rates, codec intelligibility."""
    from omni2.eval.questions import cases, right, run, table
    from omni2.eval.report import codec_figures, markdown, put_table
    from omni2.omni import OmniModel
    from omni2.train.data.questions import corpus, unknown

    began = time.perf_counter()
    loaded = OmniModel.from_pretrained(model)
    figures = {"load to ready, s": time.perf_counter() - began}
    results = run(loaded, cases(corpus(), unknown(), questions))
    figures |= table(results) | codec_figures(loaded.bundle.codec, sentences)
    if wrong:
        for r in results:
            if not right(r.spoken_reply, r.case.answer):
                typer.echo(f"{r.case.voice}: {r.case.question} [{r.transcript}] → {r.spoken_reply}", err=True)
    typer.echo(json.dumps(figures) if as_json else markdown(figures))
    for file in update or []:
        put_table(file, markdown(figures))
