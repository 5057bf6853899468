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

SEPARATOR = "%%"


def parity_texts() -> list[str]:
    """The texts in their order, without the line break at their end."""
    content = (resources.files("harrier_export") / "texts.txt").read_text("utf-8")
    return content.removesuffix("\n").split(f"\n{SEPARATOR}\n")
