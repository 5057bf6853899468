"""The models that harrier-edge knows by name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

from harrier_edge.errors import ModelNotFoundError
from harrier_edge.spec import ModelSpec, OnnxSource, read_table

_PACKAGE = "harrier_edge.models"


def names() -> list[str]:
    """The names of all models, sorted."""
    files = (file.name for file in resources.files(_PACKAGE).iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def load(name: str) -> ModelSpec:
    """The model called `name`. Raises ModelNotFoundError."""
    known = names()
    if name not in known:
        import difflib  # only a name that is none needs it

        close = difflib.get_close_matches(name.lower(), known, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ModelNotFoundError(
            f"no model {name!r} in the catalogue; it has: {', '.join(known)}.{hint}"
        )
    with resources.as_file(resources.files(_PACKAGE) / f"{name}.toml") as path:
        return read_table(path, ModelSpec)


def onnx_source(repository: str) -> tuple[ModelSpec, OnnxSource] | None:
    """The model that `repository` is an ONNX export of, and what is known of it."""
    return next((one for one in _onnx_sources() if one[1].repository == repository), None)


def onnx_of(graph: str, sha256: str) -> tuple[ModelSpec, OnnxSource] | None:
    """The model and its ONNX export of which a file `graph` has this digest."""

    def has(source: OnnxSource) -> bool:
        return graph in source.files and source.files[graph].sha256 == sha256

    return next((one for one in _onnx_sources() if has(one[1])), None)


def _onnx_sources() -> Iterator[tuple[ModelSpec, OnnxSource]]:
    for spec in map(load, names()):
        if spec.onnx:
            yield spec, spec.onnx


def licence_text(name: str) -> str:
    """The licence that the model called `name` is published under. Raises ModelNotFoundError."""
    file = f"licence-{load(name).licence.lower()}.md"
    return (resources.files(_PACKAGE) / file).read_text("utf-8")
