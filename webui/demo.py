"""The spoken check of `make demo`: one recorded question through the server, and what is kept of it."""

from pathlib import Path

import typer

from omni2.client import Client, to_wav


def demonstrate(server: Client, question: Path, kept: Path) -> None:
    """Ask `question`, tell the answer while it comes and then its times, write its sound.  Raises OmniError."""
    typer.echo(f'Question  {question.name}: "{server.transcribe(question)}"')
    typer.echo("Answer    ", nl=False)
    with server.chat(question) as answer:
        for chunk in answer:
            typer.echo(chunk.text, nl=False)
        figures = answer.figures()
    kept.write_bytes(to_wav(answer.pcm))
    typer.echo(f"\n[{figures}, written to {kept}]")
