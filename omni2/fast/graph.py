"""Parts of networks as OpenVINO graphs, built from weights by name; a node stands for its first output.

Weights in int8 stay so in memory and are widened within the matrix multiplication, which the compiler makes of the
three nodes Convert, Multiply and MatMul.
"""

import platform
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import openvino as ov
import openvino.opset13 as op
import torch
from openvino import Type
from torch import Tensor

from omni2.weights import SCALE, dequantise

Node = Any  # the nodes of the graph have no types worth the name
State = Mapping[str, Tensor]
GROUP = 64  # neighbouring activations that share a scale where they are multiplied with int8 weights in int8
X86 = ("x86_64", "AMD64")  # names of one and the same
Activations = Literal["float32", "bfloat16"]


class Compiled:
    """A graph, ready to run."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        self._model = model
        self.here = self.request()
        self._lock = threading.Lock()  # around `here`

    def request(self) -> Any:  # noqa: ANN401
        """One more place to run it in, with inputs and outputs of its own."""
        return self._model.create_infer_request()

    def infer(self, request: Any, given: Mapping[str, Any]) -> Tensor:  # noqa: ANN401
        """The output, copied, of one run in `request`; inputs that are not `given` are what they were."""
        output = request.infer(given, share_inputs=True, share_outputs=True)[0]
        return torch.from_numpy(np.array(output))

    def __call__(self, x: Tensor) -> Tensor:
        """Run a graph with the one input "x", (..., width); the axes before the last are kept.  Threads take turns."""
        flat = x.reshape(-1, x.shape[-1]).float().contiguous()
        with self._lock:
            output = self.infer(self.here, {"x": flat.numpy()})
        return output.view(*x.shape[:-1], output.shape[-1])


class Compiler:
    """Makes graphs run on `threads` threads (0: all cores) with activations in float32 or bfloat16.

    Unless `rounded` is off, activations are rounded to int8 where they meet int8 weights: a quarter to a third faster
    on many rows.  `halved` caches hold keys and values in float16 where activations are float32: half to read at each
    step.  On x86 alone: other processors' kernels do not take it.
    """

    def __init__(
        self, activations: Activations = "float32", threads: int = 0, rounded: bool = True, halved: bool = False
    ) -> None:
        self.activations = activations
        kind = Type.f32 if activations == "float32" else Type.bf16
        self.cached = Type.f16 if halved and kind == Type.f32 and platform.machine() in X86 else kind
        self._core = ov.Core()
        self.has_bfloat16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": kind.get_type_name(),
            "KV_CACHE_PRECISION": self.cached.get_type_name(),
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP if rounded else 0,
        }

    def __call__(self, output: Node, inputs: Sequence[Node]) -> Compiled:
        """Compile the graph from `inputs` to `output`."""
        return Compiled(self._core.compile_model(ov.Model([_first(output)], list(inputs)), "CPU", self.options))


def _first(node: Node) -> Node:
    return node.output(0) if hasattr(node, "output") else node


def parameter(name: str, shape: Sequence[int], kind: Type = Type.f32) -> Node:
    """An input of the graph, by name; -1 is any length."""
    node = op.parameter(list(shape), kind)
    node.output(0).set_names({name})
    return node


def constant(value: Tensor) -> Node:
    """Weights as they are in memory, not copied."""
    value = value.detach().contiguous()
    if value.dtype == torch.bfloat16:
        tensor = ov.Tensor(value.view(torch.int16).numpy(), ov.Shape(list(value.shape)), Type.bf16)
        return op.constant(tensor, shared_memory=True)
    return op.constant(value.numpy(), shared_memory=True)


def weight(state: State, names: Sequence[str]) -> Node:
    """Matrices (out, in) of one width, one below the other, as float32 to the graph whatever they are in memory."""
    value = torch.cat([state[name] for name in names]) if len(names) > 1 else state[names[0]]
    if value.dtype == torch.int8:
        scale = torch.cat([state[name + SCALE] for name in names]).float()[:, None]
        return op.multiply(op.convert(constant(value), "f32"), constant(scale))
    return constant(value) if value.dtype == torch.float32 else op.convert(constant(value), "f32")


def raw(state: State, name: str) -> Tensor:
    """A tensor in float32, whatever it is in memory."""
    return dequantise({key: state[key] for key in (name, name + SCALE) if key in state})[name].float()


def linear(x: Node, state: State, *names: str) -> Node:
    """x times one matrix or several, as one, and their biases, where they have some.  `names` end before ".weight"."""
    y = op.matmul(x, weight(state, [f"{name}.weight" for name in names]), False, True)
    if f"{names[0]}.bias" in state:
        y = op.add(y, constant(torch.cat([state[f"{name}.bias"] for name in names]).float()))
    return y


def gated(x: Node, state: State, prefix: str) -> Node:
    """As `omni2.model.Gated`: proj(silu(gate x) * up x).

    Gate and up stay two products: as one, a step is 3 % shorter, but a prefill 15 % longer, and the joined matrices,
    which lie in no file, stay in memory (209 MB of the released size).
    """
    gate, up = (linear(x, state, f"{prefix}.{name}") for name in ("gate", "up"))
    return linear(op.multiply(op.swish(gate), up), state, f"{prefix}.proj")


def rms_norm(x: Node, gamma: Tensor, eps: float) -> Node:
    """x / sqrt(mean(x²) + eps) * gamma, in the order of operations that the compiler knows as one."""
    mean = op.reduce_mean(op.power(x, np.float32(2)), np.array([-1]), True)
    inverse = op.divide(np.float32(1), op.sqrt(op.add(mean, np.float32(eps))))
    return op.multiply(constant(gamma.float()[None]), op.multiply(x, inverse))


def layer_norm(x: Node, state: State, name: str, eps: float = 1e-5) -> Node:
    """As torch's, over the last axis."""
    y = op.mvn(x, np.array([-1]), True, eps, "inside_sqrt")
    return op.add(op.multiply(y, constant(state[f"{name}.weight"].float())), constant(state[f"{name}.bias"].float()))
