"""Chat templates as Hugging Face renders them: Jinja, sandboxed, with a few words of their own.

After `transformers/utils/chat_template_utils.py`, so that a model's template says the same with
and without that library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from actors.errors import ModelUnusable
from supervision.errors import BadRequest

_LOOKING: Final = (nodes.Compare, nodes.Call, nodes.Filter, nodes.Test)
# of transformers, for training: what stands between them is an answer's text
_GENERATION: Final = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


def looked_for(source: str) -> frozenset[str]:
    """The words that a template compares contents with, or takes them apart by; none if it can't
    be read."""
    try:
        tree = _environment().parse(_GENERATION.sub("", source))
    except jinja2.TemplateError:
        return frozenset()
    return frozenset(
        const.value
        for node in tree.find_all(_LOOKING)
        for const in node.find_all(nodes.Const)
        if isinstance(const.value, str)
    )


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


class ChatTemplate:
    """A compiled template, and the names of the tokens it may use."""

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        """
        Raises:
            ModelUnusable: it is no template.
        """
        self._special = dict(special)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ModelUnusable(f"the model's chat template can't be read: {error}") from None

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation as one text that asks for an answer.

        Raises:
            BadRequest: the template refuses it.
        """
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, **self._special
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise BadRequest(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from None
