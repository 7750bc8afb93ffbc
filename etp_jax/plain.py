"""Text from files, made safe to show: on a terminal, on a page, in Markdown. Does not import jax."""

from __future__ import annotations

import html
import re

_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but line feed and tab, bidirectional controls, line separators, and halves of characters."""


def plain(text: str) -> str:
    r"""Replaces every character that controls a terminal or the order of letters by its code, such as `\u001b`."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def plain_line(text: str) -> str:
    """Returns the text as one line, made safe by `plain`; line breaks become blanks."""
    return plain(re.sub(r"[\r\n]+", " ", text))


def markdown_cell(text: str) -> str:
    """Returns the text as a cell of a Markdown table, on one line and without tags."""
    return plain_line(text).replace("|", "\\|").replace("<", "&lt;")


def escape(text: str) -> str:
    """Returns the text as HTML, made safe by `plain`."""
    return html.escape(plain(text))
