"""Many spoken questions: one at a time, and several sharing the steps as `omni2 batch` has them.

    python benchmarks/batch.py [MODEL [QUESTIONS [POSITIONS [RUNS]]]]

The recordings in `examples/audio`, over and over; every way RUNS times (3), in turn: seconds of answers made a second,
and how many times the first way's that is, medians.  The MODEL "released" has the released size and random weights,
which never end by themselves: give POSITIONS, those that a question and its answer take together.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from omni2 import OmniModel
from omni2.batch import Item, run
from omni2.bench import write_released
from omni2.config import ROWS, Sampling

AUDIO = Path(__file__).parents[1] / "examples" / "audio"
AT_ONCE = (1, 2, 4, 8, 16, 32)


def speed(model: OmniModel, questions: list[Item], at_once: int, sampling: Sampling | None = None) -> float:
    """Seconds of answers a second."""
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        made = sum(result["seconds"] for result in run(model, questions, Path(out), at_once, sampling=sampling))
        return made / (time.perf_counter() - began)


def main(name: str = "nano", count: str = "32", positions: str = "0", runs: str = "3") -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as folder:
        if name == "released":
            write_released(Path(folder))
        source = folder if name == "released" else name
        model = OmniModel.from_pretrained(source, weights="auto", slots=ROWS * max(AT_ONCE))
    sampling = Sampling(max_tokens=int(positions) or None)
    files = sorted(AUDIO.glob("*.wav"))
    questions = [Item(str(n), files[n % len(files)]) for n in range(int(count))]
    speed(model, questions[:2], 1, sampling)  # warm
    table = [[speed(model, questions, at_once, sampling) for at_once in AT_ONCE] for _ in range(int(runs))]
    print("| at once | seconds of answers a second | times one |\n|---|---|---|")
    for way, at_once in enumerate(AT_ONCE):
        times = median(one[way] / one[0] for one in table)
        print(f"| {at_once} | {median(one[way] for one in table):.1f} | {times:.2f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
