"""One pass through the blocks at the released size, int8, random weights: keys and values in float32 and in float16.

    python benchmarks/cache.py

Milliseconds by rows and positions behind them, medians of runs taken in turn.  This comparison is why large models keep
them in float16: four conversations are eight rows.
"""

from statistics import median

import torch

from omni2.bench import SIZES, clock, random_state
from omni2.fast.graph import Compiler
from omni2.fast.lm import BlockCache, FastLM
from omni2.model import OmniLM, Rows
from omni2.tokens import RELEASED

PLACES = ((2, 100), (2, 500), (2, 1900), (8, 500), (16, 500))  # rows, positions
ROUNDS = 5


def filled(lm: FastLM) -> BlockCache:
    """Room for all rows, each filled as far as it is looked at: what was never written takes no memory to read."""
    cache = lm.cache(max(rows for rows, _ in PLACES))
    for row in range(max(rows for rows, _ in PLACES)):
        length = max(position for rows, position in PLACES if row < rows)
        lm(torch.randn(1, length, lm.config.n_embd), Rows(cache, torch.tensor([row]), torch.tensor([0])))
    return cache


def passed(lm: FastLM, cache: BlockCache, rows: int, position: int) -> float:
    """Milliseconds of one position more of each row."""
    x = torch.randn(rows, 1, lm.config.n_embd)
    places = Rows(cache, torch.arange(rows), torch.full((rows,), position))
    return clock(lambda: lm(x, places))


@torch.inference_mode()
def main() -> None:
    """Print a table."""
    with torch.device("meta"):
        shapes = OmniLM(SIZES, RELEASED).state_dict()
    state = random_state(shapes)
    threads = torch.get_num_threads()
    lms = {
        name: FastLM(SIZES, RELEASED, state, Compiler("float32", threads, halved=halved))
        for name, halved in (("float32", False), ("float16", True))
    }
    caches = {name: filled(lm) for name, lm in lms.items()}
    times: dict[tuple[str, int, int], list[float]] = {}
    for _ in range(ROUNDS):
        for rows, position in PLACES:
            for name, lm in lms.items():
                times.setdefault((name, rows, position), []).append(passed(lm, caches[name], rows, position))
    print("| rows | positions | float32 | float16 |\n|---|---|---|---|")
    for rows, position in PLACES:
        told = " | ".join(f"{median(times[name, rows, position]):.1f} ms" for name in lms)
        print(f"| {rows} | {position} | {told} |")


if __name__ == "__main__":
    main()
