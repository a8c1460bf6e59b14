"""A table of the page as LaTeX, for the ``booktabs`` package."""

from __future__ import annotations

from odin_rm.core.untrusted import printable
from odin_rm.reports.blocks import DASH, MINUS, Table

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    MINUS: "$-$", DASH: "--", "τ": r"$\tau$", "β": r"$\beta$", "≤": r"$\leq$", "\N{HORIZONTAL ELLIPSIS}": r"\dots{}",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Text with nothing in it that LaTeX would take for a command; control characters become spaces."""
    shown = ("".join(char if char.isprintable() else " " for char in text)).split()
    return "".join(_SPECIAL.get(char, char) for char in " ".join(shown))


def latex_table(table: Table) -> str:
    """The table as a ``tabular`` with its caption in a comment; an interval stands in brackets behind its value."""
    lines = [
        "% " + " ".join(printable(table.caption).split()),
        "% needs \\usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        " & ".join(escape_latex(str(column)) for column in table.columns) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        cells = []
        for number, value in enumerate(row):
            cell = table.cell(value, number)
            text = escape_latex(cell["main"])
            cells.append(f"{text} ({escape_latex(cell['interval'])})" if cell["interval"] else text)
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"
