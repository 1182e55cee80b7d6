"""Texts that others chose, names of files and levels, as they can be shown to a terminal or XML."""

from __future__ import annotations

import re

# Controls but tab and newline, surrogates, and what is no character: XML has none of them either.
_UNPRINTABLE = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(text: str) -> str:
    r"""Return a text with what could steer a terminal written out, as in ``\x1b``."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
