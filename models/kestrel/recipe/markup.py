"""Texts without white space in plenty and without HTML's tags."""

from __future__ import annotations

import html
import re

TAG = re.compile(r"<[^<>]*>")
_SPACE = re.compile(r"\s+")


def tidy(text: str) -> str:
    """Runs of white space as one space."""
    return _SPACE.sub(" ", text).strip()


def untagged(text: str) -> str:
    """What a paragraph of HTML says."""
    return tidy(html.unescape(TAG.sub("", text)))
