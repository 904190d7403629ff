"""Many questions through the batched engine: `omni2 batch FOLDER|MANIFEST --out DIR`.

    DIR/results.jsonl   one line a question, in the order they were done
    DIR/ID.wav          the spoken answer

A line is written when its sound is on disk, so a run that was killed goes on where it stopped: what has a line is
done, half a line at the end is cut off, and nothing is answered twice or left out.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from omni2.codec.stream import write_wav
from omni2.config import Sampling
from omni2.errors import InputError, OmniError
from omni2.omni import OmniModel
from omni2.prompt import Reply

RESULTS = "results.jsonl"
CHUNK = 32  # frames decoded at once: nobody waits for the first, and each chunk needs some around it
SOUNDS = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".webm", ".mp4"}


@dataclass(frozen=True)
class Item:
    """One question: a sound file or a text, and the name its answer goes by."""

    id: str
    audio: Path | None = None
    text: str | None = None


def items(source: Path) -> list[Item]:
    """All sound files below a folder, or the lines of a manifest: JSON objects with "audio" or "text", and "id".

    Paths in a manifest are relative to it; without "id" the line's number counts.  Raises InputError: nothing there,
    a line that is no such object, or an id that comes twice or cannot be a file's name.
    """
    if source.is_dir():
        files = sorted(file for file in source.rglob("*") if file.suffix.lower() in SOUNDS)
        found = [Item("--".join(file.relative_to(source).parts), file) for file in files]
    elif source.is_file():
        lines = source.read_text(encoding="utf-8").splitlines()
        found = [_item(line, n, source) for n, line in enumerate(lines, 1) if line.strip()]
    else:
        raise InputError(f"{source} is neither a folder nor a manifest")
    if not found:
        raise InputError(f"{source} holds no questions")
    seen: set[str] = set()
    for item in found:
        if item.id in seen or item.id in ("", ".", "..") or "/" in item.id or "\\" in item.id:
            raise InputError(f"{source}: the id {item.id!r} comes twice or cannot be a file's name")
        seen.add(item.id)
    return found


def _item(line: str, number: int, source: Path) -> Item:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"{source}, line {number}: not JSON") from error
    audio, text = (entry.get("audio"), entry.get("text")) if isinstance(entry, dict) else (None, None)
    if (isinstance(audio, str)) == (isinstance(text, str)):
        raise InputError(f'{source}, line {number}: give "audio" or "text"')
    return Item(str(entry.get("id", number)), None if audio is None else source.parent / audio, text)


def finished(out: Path) -> dict[str, dict[str, Any]]:
    """The results in `out` by id; half a line that a kill left at the end is cut off the file."""
    file = out / RESULTS
    if not file.is_file():
        return {}
    data = file.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        with file.open("r+b") as cut:
            cut.truncate(len(whole))
    return {result["id"]: result for result in map(json.loads, whole.decode().splitlines())}


def run(
    model: OmniModel,
    todo: list[Item],
    out: Path,
    at_once: int = 8,
    reply: Reply = "speech",
    sampling: Sampling | None = None,
) -> Iterator[dict[str, Any]]:
    """Answer what is not yet in `out`, `at_once` together, with `sampling`; yields results as they are written.

    What cannot be answered (a damaged file, too long a sound) has a result with "error".
    """
    out.mkdir(parents=True, exist_ok=True)
    done = finished(out)
    rest = iter([item for item in todo if item.id not in done])
    with ThreadPoolExecutor(at_once) as pool, (out / RESULTS).open("a", encoding="utf-8") as lines:
        live: set[Future[dict[str, Any]]] = set()
        try:
            while True:
                live |= {
                    pool.submit(_answer, model, item, out, reply, sampling)
                    for item in islice(rest, at_once - len(live))
                }
                if not live:
                    return
                ended, live = wait(live, return_when=FIRST_COMPLETED)
                for future in ended:
                    result = future.result()
                    lines.write(json.dumps(result, ensure_ascii=False) + "\n")
                    lines.flush()
                    os.fsync(lines.fileno())
                    yield result
        finally:
            pool.shutdown(cancel_futures=True)


def _answer(model: OmniModel, item: Item, out: Path, reply: Reply, sampling: Sampling | None) -> dict[str, Any]:
    """One question's result; its sound is written first, whole or not at all."""
    began = time.perf_counter()
    try:
        chunks = model.stream(
            item.audio,
            text=item.text,
            reply=reply,
            sampling=sampling,
            first_chunk_frames=CHUNK,
            chunk_frames=CHUNK,
        )
        answer = chunks.collect(began)
    except OmniError as error:
        return {"id": item.id, "error": " ".join(str(error).split())}
    result: dict[str, Any] = {"id": item.id, "text": answer.text, "finish_reason": answer.finish_reason}
    if answer.audio.size:
        name = f"{item.id}.wav"
        unfinished = out / f"{name}.part"
        write_wav(unfinished, answer.audio, answer.sample_rate)
        os.replace(unfinished, out / name)
        result |= {"sound": name, "seconds": round(answer.timings.audio, 3)}
    return result | {"took": round(time.perf_counter() - began, 3)}


@contextmanager
def bar(total: int, done: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A progress bar on stderr that tells seconds of answers a second; yields what it is told each result with."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[speed]:.1f} s of sound a second")
    columns = (BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task, began, seconds = progress.add_task("", total=total, completed=done, speed=0.0), time.perf_counter(), 0.0

        def tell(result: dict[str, Any]) -> None:
            nonlocal seconds
            seconds += result.get("seconds", 0.0)
            progress.update(task, advance=1, speed=seconds / (time.perf_counter() - began))

        yield tell
