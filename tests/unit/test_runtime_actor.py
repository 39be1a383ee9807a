"""What `supervision.runtime.actor` opens with is an actor that works."""

from __future__ import annotations

import textwrap

from supervision.child import Supervised
from supervision.runtime import Address, actor
from supervision.runtime.handlers import handlers_of


def test_the_actor_of_the_docstring_is_one() -> None:
    assert actor.__doc__ is not None
    _, _, after = actor.__doc__.partition("::\n\n")
    lines = after.splitlines()
    end = next(i for i, line in enumerate(lines) if line and not line.startswith("    "))
    names: dict[str, object] = {"__name__": "docstring_of_actor"}
    exec(textwrap.dedent("\n".join(lines[:end])), names)
    counter_class, add = names["Counter"], names["Add"]
    assert isinstance(counter_class, type) and issubclass(counter_class, Supervised)
    assert isinstance(add, type)
    counter = object.__new__(counter_class)  # a process of its own is not what is looked at here
    handler, _, _ = handlers_of(counter)[add]
    sender = Address("n", "1", 0)
    assert [handler(add(n=n), sender).n for n in (2, 3)] == [2, 5]
    assert counter_class.spec(id="counter").start.endswith(":Counter")
