"""HTML building blocks of the project's pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import resources

from etp_jax.plain import escape

GENERATED = " – etp-jax</title>".encode()
"""Bytes by which a page of this project is recognised."""


def table(heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], caption: str = "", style: str = "") -> str:
    """Formats a table; it scrolls sideways on screens that are too narrow.

    Args:
      heads: For each column its name and the style sheet class of its cells; either may be empty.
      rows: Cells as HTML; the first cell is the heading of its row.
      caption: Text above the table.
      style: The table's class.
    """
    styles = [f' class="{style}"' if style else "" for _, style in heads]
    head = "".join(f'<th scope="col"{css}>{escape(name)}</th>' for (name, _), css in zip(heads, styles, strict=True))
    body = ""
    for first, *others in rows:
        cells = "".join(f"<td{css}>{cell}</td>" for css, cell in zip(styles[1:], others, strict=True))
        body += f'<tr><th scope="row"{styles[0]}>{first}</th>{cells}</tr>'
    top = f"<caption>{escape(caption)}</caption>" if caption else ""
    top += f"<thead><tr>{head}</tr></thead>" if any(name for name, _ in heads) else ""
    return f'<div class="scroll"><table class="{style}">{top}<tbody>{body}</tbody></table></div>'


def missing(text: str) -> str:
    """Formats a note that replaces a missing part and explains why it is missing."""
    return f'<p class="missing">{escape(text)}</p>'


def page(name: str, summary: str, sections: dict[str, str]) -> str:
    """Formats a self-contained page: title, a summary line below it (HTML), and sections (HTML) by title."""
    style = resources.files("etp_jax.report").joinpath("page.css").read_text(encoding="utf-8")
    ids = {title: re.sub(r"\W+", "-", title.lower()) for title in sections}
    links = "".join(f'<a href="#{ids[title]}">{escape(title)}</a>' for title in sections)
    body = "".join(
        f'<section id="{ids[title]}"><h2>{escape(title)}</h2>{html}</section>' for title, html in sections.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)} – etp-jax</title>\n<style>\n{style}</style></head>\n"
        f'<body><header><h1>{escape(name)}</h1><p>{summary}</p><nav aria-label="Sections">{links}</nav></header>\n'
        f"<main>{body}</main></body></html>\n"
    )
