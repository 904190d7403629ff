"""The files around the code: they say the same as the code, and nothing about the machine they were written on."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

# Written so that this file is not found by its own search.
MACHINE = re.compile(
    rb"/(?:work|root|home|Users)/[\w.-]|/opt/(?:pypi|wheels)|(?:^|[\s'\"=])[A-Z]:\\Users"
    rb"|https?://[^\s'\"]*/(?:simple|whl)\b|(?:index-url|find-links)[ =]+(?:https?|file):"
)


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def tree() -> dict[str, str]:
    """Path to description of every line of the README's tree."""
    block = next(block for block in code_blocks(README) if block.startswith("omni2/\n"))
    folders: list[str] = []
    found = {}
    for row in block.splitlines():
        name, _, what = row.strip().partition(" ")
        depth = (len(row) - len(row.lstrip())) // 2
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name)
            found["".join(folders)] = what.strip()
        else:
            found["".join(folders) + name] = what.strip()
    return found


def commands() -> set[str]:
    """All commands of `omni2`, such as "ask" and "train lm"."""
    from omni2.cli import app

    found = set()
    for name, command in typer.main.get_command(app).commands.items():
        found |= {f"{name} {sub}" for sub in command.commands} if hasattr(command, "commands") else {name}
    return found


def is_command(words: str) -> bool:
    """Whether `words` begin with a command, or are a group of commands."""
    return any(words == known or words.startswith(known + " ") or known.startswith(words + " ") for known in commands())


def repository_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    ).stdout.split("\0")  # fmt: skip
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def test_requirements_are_the_projects_dependencies():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    extras = project["optional-dependencies"]
    wanted = dict.fromkeys([*project["dependencies"], *extras["server"], *extras["web"]])
    assert [line for line in lines if not line.startswith("#")] == list(wanted)


def test_makefile_pins_what_the_project_allows():
    torch = re.search(r"^TORCH \?= torch==([\d.]+)$", MAKEFILE, re.MULTILINE)
    assert torch is not None
    assert tuple(map(int, torch[1].split("."))) >= (2, 6)


def test_readme_tree_lists_every_file():
    listed = tree()
    files = {f.relative_to(ROOT).as_posix() for f in (ROOT / "omni2").rglob("*.py") if f.name != "__init__.py"}
    assert {name for name in listed if name.startswith("omni2/") and name.endswith(".py")} == files
    assert all(listed[name] for name in listed if "." in name), "a file without a word about it"
    assert {"server.py", "app.py", "webui/live/", "examples/", "tests/"} <= set(listed)
    assert not [name for name in listed if not (ROOT / name).exists()]


def test_readme_and_makefile_name_only_commands_that_exist():
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    assert targets == set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split())
    told = re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE)
    assert {"demo", "test", "check", "assets"} <= set(told) <= targets

    asked = re.findall(r"(?:^|`)omni2 ([a-z]+(?: [a-z][a-z0-9-]*(?![\w./-]))?)", README, re.MULTILINE)
    asked += re.findall(r"\$\(OMNI2\) ([a-z]+(?: [a-z][a-z0-9-]*(?![\w./-]))?)", MAKEFILE)
    assert len(asked) > 15
    assert not [words for words in asked if not is_command(words)]


def test_readme_names_only_options_that_exist():
    from omni2.cli import app

    def options(command: object) -> set[str]:
        own = {name for parameter in command.params for name in parameter.opts}
        return own.union(*(options(sub) for sub in getattr(command, "commands", {}).values()))

    known = options(typer.main.get_command(app)) | {"--help"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", README)) <= known


def test_files_the_readme_names_are_there():
    for name in re.findall(r"`((?:\.ci|examples|omni2)/[\w./-]+|[A-Z]+(?:\.md)?)`", README):
        if name.startswith("omni2/assets/") or name in {"ADDRESS"}:
            continue
        assert (ROOT / name).exists(), name


def test_ci_runs_the_same_lines_as_people():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "set -euo pipefail" in CI
    assert re.findall(r"make [a-z]+$", CI, re.MULTILINE)[-2:] == ["make check", "make test"]


def test_what_hangs_cannot_hold_up_the_rest():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    assert 0 < settings["timeout"] < settings["faulthandler_timeout"]
    assert settings["faulthandler_exit_on_timeout"]
    session, whole = map(int, re.search(r"--session-timeout=(\d+).*\d (\d+) make test$", CI, re.DOTALL).groups())
    assert session + settings["faulthandler_timeout"] < whole


def test_no_file_names_a_machine_or_an_index():
    findings = {
        f"{path.relative_to(ROOT)}: {match[0].decode(errors='replace')}"
        for path in repository_files()
        if path.suffix not in (".safetensors", ".wav", ".png")
        for match in MACHINE.finditer(path.read_bytes())
    }
    assert not findings
