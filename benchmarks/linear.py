"""All linear layers of one step at the released size, random weights, in every way of computing that is installed.

    python benchmarks/linear.py [ROWS ...]

Torch in float32 and bfloat16, torch's int8 (x86 engine), torchao's int8 weights (with torch.compile) and int8 weights
and activations, ONNX Runtime in float32 and int8, OpenVINO in float32, bfloat16 and int8, each in a process of its own:
milliseconds a step, median of up to nine.  This comparison is why `omni2.fast` uses OpenVINO.
"""

import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

LAYERS, SHAPES = 24, [(1152, 896), (896, 896), (9728, 896), (896, 4864)]  # (out, in) of a block
HEADS = [(152_000, 896), (29_120, 896)]
SIZES = SHAPES * LAYERS + HEADS
WAYS = (
    *(f"torch {kind}" for kind in ("float32", "bfloat16", "int8")),
    *(f"torchao {kind}" for kind in ("int8-weights", "int8")),
    *(f"onnxruntime {kind}" for kind in ("float32", "int8")),
    *(f"openvino {kind}" for kind in ("float32", "bfloat16", "int8")),
)


def torch_layers() -> "torch.nn.ModuleList":
    """Each layer an `nn.Linear`, in a list."""
    import torch

    with torch.device("meta"):
        empty = [torch.nn.Linear(into, out, bias=False) for out, into in SIZES]
    layers = torch.nn.ModuleList(layer.to_empty(device="cpu") for layer in empty)
    for weight in layers.parameters():
        weight.data.fill_(0.01)
    return layers


def fed(layers: "list[Callable[[torch.Tensor], object]]", dtype: "torch.dtype", rows: int) -> Callable[[], object]:
    """All layers one after the other, each on random numbers."""
    import torch

    given = {into: torch.randn(rows, into, dtype=dtype) for _, into in SIZES}

    @torch.inference_mode()
    def step() -> None:
        for (_, into), layer in zip(SIZES, layers, strict=True):
            layer(given[into])

    return step


def torchao_way(kind: str, rows: int) -> Callable[[], object]:
    """The same, quantised by torchao; weights alone in int8 need torch.compile to be quick."""
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

    layers = torch_layers().bfloat16()
    alone = kind == "int8-weights"
    quantize_(layers, Int8WeightOnlyConfig() if alone else Int8DynamicActivationInt8WeightConfig())
    return fed([torch.compile(layer) if alone else layer for layer in layers], torch.bfloat16, rows)


def onnxruntime_way(kind: str, rows: int) -> Callable[[], object]:
    """One graph; in int8 with activations rounded to it as they come."""
    import onnx
    import onnxruntime as ort
    import torch
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, outputs = [], {}, []
    for number, (out, into) in enumerate(SIZES):
        name, result = f"w{number}", f"y{number}"
        outputs.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, [rows, out]))
        if kind == "int8":
            weights[name] = np.full((into, out), 3, np.int8)
            weights[f"{name}s"], weights[f"{name}z"] = np.full(out, 0.01, np.float32), np.zeros(out, np.int8)
            given = [f"x{into}", name, f"{name}s", f"{name}z"]
            nodes.append(helper.make_node("DynamicQuantizeMatMul", given, [result], domain="com.microsoft"))
        else:
            weights[name] = np.full((into, out), 0.01, np.float32)
            nodes.append(helper.make_node("MatMul", [f"x{into}", name], [result]))
    widths = {into for _, into in SIZES}
    inputs = [helper.make_tensor_value_info(f"x{into}", TensorProto.FLOAT, [rows, into]) for into in widths]
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    held = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in weights.items()}
    tensors = []
    for name, value in weights.items():  # outside of the graph, which may not have 2 GB
        tensor = numpy_helper.from_array(np.zeros(0, value.dtype), name)
        del tensor.dims[:]
        tensor.dims.extend(value.shape)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", "none"), ("offset", "0"), ("length", str(value.nbytes))):
            tensor.external_data.add(key=key, value=text)
        tensors.append(tensor)
    graph = helper.make_graph(nodes, "step", inputs, outputs, tensors)
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    options.add_external_initializers([*held], [*held.values()])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=versions, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), options)
    feed = {f"x{into}": np.random.default_rng(0).standard_normal((rows, into), np.float32) for into in widths}
    return lambda: session.run(None, feed)


def torch_way(kind: str, rows: int) -> Callable[[], object]:
    """Torch as it comes."""
    import torch

    layers = torch_layers()
    if kind == "bfloat16":
        layers = layers.bfloat16()
    if kind == "int8":
        warnings.simplefilter("ignore")
        torch.backends.quantized.engine = "x86"
        layers = torch.ao.quantization.quantize_dynamic(layers, {torch.nn.Linear}, torch.qint8)
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    return fed([*layers], dtype, rows)


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
    ways = {"torch": torch_way, "torchao": torchao_way, "onnxruntime": onnxruntime_way, "openvino": openvino_way}
    step = ways[tool](kind, rows)
    step()  # compiles, packs weights
    times: list[float] = []
    while len(times) < 12 and sum(times) < 15_000:
        began = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[len(times) // 4 :])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(f"{measure(sys.argv[2], int(sys.argv[3])):.1f}")
        sys.exit()
    for rows in map(int, sys.argv[1:] or ("2", "8")):
        for way in WAYS:
            done = subprocess.run([sys.executable, __file__, "--one", way, str(rows)], capture_output=True, text=True)
            why = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]  # it may die without a word
            told = done.stdout.strip() or f"failed: {why[-1][:90]}"
            print(f"{way}, {rows} rows: {told} ms" if done.stdout else f"{way}, {rows} rows: {told}", flush=True)
