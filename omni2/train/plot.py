"""A picture of a run: losses in training and held out, each audio layer's, learning rate and gradient."""

import json
from pathlib import Path
from typing import Any

from omni2.train.objective import AUDIO

LOG, PICTURE = "log.jsonl", "losses.png"


def plot_log(folder: Path) -> None:
    """Draw `log.jsonl` of a run's folder to `losses.png` beside it."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(10, 11), layout="constrained")
    top, middle, low = figure.subplots(3, sharex=True)
    for name in ("text", "audio", "heard"):
        line = _line(top, rows, "train", name, name, None)
        _line(top, rows, "held_out", name, f"{name}, held out", line)
    for name in AUDIO:
        _line(middle, rows, "train", name, name.replace("_", " "), None)
    top.set_ylabel("nats a token")
    middle.set_ylabel("nats a code")
    _line(low, rows, "train", "rate", "learning rate", None)
    _line(low, rows, "train", "norm", "norm of the gradient", None)
    low.set_yscale("log")
    low.set_xlabel("step")
    for axes in (top, middle, low):
        _mark_stages(axes, rows)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper right", fontsize="small")
        axes.grid(alpha=0.3)
    figure.savefig(folder / PICTURE, dpi=100)


def _line(axes: Any, rows: list[dict[str, Any]], kind: str, name: str, label: str, like: Any) -> Any:  # noqa: ANN401
    """Values above zero of one name over the run's steps; `like` a line, dotted, in its colour."""
    points = [(row["total"], row[name]) for row in rows if row["kind"] == kind and row.get(name, 0) > 0]
    if not points:
        return None
    style = {"marker": "o", "markersize": 3, "linestyle": ":"} if kind == "held_out" else {"linewidth": 1.2}
    colour = {"color": like.get_color()} if like is not None else {}
    return axes.plot(*zip(*points, strict=True), label=label, **style, **colour)[0]


def _mark_stages(axes: Any, rows: list[dict[str, Any]]) -> None:  # noqa: ANN401
    """A line and the name where a stage begins."""
    first: dict[int, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(row["stage"], row)
    for row in first.values():
        axes.axvline(row["total"], color="grey", linewidth=0.8)
        axes.annotate(row["name"], (row["total"], 1), xycoords=("data", "axes fraction"), fontsize="small", va="bottom")
