"""From a model's name to the model: the embedded one, a folder, or a hub id.

The Hugging Face Hub is asked only for names of the form organisation/name and for files that a released folder lacks;
its cache and its variables (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN, HF_ENDPOINT) hold.
"""

import dataclasses
import os
import re
from pathlib import Path

from omni2 import bundle as own
from omni2 import checkpoint as released
from omni2.bundle import TORCH, Bundle, Parts
from omni2.errors import CheckpointError
from omni2.weights import line

NANO = "nano"
NANO_FOLDER = Path(__file__).parent / "assets" / NANO
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def load_bundle(name: str | Path, parts: Parts = TORCH) -> Bundle:
    """Load "nano", a folder (own or released) or a hub id such as "gpt-omni/mini-omni2"; `parts` makes its parts.

    Raises CheckpointError: unknown name, files missing and not to be had, damaged, unsafe, of another format.
    """
    folder = find(name)
    if not is_released(folder):
        return own.load(folder, parts)
    bundle = parts.remake(released.load_released_bundle(folder, fetch=fetch))
    return dataclasses.replace(bundle, name=str(name)) if is_hub_id(name) else bundle


def find(name: str | Path) -> Path:
    """The folder of a model, downloaded or from the hub's cache if `name` is a hub id and no folder.

    Raises CheckpointError: no such model, or the hub does not give it.
    """
    if name == NANO:
        if not NANO_FOLDER.is_dir():
            raise CheckpointError(f"{NANO_FOLDER} is missing; install omni2 again")
        return NANO_FOLDER
    folder = Path(os.path.expanduser(name))  # os.path takes names that Path's own methods raise on
    if str(name) and os.path.isdir(folder):
        return folder
    if os.path.isfile(folder):
        raise CheckpointError(f"{folder} is a file; give the folder it is in")
    if is_hub_id(name):
        return fetch_model(str(name))
    raise CheckpointError(f'no model {str(name)!r}; give "{NANO}", a folder, or a hub id such as {released.MINI_OMNI2}')


def is_released(folder: Path) -> bool:
    """Whether `folder` is laid out as gpt-omni's are, not as this library saves models."""
    theirs = any((folder / file).is_file() for file in (released.CONFIG, released.WEIGHTS))
    return theirs and not (folder / own.MODEL).is_file()


def is_hub_id(name: str | Path) -> bool:
    """Whether `name` is a string of the form organisation/name that is no folder."""
    return isinstance(name, str) and bool(HUB_ID.fullmatch(name)) and not os.path.exists(name)


def fetch_model(repo: str) -> Path:
    """The folder with the files of a model on the hub.  Raises CheckpointError when they cannot be had."""
    return _snapshot(repo, (*own.FILES, *released.FILES), f"hf download {repo}")


def fetch(repo: str, file: str) -> Path:
    """The path of one file of a repository on the hub.  Raises CheckpointError when it cannot be had."""
    command = f"hf download {repo} {file}"
    path = _snapshot(repo, (file,), command) / file
    if not path.is_file():  # offline the client is content with a snapshot that lacks it
        raise CheckpointError(f"{file} of {repo} is not on this machine; where there is a network: {command}")
    return path


def _snapshot(repo: str, files: tuple[str, ...], command: str) -> Path:
    """Where the hub's cache holds `files`; without a network this fails at once, `hf_hub_download` retries for 23 s."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=list(files)))
    except Exception as error:  # the hub's client and its transport raise kinds of their own
        what = files[0] if len(files) == 1 else "the model"
        reason = line(error).split(". ")[0]
        raise CheckpointError(
            f"{what} of {repo} is not on this machine and the hub does not give it ({reason}); "
            f"where there is a network: {command}"
        ) from error
