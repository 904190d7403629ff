"""Where models are looked for."""

from pathlib import Path

import pytest
from folders import tiny

from omni2 import hub
from omni2.bundle import save
from omni2.errors import CheckpointError
from omni2.hub import find, load_bundle


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tiny(), tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.usefixtures("offline")
def test_a_hub_id_that_cannot_be_had(tmp_path):
    for name in ("gpt-omni/mini-omni2", "someone/else"):
        with pytest.raises(CheckpointError, match=f"hf download {name}"):
            load_bundle(name)


def test_unknown_names_never_reach_the_network(tmp_path, monkeypatch, saved):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pth").touch()
    (tmp_path / "empty").mkdir()
    for name in (
        "large",
        "",
        "a/b/c",
        "./org/name",
        "../org",
        "/no/where",
        "~/no-where",
        "org/",
        "a\nb",
        "org/na me",
        "~no-user/x",
        "x" * 5000,
    ):
        with pytest.raises(CheckpointError, match=r'(?s)no model .*"nano", a folder, or a hub id'):
            find(name)
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        find("model.pth")
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_bundle("empty")
    monkeypatch.setattr(hub, "NANO_FOLDER", saved)
    assert find("nano") == saved
    monkeypatch.setattr(hub, "NANO_FOLDER", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="install omni2 again"):
        find("nano")
