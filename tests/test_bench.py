"""The benchmark: every row it promises, its picture, and ratios that hold on any machine."""

from pathlib import Path

import pytest

from omni2 import bench
from omni2.eval.targets import TARGETS
from omni2.omni import OmniModel

NANO = Path(bench.__file__).parent / "assets" / "nano" / "model.safetensors"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.assets,
    pytest.mark.skipif(not NANO.is_file(), reason="the shipped weights are not there"),
]


def test_every_row_is_measured_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RUNS", 1)
    monkeypatch.setattr(bench, "CONVERSATIONS", (1, 4))
    told: list[str] = []
    table = bench.run("released", "nano", "int8", told.append)
    values = {figure.key: figure.value for figure in table.figures}
    assert {key for key in TARGETS if key.startswith("bench.released.")} <= set(values)
    assert {key.replace("nano", "released") for key in TARGETS if key.startswith("bench.nano.")} <= set(values)
    assert values["bench.released.step.1.500"] > 0
    assert values["bench.released.memory.answering"] > 50
    assert values["bench.released.memory.more"] > 0
    assert {"starting", "steps", "waiting", "sound"} <= set(told)
    bench.draw(table, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 1000


def step(model: OmniModel, conversations: int) -> float:
    """Milliseconds of a step."""
    with bench.Bench(model, "nano").live(conversations, 200) as once:
        return bench.clock(once, 15)


def test_int8_is_faster_than_float32_and_eight_conversations_cost_less_than_eight_times_one() -> None:
    exact, fast = (OmniModel.from_pretrained("nano", weights=weights) for weights in ("float32", "int8"))
    ratios = [(step(fast, 1) / step(exact, 1), step(fast, 8) / step(fast, 1)) for _ in range(5)]
    assert min(ratio for ratio, _ in ratios) < 0.9
    assert min(ratio for _, ratio in ratios) < 6
