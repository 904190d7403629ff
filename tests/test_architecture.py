"""What the code promises about its own shape."""

import ast
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import omni2

ROOT = Path(omni2.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
SOURCES = {str(file.relative_to(ROOT)): file.read_text("utf-8") for file in FILES}

LAYERS = [
    ("errors",),
    ("tokens", "config", "terminal", "pace"),
    ("pickles", "audio", "vision", "weights"),
    ("efficientnet",),
    ("encoder",),
    ("model",),
    ("prompt", "sampling", "search", "static"),
    ("codec", "turn"),
    ("engine", "words", "bundle"),
    ("checkpoint",),
    ("hub",),
    ("fast",),
    ("precision",),
    ("answer",),
    ("duplex",),
    ("omni",),
    ("__init__",),
    ("client",),
    ("serve",),
    ("train",),
    ("eval",),
    ("batch", "bench"),
    ("cli",),
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
FOLDERS = {"codec", "duplex", "fast", "serve", "train", "eval"}  # whose files may import each other
HEAVY = ("torch", "transformers", "tokenizers", "av", "PIL", "soxr", "snac", "scipy", "typer", "rich", "yaml")
HEAVY += (
    "numpy",
    "safetensors",
    "huggingface_hub",
    "fastapi",
    "starlette",
    "gradio",
    "streamlit",
    "aiohttp",
    "ray",
    "openvino",
)


def home(file: str) -> str:
    """The module or folder of the package that a file belongs to: "codec/snac.py" → "codec"."""
    return file.split("/")[0].removesuffix(".py")


def imports(source: str, file: str) -> set[str]:
    """Modules of omni2 that a file names in any import, at any depth, TYPE_CHECKING included: "codec.snac", "omni"."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            parents = ("omni2", *file.split("/")[:-1])[: -(node.level - 1) or None]
            node.module = ".".join([*parents, *([node.module] if node.module else [])])
        if isinstance(node, ast.ImportFrom) and node.module == "omni2":
            found |= {name.name if name.name in RANK else "__init__" for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("omni2."):
            found.add(node.module.removeprefix("omni2."))
        elif isinstance(node, ast.Import):
            found |= {name.name.removeprefix("omni2.") for name in node.names if name.name.startswith("omni2.")}
            found |= {"__init__" for name in node.names if name.name == "omni2"}
    return found


def upward(file: str, source: str) -> list[str]:
    mine = home(file)
    return [
        f"{file} imports omni2.{other}"
        for other in sorted(imports(source, file))
        if not (RANK[other.split(".")[0]] < RANK[mine] or (mine in FOLDERS and other.split(".")[0] == mine))
    ]


def test_every_module_has_its_layer() -> None:
    assert {home(file) for file in SOURCES} <= set(RANK)


@pytest.mark.parametrize("file", SOURCES)
def test_imports_go_down(file: str) -> None:
    assert upward(file, SOURCES[file]) == []


def test_the_check_on_imports_sees_all_forms() -> None:
    upwards = {
        "from omni2.omni import OmniModel": "omni",
        "import omni2.cli as c": "cli",
        "from omni2 import engine": "engine",
        "from omni2 import OmniModel": "__init__",
        "from .omni import OmniModel": "omni",
        "from . import hub": "hub",
        "def f():\n    from omni2.train.loop import train": "train.loop",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from omni2.eval import codec": "eval",
    }
    for source, other in upwards.items():
        assert upward("tokens.py", source) == [f"tokens.py imports omni2.{other}"], source
    assert upward("codec/stream.py", "from ..engine import Engine") == ["codec/stream.py imports omni2.engine"]
    assert upward("codec/stream.py", "from omni2.codec.snac import SnacCodec\nfrom .istft import IstftCodec") == []
    assert upward("audio.py", "from omni2.vision import load_picture") == ["audio.py imports omni2.vision"]


@pytest.mark.parametrize("file", [file for file in SOURCES if file != "tokens.py"])
def test_layout_numbers_stand_in_tokens_alone(file: str) -> None:
    numbers = {151936, 151937, 152000, 4096, 4097, 4160, 181120}
    tree = ast.parse(SOURCES[file])
    literals = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is int]
    assert not numbers & {*literals}
    words = re.findall(r"\d[\d_,]*", SOURCES[file])  # in words of any kind: comments, docstrings, names of files
    assert not {str(number) for number in numbers} & {word.replace("_", "").replace(",", "") for word in words}


def test_files_and_functions_are_short() -> None:
    long = [f"{name}: {len(source.splitlines())} lines" for name, source in SOURCES.items() if source.count("\n") > 350]
    for name, source in SOURCES.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                long += [f"{name}: {node.name} has {lines} lines"] if lines > 60 else []
    assert long == []


@pytest.mark.parametrize("file", SOURCES)
def test_manners(file: str) -> None:
    for node in ast.walk(ast.parse(SOURCES[file])):
        at = f"{file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print" or home(file) == "cli", f"{at} prints"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{at} is a bare except"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("sys", "path"), f"{at} touches sys.path"


def test_the_package_offers_at_most_eight_names() -> None:
    assert len(omni2.__all__) <= 8
    assert sorted(omni2.__all__) == omni2.__all__
    for name in omni2.__all__:
        assert getattr(omni2, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = omni2.no_such_name


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_importing_the_package_is_light_and_quick() -> None:
    code = "import sys, time; began = time.process_time(); import omni2; spent = time.process_time() - began; "
    code += "import json; print(json.dumps([sorted(sys.modules), spent]))"
    modules, seconds = json.loads(python(code))
    assert not {*HEAVY} & {module.split(".")[0] for module in modules}
    assert seconds < 0.2


def test_the_command_line_tells_its_help_without_the_model() -> None:
    modules = json.loads(python("import sys, json, omni2.cli; print(json.dumps(sorted(sys.modules)))"))
    assert not {"torch", "transformers", "tokenizers", "snac", "fastapi"} & {m.split(".")[0] for m in modules}


def test_all_modules_of_the_core_import_alone() -> None:
    """In a row in one interpreter that treats warnings as errors; none does work at import or needs an extra."""
    core = [f"omni2.{name}" for name in RANK if name not in ("__init__", "train", "eval", "codec", "fast")]
    core += [f"omni2.codec.{name}" for name in ("istft", "snac", "stream")]
    listed = python(
        "import warnings, sys, importlib; warnings.simplefilter('error')\n"
        f"for name in {core!r}: importlib.import_module(name)\n"
        "print([name for name in sys.modules if name.startswith(('omni2.train.', 'omni2.eval.'))])"
    )
    tables = {"omni2.eval.report", "omni2.eval.targets"}  # bench's
    assert set(ast.literal_eval(listed)) <= {"omni2.train.cli", "omni2.train.data_cli", "omni2.eval.cli", *tables}
    assert import_module("omni2.errors").OmniError.__subclasses__()
