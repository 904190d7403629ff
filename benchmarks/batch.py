"""Many spoken questions: one at a time, and several sharing the steps as `omni2 batch` has them.

    python benchmarks/batch.py [MODEL [QUESTIONS]]

The recordings in `examples/audio`, over and over; every way three times, in turn: seconds of answers made a second,
and how many times the first way's that is, medians.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from omni2 import OmniModel
from omni2.batch import Item, run

AUDIO = Path(__file__).parents[1] / "examples" / "audio"
AT_ONCE = (1, 2, 4, 8, 16)
RUNS = 3


def speed(model: OmniModel, questions: list[Item], at_once: int) -> float:
    """Seconds of answers a second."""
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        made = sum(result["seconds"] for result in run(model, questions, Path(out), at_once))
        return made / (time.perf_counter() - began)


def main(name: str = "nano", count: str = "32") -> None:
    """Print a table."""
    model = OmniModel.from_pretrained(name, weights="auto", slots=2 * max(AT_ONCE))
    files = sorted(AUDIO.glob("*.wav"))
    questions = [Item(str(n), files[n % len(files)]) for n in range(int(count))]
    speed(model, questions[: len(files)], 1)  # warm
    runs = [[speed(model, questions, at_once) for at_once in AT_ONCE] for _ in range(RUNS)]
    print("| at once | seconds of answers a second | times one |\n|---|---|---|")
    for way, at_once in enumerate(AT_ONCE):
        times = median(one[way] / one[0] for one in runs)
        print(f"| {at_once} | {median(one[way] for one in runs):.1f} | {times:.2f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
