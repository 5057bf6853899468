"""harrier-edge: on-device semantic search with Harrier embedding models."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harrier_edge.embedder import Embedder
    from harrier_edge.encoding import Embeddings
    from harrier_edge.index import Index
    from harrier_edge.remote import RemoteEmbedder
    from harrier_edge.searching import Hit

__all__ = ["Embedder", "Embeddings", "Hit", "Index", "RemoteEmbedder"]

_ROOMS = {
    "Embedder": "embedder",
    "Embeddings": "encoding",
    "Hit": "searching",
    "Index": "index",
    "RemoteEmbedder": "remote",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use: the command's help needs none of them."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
