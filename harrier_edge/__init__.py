"""harrier-edge: on-device semantic search with Harrier embedding models."""

from harrier_edge.embedder import Embedder, Embeddings
from harrier_edge.index import Index
from harrier_edge.searching import Hit

__all__ = ["Embedder", "Embeddings", "Hit", "Index"]
