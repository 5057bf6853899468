"""What the user has chosen for all commands, in one file."""

from __future__ import annotations

import msgspec

from harrier_edge.errors import SettingsError
from harrier_edge.places import settings_file, write_whole


class Settings(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What holds where neither an argument nor the environment says otherwise."""

    model: str | None = None  # a package's folder or a model's name
    precision: str | None = None


def read_settings() -> Settings:
    """What is chosen. Raises SettingsError where the file is malformed."""
    path = settings_file()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Settings)
    except FileNotFoundError:
        return Settings()
    except (OSError, msgspec.DecodeError) as error:
        raise SettingsError(
            f"{path}: cannot be read: {error}. Choose the model again with: harrier-edge models "
            "default MODEL"
        ) from error


def write_settings(settings: Settings) -> None:
    """Store what is chosen from now on. Raises SettingsError where that cannot be written."""
    path = settings_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, msgspec.json.format(msgspec.json.encode(settings)) + b"\n")
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be written: {error.strerror}. Check its permissions."
        ) from error
