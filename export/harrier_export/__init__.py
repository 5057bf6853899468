"""The export pipeline: a Hugging Face checkpoint in, a model package out."""

from harrier_export.package import ExportOptions, ExportResult, export

__all__ = ["ExportOptions", "ExportResult", "export"]
