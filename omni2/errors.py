"""Everything this library raises on purpose, in one tree.

OmniError
├── InputError            what was handed in cannot be used (sound, picture, text, options)
│   └── ContextLengthError    the turn does not fit the model's context
├── AbilityError          this model never learned what was asked of it
├── CheckpointError       weights are missing, damaged, unsafe or of another format
├── BusyError             no room for one more conversation now
└── Cancelled             the conversation was closed before its end
"""


class OmniError(Exception):
    """Base of all errors of this library; its message says what to do next."""


class InputError(OmniError, ValueError):
    """Sound, picture, text or an option that cannot be used."""


class ContextLengthError(InputError):
    """The prompt leaves no room in the model's context."""


class AbilityError(OmniError):
    """The model was not trained for what was asked."""


class CheckpointError(OmniError):
    """A checkpoint file is missing, damaged, unsafe or of an unknown format."""


class BusyError(OmniError):
    """The engine is full; try again later."""


class Cancelled(OmniError):
    """The conversation was closed before its end."""
