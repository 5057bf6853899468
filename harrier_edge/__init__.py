"""harrier-edge: on-device semantic search with Harrier embedding models."""

from harrier_edge.embedder import Embedder, Embeddings
from harrier_edge.index import Hit, Index

__all__ = ["Embedder", "Embeddings", "Hit", "Index"]
