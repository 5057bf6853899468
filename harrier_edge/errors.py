"""Every exception that harrier-edge raises on purpose.

HarrierError
├── UsageError                  an argument has a value that cannot work
├── SettingsError               the file of settings cannot be read or written
├── ModelError
│   ├── SpecError               a model's TOML or a package's manifest is malformed
│   ├── ModelNotFoundError      no package of that name or at that path
│   ├── PackageError            a package is incomplete, changed or not what its manifest says
│   └── DownloadError           a model cannot be had from the hub
├── TextTooLongError            a text is over the model's limit and on_overflow is "error"
├── DocumentError               a file cannot be read as text
├── BusyError                   more waits to be embedded than is let; try again later
├── RemoteError                 a server cannot be reached, refuses, or answers nonsense
├── StoreError
│   ├── ForeignDatabaseError    the file is not a harrier-edge index, or is damaged
│   └── ModelMismatchError      the index was built by another model
└── ExportError
    ├── CheckpointError         a checkpoint is incomplete, damaged or contradicts itself
    ├── UnsupportedModelError   a checkpoint asks for something that the exporter does not do
    └── FidelityError           the exported graph strays too far from the reference

Each message names the value seen, the value wanted and the next step.
"""

from __future__ import annotations


class HarrierError(Exception):
    """An expected failure, told in words for the person who caused or can cure it."""


class UsageError(HarrierError, ValueError):
    """An argument has a value that cannot work."""


class SettingsError(HarrierError):
    """The file of settings cannot be read or written."""


class ModelError(HarrierError):
    """Something is wrong with a model."""


class SpecError(ModelError):
    """A model's TOML or a package's manifest is malformed."""


class ModelNotFoundError(ModelError):
    """No package of that name or at that path."""


class PackageError(ModelError):
    """A package is incomplete, changed or not what its manifest says."""


class DownloadError(ModelError):
    """A model cannot be had from the hub."""


class TextTooLongError(HarrierError, ValueError):
    """A text is over the model's limit and `on_overflow` is "error"."""


class DocumentError(HarrierError):
    """A file cannot be read as text."""


class BusyError(HarrierError):
    """More waits to be embedded than is let; try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RemoteError(HarrierError):
    """A server cannot be reached, refuses, or answers nonsense."""


class StoreError(HarrierError):
    """Something is wrong with an index file."""


class ForeignDatabaseError(StoreError):
    """The file is not a harrier-edge index, or is damaged."""


class ModelMismatchError(StoreError):
    """The index was built by another model."""


class ExportError(HarrierError):
    """An export cannot be done."""


class CheckpointError(ExportError):
    """A checkpoint is incomplete, damaged or contradicts itself."""


class UnsupportedModelError(ExportError):
    """A checkpoint asks for something that the exporter does not do."""


class FidelityError(ExportError):
    """The exported graph strays too far from the reference."""
