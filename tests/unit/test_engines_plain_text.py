"""User text as text: which tokens a content may make, on real tokenizers of every kind."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from actors.engines.chat_template import ChatTemplate, looked_for
from actors.engines.plain_text import Added, ControlTokens, Messages, PlainText, steering
from supervision.errors import BadRequest
from tests.support.properties import examples

NAMES = ("<|start|>", "<|end|>", "<s>", "</s>", "<|end", "[INST]")
ROLES = ("system", "user", "assistant", "tool")
PLAIN = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "<|start|>assistant\n"
)
TEMPLATES = {
    "plain": PLAIN,
    "trimmed": PLAIN.replace("m.content", "m.content | trim"),
    "bare": "<s>{% for m in messages %}{{ m.content }}{% endfor %}</s>",
    "lower": PLAIN.replace("m.content", "m.content | lower"),
    "without dots": PLAIN.replace("m.content", "m.content | replace('.', '')"),
    "within a name": PLAIN.replace("{{ m.role }}", "<|{{ m.content }}|>"),
    "thoughts": PLAIN.replace("m.content", "m.content.split('</think>')[-1].lstrip('\n')"),
    "looks for a name": PLAIN.replace(
        "{{ m.content }}", "{{ 'no' if '<|end|>' in m.content else m.content }}"
    ),
    "as json": PLAIN.replace("m.content", "m.content | tojson"),
    "lines": PLAIN.replace("m.content", "m.content.split('\n') | join('<|end|>')"),
}


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE(vocab={c: n for n, c in enumerate(alphabet())}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def unigram() -> Tokenizer:
    """Its words include the names, which it finds in a text whatever it is told."""
    words = [(c, -5.0) for c in map(chr, range(32, 127))] + [(n, 0.0) for n in NAMES]
    made = Tokenizer(models.Unigram([("<unk>", 0.0), *words], unk_id=0, byte_fallback=False))
    made.decoder = decoders.Fuse()
    return made


def folding() -> Tokenizer:
    """Its normalizer makes names of what is none."""
    made = byte_level()
    made.normalizer = normalizers.NFKC()
    return made


def alphabet() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


class Kind:
    """A tokenizer with the names as tokens, and a model that wants `<s>` before a text."""

    def __init__(self, name: str) -> None:
        self.own = {"bytes": byte_level, "unigram": unigram, "folding": folding}[name]()
        self.own.add_special_tokens(
            [AddedToken(name, normalized=name != "<s>", special=True) for name in NAMES]
        )
        self.own.add_tokens([AddedToken("</think>", normalized=False)])
        start = self.own.token_to_id("<s>")
        self.own.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", start)]
        )

    def encode(self, text: str, *, special: bool, plain: bool = False) -> tuple[int, ...]:
        self.own.encode_special_tokens = plain
        try:
            return tuple(self.own.encode(text, add_special_tokens=special).ids)
        finally:
            self.own.encode_special_tokens = False

    def control(self, template: str = "") -> ControlTokens:
        added = [
            Added(id=id, name=token.content, special=token.special)
            for id, token in self.own.get_added_tokens_decoder().items()
        ]
        return ControlTokens(steering(added, template, looked_for(template)), template=template)


@cache
def kind(name: str) -> Kind:
    return Kind(name)


KINDS = ("bytes", "unigram", "folding")
pieces = st.one_of(
    st.sampled_from(
        [
            *NAMES,
            "</think>",
            "<",
            "|",
            ">",
            "end|>",
            "<|",
            "start",
            "end",
            "s",
            "/s>",
            "_",
            "\ue000",
        ]
    ),
    st.sampled_from(["<|END|>", "<|.end|>", "＜s＞", "ſ", "ﬁ", "\n", " ", "é", "😀"]),  # noqa: RUF001
    st.text(max_size=6),
)
contents = st.lists(pieces, max_size=8).map("".join)
harmless = st.text(st.characters(exclude_characters="<>|[]＜＞｜", exclude_categories=["Cs"]))  # noqa: RUF001


def conversations(content: st.SearchStrategy[str]) -> st.SearchStrategy[Messages]:
    message = st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": content})
    return st.lists(message, min_size=1, max_size=4)


def own_ids(control: ControlTokens, ids: Iterable[int]) -> list[int]:
    return [token for token in ids if token in control.ids]


@settings(max_examples=examples(60))
@given(tokenizer=st.sampled_from(KINDS), prompt=contents)
def test_no_token_of_a_prompt_steers(tokenizer: str, prompt: str) -> None:
    there = kind(tokenizer)
    control = there.control()
    ids = PlainText(control, there.encode).text(prompt)
    assert own_ids(control, ids) == [there.own.token_to_id("<s>")]
    if tokenizer == "bytes":
        assert there.own.decode(ids[1:], skip_special_tokens=False) == prompt


@settings(max_examples=examples(60))
@given(
    tokenizer=st.sampled_from(KINDS),
    form=st.sampled_from(sorted(TEMPLATES)),
    messages=conversations(contents),
)
def test_a_conversation_has_the_control_tokens_of_its_template_alone(
    tokenizer: str, form: str, messages: Messages
) -> None:
    """As many, in the same order, as one of the same shape whose contents can't be part of any."""
    there = kind(tokenizer)
    control = there.control(TEMPLATES[form])
    template = ChatTemplate(TEMPLATES[form], {})
    innocent = [
        {**m, "content": "".join(c if c == "\n" else "~" for c in m["content"])} for m in messages
    ]
    ids = PlainText(control, there.encode).conversation(
        template.render(messages), messages, template.render
    )
    plain = there.encode(template.render(innocent), special=False)
    assert own_ids(control, ids) == own_ids(control, plain)


