"""In which precision a model computes, and with what: chosen when it is loaded, told in the log."""

import importlib.util
import logging
from pathlib import Path
from typing import Literal, get_args

import torch

from omni2.bundle import Bundle
from omni2.errors import InputError
from omni2.hub import load_bundle

logger = logging.getLogger(__name__)

Weights = Literal["auto", "float32", "bfloat16", "int8"]


def as_weights(text: str) -> Weights:
    """What a user wrote.  Raises InputError for anything else than the four names."""
    names: tuple[Weights, ...] = get_args(Weights)
    for name in names:
        if text == name:
            return name
    raise InputError(f"weights are {', '.join(names)}, not {text!r}")


def load_as(name: str | Path, weights: Weights, device: str | torch.device) -> Bundle:
    """The model `name` (see `load_bundle`) with its weights as asked for.

    Raises CheckpointError as `load_bundle`; InputError for other `weights`, for int8 on anything but a CPU, and for
    weights that need OpenVINO where it is not installed.
    """
    as_weights(weights)
    on_cpu = torch.device(device).type == "cpu"
    if weights == "float32":
        return load_bundle(name)
    if not on_cpu:
        if weights == "int8":
            raise InputError(f"int8 weights run on the CPU alone, not on {device}; take bfloat16")
        bundle = load_bundle(name)
        bundle.trainable().to(torch.bfloat16)
        logger.info("weights in bfloat16 on %s", device)
        return bundle
    if importlib.util.find_spec("openvino") is None:
        if weights == "auto":
            logger.warning("OpenVINO is not installed: weights in float32, several times slower")
            return load_bundle(name)
        raise InputError(f"{weights} weights need OpenVINO; pip install openvino")
    from omni2.fast import FastParts

    try:
        return load_bundle(name, FastParts("int8" if weights == "auto" else weights))
    except RuntimeError as error:  # OpenVINO's words for a graph or a processor it cannot do
        if weights != "auto":
            raise
        reason = str(error).strip().splitlines()[-1]
        logger.warning("OpenVINO cannot run this model here, weights in float32 instead: %s", reason)
        return load_bundle(name)
