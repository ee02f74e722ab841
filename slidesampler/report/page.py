"""The pieces of an HTML page that needs nothing but itself: no script, no file, no network.

Whatever is text is escaped here, once: names of slides and classes come from whoever wrote the manifest.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Cell", "Section", "code_block", "escape", "figure", "fold", "page", "paragraph", "table"]

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --soft: #5a5a5a; --line: #c9c9c9;
  --band: #f4f4f2; --mark: #9a3b00; --link: #0b57a4; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --paper: #17181a; --soft: #b4b4b4;
  --line: #4a4c50; --band: #222428; --mark: #ffb27a; --link: #8fc4ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1.25rem 4rem;
  color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .5rem; padding-top: .7rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; overflow-wrap: anywhere; }
a { color: var(--link); }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; margin: .8rem 0 0; padding: 0; }
.note { color: var(--soft); font-size: .92rem; }
.mark { color: var(--mark); font-weight: 600; }
.scroll { overflow: auto; max-height: 34rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; margin: .2rem 0; }
caption { text-align: left; color: var(--soft); padding: .2rem 0 .4rem; }
th, td { padding: .28rem .8rem .28rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: baseline; }
thead th { position: sticky; top: 0; background: var(--paper); }
tbody th { font-weight: 500; min-width: 8rem; max-width: 20rem; overflow-wrap: break-word; }
.number { text-align: right; }
td.number { white-space: nowrap; }
figure { margin: .8rem 0 1.2rem; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: 3px; }
figcaption { color: var(--soft); font-size: .92rem; padding-top: .3rem; }
pre { background: var(--band); padding: .8rem 1rem; overflow: auto; max-height: 26rem; font-size: .88rem; }
summary { cursor: pointer; }
@media print { :root { --ink: #000; --paper: #fff; --soft: #333; --line: #999; --band: #f4f4f4; --mark: #000;
  --link: #000; }
  body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  .scroll, pre { overflow: visible; max-height: none; } thead th { position: static; }
  figure, tr, pre { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""


class Cell(NamedTuple):
    """A cell of a table.

    Parameters
    ----------
    text : str
        Not escaped yet.
    marked : bool
        Set off, for what stands out. The text must say so, too: colour alone says nothing to many.
    """

    text: str
    marked: bool = False


class Section(NamedTuple):
    """A part of the page, with a heading and a place in its list of contents.

    Parameters
    ----------
    name : str
        Of the link: lower-case letters and hyphens.
    heading : str
        Not escaped yet.
    body : sequence of str
        HTML.
    """

    name: str
    heading: str
    body: Sequence[str]


def escape(text: object) -> str:
    """Return text as HTML, in an element or in a quoted attribute; what no document may hold is replaced.

    Examples
    --------
    >>> escape('<b title="x">&')
    '&lt;b title=&quot;x&quot;&gt;&amp;'
    """
    # Control characters are no HTML, and half a surrogate pair is no text.
    allowed = (
        char if char.isprintable() or char in "\n\t " else "\N{REPLACEMENT CHARACTER}" for char in str(text)
    )
    return html.escape("".join(allowed), quote=True)


def paragraph(text: str, style: str | None = None) -> str:
    """Return a paragraph of text."""
    return f"<p>{escape(text)}</p>" if style is None else f'<p class="{escape(style)}">{escape(text)}</p>'


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Cell]],
    *,
    words: Sequence[str] = (),
) -> str:
    """Return a table whose first column names its rows.

    Parameters
    ----------
    caption : str
    columns : sequence of str
        Headings.
    rows : iterable of sequence
        As many cells as columns each.
    words : sequence of str
        Headings of the columns, beside the first, that hold words; the others hold numbers, flush right.
    """
    number = [at > 0 and name not in words for at, name in enumerate(columns)]
    head = "".join(
        f'<th scope="col"{_class("number" if flush else "")}>{escape(name)}</th>'
        for name, flush in zip(columns, number, strict=True)
    )
    body = []
    for row in rows:
        cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        shown = [f'<th scope="row">{escape(cells[0].text)}</th>']
        for cell, flush in zip(cells[1:], number[1:], strict=True):
            style = " ".join(filter(None, ("number" if flush else "", "mark" if cell.marked else "")))
            shown.append(f"<td{_class(style)}>{escape(cell.text)}</td>")
        body.append(f"<tr>{''.join(shown)}</tr>")
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(body)
        + "\n</tbody></table></div>"
    )


def figure(png: bytes, alt: str, caption: str) -> str:
    """Return a picture that is part of the page.

    Parameters
    ----------
    png : bytes
    alt : str
        What it shows, for those who do not see it.
    caption : str
    """
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img width="{width}" height="{height}" alt="{escape(alt)}" '
        f'src="data:image/png;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def fold(summary: str, body: str) -> str:
    """Return HTML behind a line that opens it."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def code_block(text: str) -> str:
    """Return a program's text, to be copied."""
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'


def page(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the document.

    Parameters
    ----------
    title : str
    lead : sequence of str
        HTML below the title.
    sections : sequence of Section
    """
    links = "".join(f'<li><a href="#{escape(part.name)}">{escape(part.heading)}</a></li>' for part in sections)
    parts = [
        f'<section id="{escape(part.name)}" aria-labelledby="{escape(part.name)}-heading">'
        f'<h2 id="{escape(part.name)}-heading">{escape(part.heading)}</h2>\n'
        + "\n".join(part.body)
        + "\n</section>"
        for part in sections
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Whatever slipped through could neither run nor load anything.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header><h1>{escape(title)}</h1>\n"
        + "\n".join(lead)
        + f'\n<nav aria-label="Contents"><ul>{links}</ul></nav></header>\n<main>\n'
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _class(style: str) -> str:
    return f' class="{style}"' if style else ""
