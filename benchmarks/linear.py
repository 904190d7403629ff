"""All linear layers of one step at the released size, random weights, in every way of computing that is installed.

    python benchmarks/linear.py [ROWS ...]

Torch in float32 and bfloat16, torch's int8 (x86 engine), OpenVINO in float32, bfloat16 and int8, each in a process of
its own: milliseconds a step, median of nine.  This comparison is why `omni2.fast` uses OpenVINO.
"""

import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np

LAYERS, SHAPES = 24, [(1152, 896), (896, 896), (9728, 896), (896, 4864)]  # (out, in) of a block
HEADS = [(152_000, 896), (29_120, 896)]
SIZES = SHAPES * LAYERS + HEADS
WAYS = ("torch float32", "torch bfloat16", "torch int8", "openvino float32", "openvino bfloat16", "openvino int8")


def torch_way(kind: str, rows: int) -> Callable[[], object]:
    """Each layer an `nn.Linear`, in a list."""
    import torch

    with torch.device("meta"):
        empty = [torch.nn.Linear(into, out, bias=False) for out, into in SIZES]
    layers = torch.nn.ModuleList(layer.to_empty(device="cpu") for layer in empty)
    for weight in layers.parameters():
        weight.data.fill_(0.01)
    if kind == "bfloat16":
        layers = layers.bfloat16()
    if kind == "int8":
        warnings.simplefilter("ignore")
        torch.backends.quantized.engine = "x86"
        layers = torch.ao.quantization.quantize_dynamic(layers, {torch.nn.Linear}, torch.qint8)
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    given = {into: torch.randn(rows, into, dtype=dtype) for _, into in SIZES}

    @torch.inference_mode()
    def step() -> None:
        for (_, into), layer in zip(SIZES, layers, strict=True):
            layer(given[into])

    return step


def openvino_way(kind: str, rows: int) -> Callable[[], object]:
    """One graph with all layers side by side, as `omni2.fast.graph` builds them."""
    import openvino as ov
    import torch

    from omni2.fast.graph import Compiler, linear, parameter
    from omni2.weights import quantise

    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    inputs = {into: parameter(f"x{into}", [-1, into]) for _, into in SIZES}
    outputs = []
    for out, into in SIZES:
        state = {"a.weight": torch.full((out, into), 0.01, dtype=dtype)}
        outputs.append(linear(inputs[into], quantise(state) if kind == "int8" else state, "a").output(0))
    compiler = Compiler("bfloat16" if kind == "bfloat16" else "float32", torch.get_num_threads())
    compiled = ov.Core().compile_model(ov.Model(outputs, [*inputs.values()]), "CPU", compiler.options)
    request = compiled.create_infer_request()
    given = {f"x{into}": np.random.default_rng(0).standard_normal((rows, into), np.float32) for into in inputs}
    return lambda: request.infer(given, share_inputs=True, share_outputs=True)


def measure(way: str, rows: int) -> float:
    """Median milliseconds."""
    tool, kind = way.split()
    step = (torch_way if tool == "torch" else openvino_way)(kind, rows)
    times = []
    for _ in range(12):
        began = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[3:])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(f"{measure(sys.argv[2], int(sys.argv[3])):.1f}")
        sys.exit()
    for rows in map(int, sys.argv[1:] or ("2", "8")):
        for way in WAYS:
            done = subprocess.run([sys.executable, __file__, "--one", way, str(rows)], capture_output=True, text=True)
            told = done.stdout.strip() or f"failed: {done.stderr.strip().splitlines()[-1][:90]}"
            print(f"{way}, {rows} rows: {told} ms" if done.stdout else f"{way}, {rows} rows: {told}", flush=True)
