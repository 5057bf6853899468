"""The export pipeline: a Hugging Face checkpoint in, a model package out."""

from harrier_export.adopt import adopt
from harrier_export.package import ExportOptions, ExportResult, export
from harrier_export.via_optimum import export_via_optimum

__all__ = ["ExportOptions", "ExportResult", "adopt", "export", "export_via_optimum"]
