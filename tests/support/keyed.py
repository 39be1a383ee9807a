"""Requests with an idempotency key at each endpoint that takes one, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

OPENAI_STREAM = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass
class Said:
    """What a client was told. `choices` and `usage` are those of the answer, whole or put together
    from its stream; `first` is the text of the first event that had some."""

    status: int
    headers: httpx2.Headers
    choices: Any = None
    usage: Any = None
    error: dict[str, Any] = field(default_factory=dict)
    first: str = ""
    broken: bool = False

    @property
    def replayed(self) -> bool:
        return self.headers.get("idempotency-replayed") == "true"


@dataclass(frozen=True)
class Endpoint:
    """`name` is that of its jobs, `body` makes one of a prompt and a number of tokens."""

    name: str
    path: str
    body: Callable[[str, int], dict[str, Any]]
    streams: bool = True

    async def ask(
        self,
        client: httpx2.AsyncClient,
        key: str,
        body: dict[str, Any],
        *,
        stream: bool = False,
        **headers: str,
    ) -> Said:
        """Ask once, to whatever end."""
        how = {"stream": True} if self.name == "infer" else OPENAI_STREAM
        sent = {**body, **(how if stream else {})}
        named = {"idempotency-key": key, **{k.replace("_", "-"): v for k, v in headers.items()}}
        async with client.stream("POST", self.path, json=sent, headers=named) as response:
            said = Said(response.status_code, response.headers)
            if response.status_code != 200:
                said.error = json.loads(await response.aread())["error"]
            elif not stream:
                self._whole(said, json.loads(await response.aread()))
            else:
                said.choices = ["", None]
                try:
                    async for line in response.aiter_lines():
                        event = line.removeprefix("data: ")
                        if event and event != "[DONE]":
                            self._event(said, json.loads(event))
                except httpx2.HTTPError:
                    said.broken = True
                said.broken |= bool(said.error)
        return said

    def _whole(self, said: Said, answer: dict[str, Any]) -> None:
        said.usage = answer.get("usage")
        match self.name:
            case "chat":
                one = answer["choices"][0]
                said.choices = [one["message"]["content"], one["finish_reason"]]
            case "completions":
                one = answer["choices"][0]
                said.choices = [one["text"], one["finish_reason"]]
            case "embeddings":
                said.choices = answer["data"]
            case "infer":
                payload = answer["payload"]
                said.choices = [payload["text"], payload["finishReason"]]
                said.usage = payload["usage"]

    def _event(self, said: Said, event: dict[str, Any]) -> None:
        if event.get("error"):
            said.error = event["error"]
            return
        text, finish = "", None
        if self.name == "infer":
            text, finish = event["payload"]["text"], event["payload"].get("finishReason")
            said.usage = event["payload"].get("usage")
        else:
            said.usage = event.get("usage") or said.usage
            for choice in event["choices"]:
                text = choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
                finish = choice["finish_reason"]
        said.first = said.first or text
        said.choices = [said.choices[0] + text, finish or said.choices[1]]


def _chat(prompt: str, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": "echo", "messages": messages, "max_tokens": tokens}


def _completions(prompt: str, tokens: int) -> dict[str, Any]:
    return {"model": "echo", "prompt": prompt, "max_tokens": tokens}


def _infer(prompt: str, tokens: int) -> dict[str, Any]:
    return {"modelId": "echo", "input": prompt, "maxTokens": tokens}


def _embeddings(prompt: str, tokens: int) -> dict[str, Any]:
    return {"model": "minilm", "input": [prompt] * max(1, tokens // 10)}


CHAT = Endpoint("chat", "/v1/chat/completions", _chat)
COMPLETIONS = Endpoint("completions", "/v1/completions", _completions)
INFER = Endpoint("infer", "/v1/infer", _infer)
EMBEDDINGS = Endpoint("embeddings", "/v1/embeddings", _embeddings, streams=False)
#: Each endpoint as it may be asked: (endpoint, stream).
WAYS = [
    (endpoint, stream)
    for endpoint in (CHAT, COMPLETIONS, INFER, EMBEDDINGS)
    for stream in ((False, True) if endpoint.streams else (False,))
]
