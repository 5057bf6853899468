"""harrier-edge: on-device semantic search with Harrier embedding models."""

from harrier_edge.embedder import Embedder, Embeddings

__all__ = ["Embedder", "Embeddings"]