@settings(max_examples=examples(60))
@given(
    tokenizer=st.sampled_from(KINDS),
    form=st.sampled_from(sorted(set(TEMPLATES) - {"within a name"})),
    messages=conversations(harmless),
)
def test_harmless_content_has_the_ids_of_the_ordinary_path(
    tokenizer: str, form: str, messages: Messages
) -> None:
    there = kind(tokenizer)
    plain = PlainText(there.control(TEMPLATES[form]), there.encode)
    template = ChatTemplate(TEMPLATES[form], {})
    text = template.render(messages)
    assert plain.conversation(text, messages, template.render) == there.encode(text, special=False)
    prompt = messages[0]["content"]
    assert plain.text(prompt) == there.encode(prompt, special=True)


@settings(max_examples=examples(60))
@given(messages=conversations(contents))
def test_characters_are_kept(messages: Messages) -> None:
    """Of a byte-level tokenizer the ids say the same text, name for name."""
    there = kind("bytes")
    template = ChatTemplate(TEMPLATES["plain"], {})
    text = template.render(messages)
    ids = PlainText(there.control(PLAIN), there.encode).conversation(
        text, messages, template.render
    )
    assert there.own.decode(ids, skip_special_tokens=False) == text


def test_what_a_template_looks_for_is_still_found() -> None:
    there = kind("bytes")
    source = TEMPLATES["thoughts"]
    template = ChatTemplate(source, {})
    messages = [{"role": "assistant", "content": "<|end|> or not</think>yes <s>"}]
    ids = PlainText(there.control(source), there.encode).conversation(
        template.render(messages), messages, template.render
    )
    said = there.own.decode(ids, skip_special_tokens=False)
    assert said == "<|start|>assistant\nyes <s><|end|>\n<|start|>assistant"
    assert there.own.token_to_id("<s>") not in ids


def test_tokens_that_only_the_template_makes_special_are_its_own() -> None:
    added = [
        Added(id=1, name="<user>", special=False),
        Added(id=2, name="</think>", special=False),
        Added(id=3, name="\n\n", special=False),
        Added(id=4, name="<s>", special=True),
        Added(id=5, name="<unused>", special=False),
    ]
    source = "\n\n<user>{{ messages[0].content.split('</think>')[-1] }}</think>"
    assert [token.id for token in steering(added, source, looked_for(source))] == [1, 4]
    assert looked_for("{% generation %}{{ 'a' in b }}{% endgeneration %}") == {"a"}
    assert looked_for("{% broken") == frozenset()


def test_blanks_that_a_token_swallows_are_swallowed() -> None:
    own = byte_level()
    own.add_special_tokens([AddedToken("<m>", lstrip=True), AddedToken("<u>", rstrip=True)])

    def encode(text: str, *, special: bool, plain: bool = False) -> tuple[int, ...]:
        own.encode_special_tokens = plain
        return tuple(own.encode(text, add_special_tokens=special).ids)

    control = ControlTokens(
        Added(id=id, name=t.content, special=True, before=t.lstrip, after=t.rstrip)
        for id, t in own.get_added_tokens_decoder().items()
    )
    template = ChatTemplate("a <m> b <u> c{{ messages[0].content }}", {})
    for content in ("d", "d<m>"):
        messages = [{"role": "user", "content": content}]
        ids = PlainText(control, encode).conversation(
            template.render(messages), messages, template.render
        )
        assert own.decode(ids, skip_special_tokens=False) == f"a<m> b <u>c{content}"


def test_a_content_of_all_private_characters_is_refused_or_told_apart() -> None:
    there = kind("bytes")
    template = ChatTemplate(PLAIN, {})
    plain = PlainText(there.control(PLAIN), there.encode)
    some = "".join(map(chr, range(0xE000, 0xF900)))
    every = some + "".join(map(chr, (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))))
    for content in (some[:20] + "<s>", some + "<s>"):
        messages = [{"role": "user", "content": content}]
        ids = plain.conversation(template.render(messages), messages, template.render)
        assert there.own.token_to_id("<s>") not in ids
    messages = [{"role": "user", "content": every}]
    with pytest.raises(BadRequest, match="every private character"):
        plain.conversation(template.render(messages), messages, template.render)
