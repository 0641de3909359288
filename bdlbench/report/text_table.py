"""Tables of text for a terminal, in GitHub's Markdown, in LaTeX and as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from markupsafe import Markup

if TYPE_CHECKING:
    from rich.table import Table as RichTable
    from rich.text import Text

Format = Literal["terminal", "markdown", "csv", "latex", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)


class Field(NamedTuple):
    """The text in one place of a table."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        title: The title.
        headings: The headings of the columns.
        rows: The fields of each row.
        left: The number of columns, from the left, that hold words; the others hold numbers.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Field, ...], ...]
    left: int = 1


def terminal(sheet: Sheet, color: bool) -> str:
    """Return the table as wide as it needs to be. Without colour a star stands for bold."""
    from rich.text import Text

    table = frame()
    for i, name in enumerate(sheet.headings):
        table.add_column(name, no_wrap=True, justify="left" if i < sheet.left else "right")
    for row in sheet.rows:
        texts = [field.text + ("*" if field.bold and not color else "") for field in row]
        table.add_row(*(Text(t, "bold" if f.bold else "") for t, f in zip(texts, row, strict=True)))
    return printed([heading(sheet.title), table], 1000, color)


def markdown(sheet: Sheet) -> str:
    """Return a table in GitHub's dialect, below its title in bold."""

    def line(fields: Iterable[Field]) -> str:
        texts = (f"**{escape_markdown(f.text)}**" if f.bold else escape_markdown(f.text) for f in fields)
        return "| " + " | ".join(texts) + " |\n"

    marks = [":--" if i < sheet.left else "--:" for i in range(len(sheet.headings))]
    text = f"**{escape_markdown(sheet.title)}**\n\n" + line(map(Field, sheet.headings))
    return text + "| " + " | ".join(marks) + " |\n" + "".join(map(line, sheet.rows)) + "\n"


def html(sheet: Sheet) -> Markup:
    """Return a table in HTML, with its title."""

    def line(fields: Iterable[Field], tag: str) -> Markup:
        cell = Markup("<{0} style='text-align:{1}'>{2}</{0}>")
        sides = ["left" if i < sheet.left else "right" for i in range(len(sheet.headings))]
        texts = [Markup("<b>{}</b>").format(f.text) if f.bold else f.text for f in fields]
        cells = [cell.format(tag, side, text) for side, text in zip(sides, texts, strict=True)]
        return Markup("<tr>{}</tr>").format(Markup("").join(cells))

    head = line(map(Field, sheet.headings), "th")
    body = Markup("").join(line(row, "td") for row in sheet.rows)
    shape = Markup("<table><caption>{}</caption><thead>{}</thead><tbody>{}</tbody></table>")
    return shape.format(sheet.title, head, body)


MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {char: f"\\{char}" for char in "\\|*`~[]$"}


def escape_markdown(text: str) -> str:
    """Escape characters that GitHub's dialect would take for markup, and return one line.

    An underscore inside a word is left as it is. Addresses do not become links, and a number or sign at the start makes
    no list or heading.
    """
    escaped = "".join(MARKDOWN.get(char, char) for char in " ".join(text.split()))
    escaped = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", escaped)
    escaped = re.sub(r"(?i)(?<=[a-z0-9]):(?=//)|(?<=mailto):|(?<=xmpp):|(?<=www)\.", r"\\\g<0>", escaped)
    return re.sub(r"^([0-9]*)(#+|[-+.)])(?=\s|$)", r"\1\\\2", escaped)


FORMULA = tuple("=+-@\t\r＝＋－＠")
"""Characters at the start of a text that a spreadsheet would run as a formula."""


def csv_lines(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Return comma-separated values with a header. Text that a spreadsheet would run gets an apostrophe in front."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _inert(value) if isinstance(value, str) else value for name, value in row.items()})
    return stream.getvalue()


def _inert(text: str) -> str:
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.startswith(FORMULA) else text
    return text  # a number may begin with a sign


TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
TEX |= {char: f"\\{char}" for char in "&%$#_{}"}
TEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
TEX |= {"±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "·": r"$\cdot$", "×": r"$\times$", "—": "---"}
TEX |= {"−": r"$-$", "→": r"$\rightarrow$", "…": r"\ldots{}", "∞": r"$\infty$", "²": r"$^2$"}


def escape_tex(text: str) -> str:
    """Escape characters that LaTeX would take for commands, and replace signs that it lacks."""
    return "".join(TEX.get(char, char) for char in text)


def latex(sheet: Sheet, caption: str) -> str:
    """Return a booktabs table; it needs the LaTeX package booktabs."""

    def line(fields: Iterable[Field]) -> str:
        texts = (rf"\textbf{{{escape_tex(f.text)}}}" if f.bold else _guarded(escape_tex(f.text)) for f in fields)
        return "  " + " & ".join(texts) + r" \\" + "\n"

    layout = "l" * sheet.left + "r" * (len(sheet.headings) - sheet.left)
    text = f"\\begin{{table}}\n  \\centering\n  \\caption{{{escape_tex(caption)}}}\n"
    text += f"  \\begin{{tabular}}{{{layout}}}\n  \\toprule\n" + line(map(Field, sheet.headings)) + "  \\midrule\n"
    text += "".join(map(line, sheet.rows))
    return text + "  \\bottomrule\n  \\end{tabular}\n\\end{table}\n\n"


def frame() -> RichTable:
    """Return an empty table with one line, below its head."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)


def heading(title: str) -> Text:
    """Return a title and an empty line."""
    from rich.text import Text

    return Text(f"{title}\n", style="bold")


def printed(parts: Sequence[Any], width: int, color: bool) -> str:
    """Return the text that rich prints, without spaces at the ends of lines."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=color, color_system="standard" if color else None)
    for part in parts:
        console.print(part, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _guarded(text: str) -> str:
    """Protect a bracket or a star at the start of a row: LaTeX would take it for an option of the row end before it."""
    return "{" + text + "}" if text.startswith(("[", "*")) else text
