"""The named statements of `queries.sql` and `books.sql`."""

from __future__ import annotations

import re
from importlib import resources
from typing import NamedTuple

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


class Query(NamedTuple):
    """One statement: what it is called, what it does, and its SQL."""

    name: str
    sentence: str
    sql: str


def parse(text: str) -> dict[str, Query]:
    """The statements of a file in which each begins with `-- name: it` and a sentence.

    Raises:
        ValueError: a statement has no sentence or no SQL, or two share a name.
    """
    found: dict[str, Query] = {}
    parts = _NAME.split(text)
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        lines = body.strip().splitlines()
        said = 0
        while said < len(lines) and lines[said].startswith("--"):
            said += 1
        sentence = " ".join(line.removeprefix("--").strip() for line in lines[:said])
        sql = "\n".join(lines[said:]).strip().removesuffix(";")
        if not sentence or not sql:
            raise ValueError(f"the query {name} needs a sentence and a statement")
        if name in found:
            raise ValueError(f"two queries are called {name}; rename one")
        found[name] = Query(name, sentence, sql)
    return found


QUERIES = parse(
    "\n".join(
        resources.files("actors.stores").joinpath(name).read_text("utf-8")
        for name in ("queries.sql", "books.sql")
    )
)


def sql(name: str) -> str:
    """The statement called `name`.

    Raises:
        KeyError: there is none.
    """
    return QUERIES[name].sql
