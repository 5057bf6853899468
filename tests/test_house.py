"""The house: what may import what, what the wheel holds, and what the README promises."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

import harrier_edge
import harrier_export

ROOT = Path(__file__).resolve().parents[1]

# From the foundations upward: a module imports only from rooms that stand before its own.
FLOORS = {
    "harrier_edge": (
        {"errors"},
        {"spec", "places", "prompts", "vectors", "fusion", "machine", "bench_texts", "graphs"}
        | {"foreign", "isolation", "paths"},
        {"beginnings", "budget", "memos", "settings"},
        {"package", "catalog", "releases"},
        {"packing"},
        {"runtime"},
        {"layers"},
        {"tokens", "session", "documents", "store", "hub", "archive", "encoding"},
        {"limited"},
        {"embedder", "searching", "wire"},
        {"transport"},
        {"remote"},
        {"admission", "reembedding", "updating"},
        {"dumps"},
        {"index", "bench"},
        {"doctor", "server"},
        {"cli"},
        {"__main__"},
    ),
    "harrier_export": (
        {"journal", "tasks", "rewriting", "texts", "tokenizer", "smoothing", "rounding"},
        {"folder", "weights"},
        {"graph", "checkpoint", "compiled_tokenizer"},
        {"precision", "reference", "sensitivity", "sentence_model", "sentence_transformers"},
        {"architectures", "taps", "traced"},
        {"calibrate", "layers", "parity", "past"},
        {"sample"},
        {"manifest"},
        {"package"},
        {"adopt", "via_optimum"},
    ),
}
OWNERS = {
    "apsw": {"harrier_edge.store.connection"},
    "sqlite_vec": {"harrier_edge.store.connection"},
    "huggingface_hub": {"harrier_edge.hub"},
    "onnxruntime": {
        "harrier_edge.layers",
        "harrier_edge.limited",
        "harrier_edge.packing",
        "harrier_edge.releases",
        "harrier_edge.runtime",
        "harrier_edge.session",
        "harrier_export.taps",
    },
    "tokenizers": {
        "harrier_edge.tokens",
        "harrier_export.tokenizer",
        "harrier_export.compiled_tokenizer",
    },
    "kitoken": {"harrier_edge.tokens", "harrier_export.compiled_tokenizer"},
    "charset_normalizer": {"harrier_edge.documents.text"},
    "docx": {"harrier_edge.documents.office"},
    "prometheus_client": {"harrier_edge.server.metrics"},
    "starlette": {
        "harrier_edge.server.answers",
        "harrier_edge.server.app",
        "harrier_edge.server.guard",
    },
    "urllib3": {"harrier_edge.transport"},
    "uvicorn": {"harrier_edge.server.guard", "harrier_edge.server.serve"},
    "markdown_it": {"harrier_edge.documents.markdown"},
    "pathspec": {"harrier_edge.documents.walk"},
    "pptx": {"harrier_edge.documents.office"},
    "pyarrow": {"harrier_edge.dumps.parquet"},
    "pypdfium2": {"harrier_edge.documents.pdf"},
    "watchfiles": {"harrier_edge.documents.watch"},
    "yaml": {"harrier_edge.documents.markdown"},
    "filelock": {"harrier_export.folder"},
    "onnx": {
        "harrier_export.graph",
        "harrier_export.layers",
        "harrier_export.past",
        "harrier_export.rewriting",
        "harrier_export.traced",
    },
    "safetensors": {"harrier_export.checkpoint"},
    "torch": {"harrier_export.reference"},
    "transformers": {"harrier_export.reference"},
    "optimum": {"harrier_export.sentence_model"},
    "sentence_transformers": {"harrier_export.sentence_model"},
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Name and syntax tree of every module that is shipped, as installed."""
    for package in (harrier_edge, harrier_export):
        (folder,) = package.__path__
        for path in sorted(Path(folder).rglob("*.py")):
            if "models" in path.relative_to(folder).parts:
                continue
            parts = [package.__name__, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(parts).removesuffix(".__init__")
            yield name, ast.parse(path.read_text("utf-8"))


def imports(tree: ast.Module) -> set[str]:
    """The modules that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_go_one_way() -> None:
    """Nothing imports upward, and the runtime knows the exporter only in its command."""
    checked = 0
    for name, tree in modules():
        package, _, rest = name.partition(".")
        level = {room: i for i, rooms in enumerate(FLOORS[package]) for room in rooms}
        if not rest:
            continue
        own = rest.split(".")[0]
        for imported in imports(tree):
            other, _, inner = imported.partition(".")
            if other == package and (room := inner.split(".")[0]) in level and room != own:
                assert level[room] < level[own], f"{name} imports {imported}"
                checked += 1
            if package == "harrier_edge" and other == "harrier_export":
                assert name == "harrier_edge.cli.export"
    assert checked > 50


def test_every_dependency_has_one_owner() -> None:
    """Only the room that is named for it imports it."""
    seen: dict[str, set[str]] = {dependency: set() for dependency in OWNERS}
    for name, tree in modules():
        for imported in imports(tree):
            if (top := imported.partition(".")[0]) in seen:
                seen[top].add(name)
    assert seen == OWNERS


def test_the_public_names_are_what_all_says() -> None:
    """`__all__` and reality agree, in both packages."""
    for package in (harrier_edge, harrier_export):
        for name in package.__all__:
            assert getattr(package, name).__module__.startswith(package.__name__)
        public = {
            name
            for name in dir(package)
            for value in [getattr(package, name)]
            if not name.startswith("_") and not hasattr(value, "__path__")
            if getattr(value, "__module__", None) and not isinstance(value, type(sys))
        }
        assert public == set(package.__all__)


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    """`harrier-edge --help` imports neither numpy nor any library that works."""
    heavy = {"numpy", "onnxruntime", "tokenizers", "kitoken", "apsw", "msgspec", "tqdm"}
    program = (
        "import sys\n"
        "from harrier_edge.cli import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: sys.exit(sorted({heavy} & set(sys.modules)) or 0)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "search" in run.stdout


def test_a_search_does_not_import_what_fills_an_index() -> None:
    """Nor ONNX Runtime, before the model is loaded, which is done beside that import."""
    heavy = {"onnxruntime", "tokenizers", "kitoken", "email", "pathspec", "urllib3"} | {
        f"harrier_edge.{room}" for room in ("updating", "reembedding", "remote", "hub", "dumps")
    }
    program = (
        "import sys\n"
        "import harrier_edge.index\n"
        "import harrier_edge.cli.search\n"
        f"sys.exit(sorted({heavy} & set(sys.modules)) or 0)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
"""


def test_the_runtime_is_light(tiny_package: Path, tmp_path: Path) -> None:
    """It embeds, indexes and searches where nothing of the exporter can be imported."""
    blocked = {"torch", "transformers", "onnx", "optimum", "harrier_export", "safetensors", "gguf"}
    program = BLOCKED.format(blocked=blocked) + (
        "from harrier_edge import Index\n"
        "from harrier_edge.cli import main\n"
        f"index = Index.open('index.sqlite', model={str(tiny_package)!r})\n"
        "open('a.md', 'w').write('a falcon')\n"
        "index.add('a.md')\n"
        "assert index.search('falcon')[0].title == 'a'\n"
        "index.close()\n"
        "assert main(['export', 'x', '-o', 'y']) == 1\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "pip install 'harrier-edge[export]'" in run.stderr


def test_the_wheel_is_what_is_tested_and_it_is_whole() -> None:
    """Not the checkout: the installed package, with its data files."""
    for package in (harrier_edge, harrier_export):
        (folder,) = package.__path__
        assert not Path(folder).is_relative_to(ROOT / package.__name__)
        assert not Path(folder).is_relative_to(ROOT / "export")
        assert resources.files(package).joinpath("py.typed").is_file()
    models = resources.files(importlib.import_module("harrier_edge.models"))
    shipped = {file.name for file in models.iterdir()}
    wanted = {file.name for file in (ROOT / "models").iterdir() if file.is_file()}
    assert shipped - {"__pycache__", "kestrel"} == wanted
    kestrel = {file.name for file in (models / "kestrel").iterdir()}
    assert kestrel == {"int8"}, "the recipe and the checkpoint stay in the repository"
    for name in ("texts.txt", "calibration.txt"):
        assert resources.files(harrier_export).joinpath(name).is_file()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_demo_begins_its_index_anew() -> None:
    """One that another kestrel filled would be refused."""
    run = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.index("rm -f .harrier/demo.sqlite*") < run.stdout.index("harrier-edge add")


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    """As it stands there, in a folder that has notes."""
    readme = (ROOT / "README.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(example.strip().splitlines()) <= 12
    shutil.copytree(ROOT / "tests" / "data" / "notes", tmp_path / "notes")
    run = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert ".md:" in run.stdout


def test_the_readme_shows_every_model_and_every_folder() -> None:
    """The table and the map do not fall behind."""
    readme = (ROOT / "README.md").read_text("utf-8")
    for spec in (ROOT / "models").glob("*.toml"):
        assert f"`{spec.stem}`" in readme
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ)
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    folders = {line.partition("/")[0] for line in tracked.stdout.splitlines() if "/" in line}
    for folder in folders - {".ci"}:
        assert f"`{folder}/`" in readme
