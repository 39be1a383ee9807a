"""Other people's clients against a whole node: what each reads of answers and refusals.

A refusal that comes before its body is sent must be read by clients that send all of a body first.
`scripts/prove clients` asks the real model, and wants all clients to be there; a change is tested
with the echo and with those that are (`.ci/run` installs them).
"""

from __future__ import annotations

import json
import os
import shutil
from typing import Any, NamedTuple

import openai
import pytest

from tests.clients.asking import CLIENTS, Ask, Read
from tests.support.node_process import ECHO, SMOLLM2, Launcher, Node, write_config
from tests.support.waiting import PATIENCE_S

ALL = os.environ.get("TETHER_ALL_CLIENTS") == "1"
MODEL = "smollm2-135m-instruct" if ALL else "echo"
CHAT = "/v1/chat/completions"
BUSY = """
[[models]]
name = "busy"
engine = "echo"
context = 8192
[models.policy]
order = ["rate"]
rate = { per_s = 0.01, burst = 1.0 }
"""


class Case(NamedTuple):
    """What is asked, and what is to be read."""

    status: int
    code: str
    body: bytes
    headers: dict[str, str] = {}  # noqa: RUF012
    shown: tuple[str, str] = ("content-type", "application/json")


def chat(model: str = MODEL, **fields: Any) -> bytes:
    messages = [{"role": "user", "content": "one two"}]
    asked = {"model": model, "messages": messages, "max_tokens": 4, "temperature": 0}
    return json.dumps(asked | fields).encode()


CASES = {
    "a chat": Case(200, "", chat()),
    "a stream": Case(200, "", chat(stream=True), shown=("content-type", "text/event-stream")),
    "too large": Case(413, "body_too_large", b"x" * (6 << 20), shown=("x-should-retry", "false")),
    "far too large": Case(413, "body_too_large", b"x" * (24 << 20)),
    "a wrong key": Case(
        401, "invalid_api_key", chat(), {"authorization": "Bearer tether-acme-no"},
        shown=("www-authenticate", "Bearer"),
    ),
    "a wrong key, and much to say": Case(
        401, "invalid_api_key", chat(user="x" * (3 << 20)), {"x-api-key": "no", "authorization": ""}
    ),
    "too many": Case(429, "rate_limit_exceeded", chat("busy"), shown=("retry-after", "")),
    "malformed": Case(400, "invalid_request", b"{"),
    "refused by its head": Case(
        400, "invalid_request", b"x" * (3 << 20), {"content-encoding": "gzip"}
    ),
    "a chat after all that": Case(200, "", chat()),
}  # fmt: skip


@pytest.fixture(scope="module")
def node(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Node:
    folder = tmp_path_factory.mktemp("clients")
    models = (ECHO + SMOLLM2 if ALL else ECHO).replace('["echo"]', '["echo", "busy"]') + BUSY
    write_config(folder, models=models)
    node = launch(folder, timeout_s=300)
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key=node.key, timeout=PATIENCE_S) as client:
        ask = {"model": "busy", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
        client.chat.completions.create(**ask)  # type: ignore[call-overload]  # all that it may
    return node


@pytest.fixture(scope="module")
def asks(node: Node, tmp_path_factory: pytest.TempPathFactory) -> list[Ask]:
    folder = tmp_path_factory.mktemp("bodies")
    made = []
    for number, case in enumerate(CASES.values()):
        path = folder / str(number)
        path.write_bytes(case.body)
        headers = {"content-type": "application/json"} | node.headers | case.headers
        made.append(Ask(f"{node.url}{CHAT}", {k: v for k, v in headers.items() if v}, path))
    return made


@pytest.mark.parametrize("name", CLIENTS)
def test_each_client_reads_each_answer(name: str, asks: list[Ask]) -> None:
    program, client = CLIENTS[name]
    if program and shutil.which(program) is None:
        if ALL:
            pytest.fail(f"{program} is not on this machine, and the proof needs it")
        pytest.skip(f"{program} is not on this machine; as root .ci/run installs it")
    found = client(asks)
    assert len(found) % len(asks) == 0 and found
    for (title, case), read in zip(
        [*CASES.items()] * (len(found) // len(asks)), found, strict=True
    ):
        check(f"{name}, {title}", case, read)


def check(what: str, case: Case, read: Read) -> None:
    assert read.status == case.status, (what, read)
    header, value = case.shown
    assert read.headers[header].startswith(value), (what, read.headers)
    assert read.headers["x-request-id"]
    if case.status == 429:
        assert int(read.headers["retry-after"]) >= 1
    if case.status != 200:
        error = json.loads(read.body)["error"]
        assert error["code"] == case.code and error["message"], (what, error)
    elif value == "text/event-stream":
        assert read.body.endswith(b"data: [DONE]\n\n"), (what, read.body)
    else:
        assert json.loads(read.body)["choices"][0]["message"]["content"], what


def test_the_openai_package_reads_each_answer(node: Node) -> None:
    def client(key: str) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{node.url}/v1", api_key=key, timeout=PATIENCE_S, max_retries=0
        )

    def ask(client: openai.OpenAI, model: str = MODEL, text: str = "a", **more: Any) -> Any:
        messages = [{"role": "user", "content": text}]
        return client.chat.completions.create(
            model=model, messages=messages, max_tokens=4, **more  # type: ignore[call-overload]
        )  # fmt: skip

    with client(node.key) as good, client("tether-acme-no") as bad:
        assert ask(good).choices[0].message.content
        assert [event.choices[0].finish_reason for event in ask(good, stream=True)][-1] == "length"
        with pytest.raises(openai.APIStatusError) as large:
            ask(good, text="x" * (6 << 20))
        assert (large.value.status_code, large.value.code) == (413, "body_too_large")
        with pytest.raises(openai.AuthenticationError):
            ask(bad, text="x" * (3 << 20))
        with pytest.raises(openai.RateLimitError) as limit:
            ask(good, "busy")
        assert int(limit.value.response.headers["retry-after"]) >= 1
        with pytest.raises(openai.BadRequestError) as wrong:
            ask(good, n=2)
        assert wrong.value.param == "n"
        assert ask(good).choices[0].message.content
