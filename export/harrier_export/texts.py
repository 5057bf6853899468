"""The real texts on which a package is compared with its reference.

They lie in `texts.txt`, separated by lines that hold only `%%`, and are of many lengths, scripts
and kinds: words, queries with their prompts, prose, code, tables, notes. They are no test set: no
text of them comes from a public evaluation.

Source and licence: the articles of the Universal Declaration of Human Rights (United Nations,
1948) in their several languages are free of copyright; everything else was written for this
project and is under its licence, MIT.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from harrier_edge.errors import UsageError

SEPARATOR = "%%"


def parity_texts() -> list[str]:
    """The texts in their order, without the line break at their end."""
    return _texts((resources.files("harrier_export") / "texts.txt").read_text("utf-8"))


def calibration_texts(own: Path | None = None) -> list[str]:
    """The texts that a quantized package is calibrated on, none of them a parity text.

    Those of the file `own` instead, if given, in the same form. Raises UsageError where it cannot
    be read as UTF-8 or holds no text.
    """
    if own is None:
        return _texts((resources.files("harrier_export") / "calibration.txt").read_text("utf-8"))
    try:
        texts = [text for text in _texts(own.read_text("utf-8")) if text.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{own}: cannot be read ({error}); wanted UTF-8 texts, separated by lines that hold "
            f"only {SEPARATOR}."
        ) from error
    if not texts:
        raise UsageError(
            f"{own}: holds no text; wanted some hundred lines like what will be embedded."
        )
    return texts


def _texts(content: str) -> list[str]:
    return content.removesuffix("\n").split(f"\n{SEPARATOR}\n")
