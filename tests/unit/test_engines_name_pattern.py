"""Patterns that adapters bring: those that tools write pass, those that take for ever don't."""

from __future__ import annotations

import pytest

from actors.engines import name_pattern

# what Unsloth writes for a model with a tower of vision
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|k_proj|v_proj)))"
)


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        r".*\.layers\.(0|1|22)\.self_attn\.(q|k|v)_proj",
        r"^(?!.*visual).*(?:q_proj|k_proj).*$",
        r"(model\.)?layers\.\d+\.mlp\..*",
        r"a{3}(b|c){2}",
        UNSLOTH,
    ],
)
def test_what_tools_write_is_taken(pattern: str) -> None:
    name_pattern.check(pattern)


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        (r"(\w|\w\w|[a-z.0-9])*X", "more than one character"),
        (r"(a*)*b", "more than one character"),
        (r"(?=(a+)+b)", "more than one character"),
        (r"(?>x|(aa?)+)", "more than one character"),
        ("a?" * 30 + "a" * 30, "repeats 30 times"),
        ("a{99999999999999}", "too large"),
        ("(" * 900 + ")" * 900, "recursion"),
        ("(?i)a", "global flags"),  # alone it would be one
        ("(", "missing"),
        ("x" * 3000, "3000 characters"),
    ],
)
def test_what_could_take_for_ever_is_refused(pattern: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        name_pattern.check(pattern)
