"""Pictures to learn from as encoder features on disk: drawn or imagined, in resumable shards.

A shard is one safetensors file: `features` (n, 50, 1280) float16, and in its metadata what each picture shows.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from omni2.efficientnet import lite_pixels
from omni2.errors import OmniError
from omni2.train.data.drawings import draw_any
from omni2.train.data.imagined import imagine_any
from omni2.train.data.things import Scene
from omni2.train.efficientnet_weights import Lite, load_lite

SIZE = 128  # pictures a shard
BATCH = 16  # pictures through the encoder at once
IMAGINED = 0.25  # of the pictures are no drawings


@dataclass(frozen=True)
class Seen:
    """One picture: what it shows and its encoder features (50, 1280) float16."""

    scene: Scene
    features: Tensor


def pictures(lite: Lite, n: int, rng: np.random.Generator) -> tuple[Tensor, list[Scene]]:
    """`n` pictures to learn from, drawn ones first: features (n, 50, 1280) float32 and what each shows."""
    imagined = round(n * IMAGINED)
    drawn = [draw_any(rng) for _ in range(n - imagined)]
    pixels = torch.stack([lite_pixels(picture) for picture, _ in drawn])
    with torch.no_grad():
        features = [lite.encoder(batch) for batch in torch.split(pixels, BATCH)]
    more, scenes = imagine_any(lite, imagined, rng)
    return torch.cat([*features, more]), [*(scene for _, scene in drawn), *scenes]


def build_pictures(folder: Path, n: int, workers: int = 1, seed: int = 0) -> None:
    """Make shards until `folder` has at least `n` pictures; those that are there already stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"pictures-{number:05d}.safetensors" for number in range(-(-n // SIZE))]
    jobs = [(path, (seed, number)) for number, path in enumerate(paths) if not path.exists()]
    if workers == 1:
        for job in track(jobs, description="picture shards"):
            _build_shard(job)
        return
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in track(pool.map(_build_shard, jobs), description="picture shards", total=len(jobs)):
            pass


def _build_shard(job: tuple[Path, Sequence[int]]) -> None:
    path, seed = job
    features, scenes = pictures(load_lite(), SIZE, np.random.default_rng(seed))
    part = path.with_suffix(".part")
    save_file({"features": features.half()}, part, {"scenes": json.dumps([asdict(scene) for scene in scenes])})
    part.replace(path)


def read_pictures(folder: Path) -> list[Seen]:
    """All pictures of the shards in `folder`, mapped, not read, into memory. Raises OmniError if there are none."""
    seen: list[Seen] = []
    for path in sorted(folder.glob("pictures-*.safetensors")):
        with safe_open(path, "pt") as shard:
            scenes = [Scene(**scene) for scene in json.loads(shard.metadata()["scenes"])]
            seen += map(Seen, scenes, shard.get_tensor("features"))
    if not seen:
        raise OmniError(f"no picture shards in {folder}; make them with `omni2 data pictures`")
    return seen
