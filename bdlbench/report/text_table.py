"""Tables of text for a terminal, in GitHub's Markdown, in LaTeX and as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from markupsafe import Markup

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
        repeated: The number of columns, from the right, that every part of a table has that is too wide.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Field, ...], ...]
    left: int = 1
    repeated: int = 0


def terminal(sheet: Sheet, color: bool, width: int | None = None) -> str:
    """Return the table below its title and an empty line. Without colour a star stands for bold.

    If it is wider than a given `width`, its columns are spread over several tables with the same rows, as few as the
    width allows; one column beside those that every table has may still be wider. rich would print the same, but takes
    a millisecond for a row.
    """
    starred = [[Field(f.text + "*" * (f.bold and not color), f.bold) for f in row] for row in sheet.rows]
    columns = list(zip(*starred, strict=True)) if starred else [()] * len(sheet.headings)
    widths = _widths(sheet, columns)
    last = len(widths) - sheet.repeated
    parts = [list(range(sheet.left, last))]
    for size in range(max(1, last - sheet.left), 0, -1):
        parts = [list(range(at, min(at + size, last))) for at in range(sheet.left, max(last, sheet.left + 1), size)]
        if width is None or max(_total(sheet, widths, part) for part in parts) <= width:
            break
    title = _bold(sheet.title, color) + "\n\n"
    shown = [[*range(sheet.left), *part, *range(last, len(widths))] for part in parts]
    return "\n".join(title + _block(sheet, columns, widths, places, color) for places in shown)


def breadth(sheet: Sheet, color: bool) -> int:
    """Return the width of the table in one piece, its title aside."""
    rows = [[Field(f.text + "*" * (f.bold and not color)) for f in row] for row in sheet.rows]
    widths = _widths(sheet, list(zip(*rows, strict=True)) if rows else [()] * len(sheet.headings))
    return sum(widths) + GAP * (len(widths) - 1)


GAP = 2
"""The blanks between two columns."""


def _widths(sheet: Sheet, columns: Sequence[Sequence[Field]]) -> list[int]:
    headings = (heading.split("\n") for heading in sheet.headings)
    return [
        max(_lengths([*lines, *(field.text for field in column)]))
        for lines, column in zip(headings, columns, strict=True)
    ]


def _total(sheet: Sheet, widths: Sequence[int], part: Sequence[int]) -> int:
    """Return the width of a table with some of the columns beside those that every table has."""
    shown = [*widths[: sheet.left], *(widths[i] for i in part), *widths[len(widths) - sheet.repeated :]]
    return sum(shown) + GAP * (len(shown) - 1)


def _block(
    sheet: Sheet, columns: Sequence[Sequence[Field]], widths: Sequence[int], shown: Sequence[int], color: bool
) -> str:
    """Return the lines of some columns: headings, which end on the same line, a rule, and the rows."""
    headings = [sheet.headings[i].lstrip("\n").split("\n") for i in shown]
    height = max(map(len, headings), default=1)
    headings = [[""] * (height - len(lines)) + lines for lines in headings]
    places = [
        _padded([*(Field(line, True) for line in lines), *columns[i]], widths[i], i < sheet.left, color)
        for i, lines in zip(shown, headings, strict=True)
    ]
    lines = [(" " * GAP).join(row).rstrip() for row in zip(*places, strict=True)]
    lines.insert(height, "─" * (sum(widths[i] for i in shown) + GAP * (len(shown) - 1)))
    return "\n".join(lines) + "\n"


def _padded(fields: Sequence[Field], width: int, is_left: bool, color: bool) -> list[str]:
    """Return the texts of one column, each as wide as the column."""
    gaps = [" " * (width - length) for length in _lengths([field.text for field in fields])]
    texts = [_bold(field.text, color) if field.bold and field.text else field.text for field in fields]
    return [text + gap if is_left else gap + text for text, gap in zip(texts, gaps, strict=True)]


ONE_COLUMN = re.compile(r"[\x20-\x7e±↑↓·×—−…]*")
"""What takes as many columns as it has signs: tables hold little else."""


def _lengths(texts: Sequence[str]) -> list[int]:
    """Return the columns that each text takes: some signs take two."""
    if ONE_COLUMN.fullmatch("".join(texts)):
        return list(map(len, texts))
    from rich.cells import cell_len

    return list(map(cell_len, texts))


def _bold(text: str, color: bool) -> str:
    return f"\x1b[1m{text}\x1b[0m" if color else text


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


def wrapped(parts: Sequence[str], width: int, color: bool) -> str:
    """Return texts, each on lines of its own that are broken at `width`, without spaces at their ends."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=color, color_system="standard" if color else None)
    for part in parts:
        console.print(part, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _guarded(text: str) -> str:
    """Protect a bracket or a star at the start of a row: LaTeX would take it for an option of the row end before it."""
    return "{" + text + "}" if text.startswith(("[", "*")) else text
