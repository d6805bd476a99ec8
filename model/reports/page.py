"""A page that is one file: its style and its drawings are in it, and it asks for nothing."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from model.training.folder import replacing

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; }
h1 { overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid rgb(128 128 128 / 40%); }
th:first-child, td:first-child { text-align: left; }
.sum { font-weight: 600; }
th[scope=row] { font-weight: inherit; }
img { max-width: 100%; background: white; border-radius: .5rem; }
p { max-width: 45rem; }
caption { text-align: left; padding: 1.5rem 0 .5rem; white-space: nowrap; }
"""


def write(path: Path, title: str, parts: Iterable[str]) -> None:
    """Replace the page at `path`, whole or not at all; its folder is made where it is missing. `parts` are HTML.

    Raises OSError, with what was there untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n'
        f"<main>\n<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</main>\n"
    )
    with replacing(path) as file:
        file.write(content.encode())


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, label: str, caption: str = "", sum_last: bool = False
) -> str:
    """A table, each row as long as `head`; its first column names the rows. sum_last: the last row is of the others.

    Where it is wider than the page it is scrolled, with keys, too; `label` says then, unseen, where one is.
    """
    lines = [f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>']
    if caption:
        lines.append(f"<caption>{escape(caption)}</caption>")
    lines.append("<thead><tr>" + "".join(f'<th scope="col">{escape(name)}</th>' for name in head) + "</tr></thead>")
    for at, (first, *rest) in enumerate(rows):
        row = '<tr class="sum">' if sum_last and at == len(rows) - 1 else "<tr>"
        cells = "".join(f"<td>{escape(value)}</td>" for value in rest)
        lines.append(f'{row}<th scope="row">{escape(first)}</th>{cells}</tr>')
    lines.append("</table></div>")
    return "\n".join(lines)


def drawing(figure: Figure, description: str) -> str:
    """A figure as a picture in the page; `description` is for those who cannot see it."""
    picture = io.BytesIO()
    # Neither the date nor chance is in it: the same figures give the same page. Text is drawn by the browser, which has
    # letters for names that matplotlib's font lacks, and which it would warn of.
    with rc_context({"svg.hashsalt": "nextword", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(picture, format="svg", metadata={"Date": None})
    data = base64.b64encode(picture.getvalue()).decode("ascii")
    return f'<p><img alt="{escape(description)}" src="data:image/svg+xml;base64,{data}"></p>'
