"""End-to-end spoken conversation with models of the Mini-Omni2 family.

    from omni2 import OmniModel

    model = OmniModel.from_pretrained("nano")
    for chunk in model.stream(audio="question.wav"):
        print(chunk.text, end="")        # chunk.audio: float32 samples at 24 kHz

Importing this package loads nothing heavy; the names below are fetched when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omni2.config import Pick, Sampling, Seek
    from omni2.errors import OmniError
    from omni2.omni import Answer, Chunk, OmniModel

__all__ = ["Answer", "Chunk", "OmniError", "OmniModel", "Pick", "Sampling", "Seek"]

_HOMES = {"OmniError": "errors", "Pick": "config", "Sampling": "config", "Seek": "config"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'omni2' has no attribute {name!r}")
    return getattr(import_module(f"omni2.{_HOMES.get(name, 'omni')}"), name)
