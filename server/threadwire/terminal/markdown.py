"""Markdown for terminals whose colours are not known: light ones and dark ones show it alike."""

from __future__ import annotations

from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement
from rich.padding import Padding
from rich.style import Style
from rich.syntax import ANSISyntaxTheme, Syntax
from rich.text import Text
from rich.theme import Theme

from threadwire.terminal.texts import clean

#: Only what the terminal's own palette makes readable on its own background: no white, black or yellow, no background.
THEME = Theme(
    {
        "markdown.code": "cyan",
        "markdown.code_block": "none",
        "markdown.block_quote": "dim",
        "markdown.h1": "bold underline",
        "markdown.h2": "bold",
        "markdown.h3": "bold",
        "markdown.h4": "bold",
        "markdown.h5": "bold",
        "markdown.h6": "bold",
        "markdown.hr": "dim",
        "markdown.item.bullet": "dim",
        "markdown.item.number": "dim",
        "markdown.link": "underline",
        "markdown.link_url": "dim underline",
        "markdown.table.header": "bold",
        "markdown.table.border": "dim",
    }
)
_CODE_THEME = ANSISyntaxTheme(
    {
        ("Comment",): Style(dim=True, italic=True),
        ("Keyword",): Style(color="magenta"),
        ("Name", "Function"): Style(bold=True),
        ("Name", "Class"): Style(bold=True),
        ("Name", "Decorator"): Style(color="magenta"),
        ("Literal", "String"): Style(color="green"),
        ("Literal", "Number"): Style(color="cyan"),
        ("Generic", "Deleted"): Style(color="red"),
        ("Generic", "Inserted"): Style(color="green"),
        ("Generic", "Heading"): Style(bold=True),
    }
)


class _Heading(Heading):
    """A heading on the left, without a box."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text: Text = self.text.copy()
        text.justify = "left"
        yield text


class _Code(CodeBlock):
    """A code block, indented and without a background."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        syntax = Syntax(
            str(self.text).rstrip(), self.lexer_name, theme=_CODE_THEME, word_wrap=True, background_color="default"
        )
        yield Padding(syntax, (0, 0, 0, 2))


class _Markdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _Code,
        "code_block": _Code,
    }


def rendered(text: str) -> Markdown:
    """The text as something that rich can print. Links show where they go: a hidden address is a trap."""
    return _Markdown(clean(text), hyperlinks=False)


class Blocks:
    """A Markdown text that is still coming, as the whole blocks (paragraphs, lists, …) it has so far."""

    def __init__(self) -> None:
        self._parser = MarkdownIt("commonmark").enable("table")
        #: What has not been taken out yet.
        self.rest = ""
        self._looked = 0

    def add(self, text: str) -> None:
        """Append."""
        self.rest += text

    def whole(self) -> str:
        """Take out the blocks that nothing can change any more: all but the last."""
        end = self.rest.rfind("\n") + 1
        if end <= self._looked:
            return ""
        self._looked = end
        starts = [token.map[0] for token in self._parser.parse(self.rest) if token.level == 0 and token.map]
        if len(starts) < 2 or starts[-1] == starts[0]:
            return ""
        lines = self.rest.splitlines(keepends=True)
        return self._take(sum(map(len, lines[: starts[-1]])))

    def all(self) -> str:
        """Take out everything."""
        return self._take(len(self.rest))

    def _take(self, length: int) -> str:
        taken, self.rest, self._looked = self.rest[:length], self.rest[length:], 0
        return taken
