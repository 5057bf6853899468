"""The models that harrier-edge knows by name."""

from __future__ import annotations

import difflib
from importlib import resources

from harrier_edge.errors import ModelNotFoundError
from harrier_edge.spec import ModelSpec, read_table

_PACKAGE = "harrier_edge.models"


def names() -> list[str]:
    """The names of all models, sorted."""
    files = (file.name for file in resources.files(_PACKAGE).iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def load(name: str) -> ModelSpec:
    """The model called `name`. Raises ModelNotFoundError."""
    known = names()
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ModelNotFoundError(
            f"no model {name!r} in the catalogue; it has: {', '.join(known)}.{hint}"
        )
    with resources.as_file(resources.files(_PACKAGE) / f"{name}.toml") as path:
        return read_table(path, ModelSpec)


def licence_text(name: str) -> str:
    """The licence that the model called `name` is published under. Raises ModelNotFoundError."""
    file = f"licence-{load(name).licence.lower()}.md"
    return (resources.files(_PACKAGE) / file).read_text("utf-8")
