"""An MCP server to try: a small library's books. The agent starts it by itself, as ``config.yaml`` beside it says."""

from __future__ import annotations

from mcp.server.fastmcp import FastMCP

#: Title, author, copies.
BOOKS = {
    "Middlemarch": ("George Eliot", 2),
    "Moby-Dick": ("Herman Melville", 1),
    "The Left Hand of Darkness": ("Ursula K. Le Guin", 3),
}

server = FastMCP("library", log_level="WARNING")
# In memory: it lasts as long as the server's process, which all conversations share.
lent: dict[str, int] = {}


@server.tool()
def find_books(text: str) -> list[str]:
    """Find books whose title or author has this text; an empty text finds all."""
    wanted = text.lower()
    return [
        f"{title} by {author}, {copies_left(title)} to lend"
        for title, (author, _) in BOOKS.items()
        if wanted in title.lower() or wanted in author.lower()
    ]


@server.tool()
def lend_book(title: str) -> str:
    """Lend a copy of a book to the user."""
    if title not in BOOKS:
        raise ValueError(f"there is no book {title!r}")
    if not copies_left(title):
        raise ValueError(f"all copies of {title!r} are lent")
    lent[title] = lent.get(title, 0) + 1
    return f"Lent {title}; {copies_left(title)} left."


def copies_left(title: str) -> int:
    """How many are on the shelf."""
    return BOOKS[title][1] - lent.get(title, 0)


if __name__ == "__main__":
    server.run()
