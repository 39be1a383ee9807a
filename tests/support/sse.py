"""One streamed answer, as a client sees it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx2


@dataclass
class Answer:
    """What came. `done` is set by `data: [DONE]` alone; `error` is an error event or a broken
    connection, in words."""

    status: int = 0
    text: str = ""
    finish: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    error: str = ""
    id: str = ""
    done: bool = False

    @property
    def token(self) -> str:
        """The retry token of its job, where the client gave none."""
        return self.id.partition("-")[2]

    @property
    def complete(self) -> bool:
        """Did it end as a whole answer does?"""
        return self.done and self.finish is not None and not self.error

    def take(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self.error = event["error"]["message"]
            return
        self.id = event["id"]
        self.usage = event.get("usage") or self.usage
        for choice in event["choices"]:
            self.text += choice["delta"].get("content") or ""
            self.finish = choice["finish_reason"] or self.finish


async def chat(
    client: httpx2.AsyncClient, prompt: str, *, model: str = "echo", **more: Any
) -> Answer:
    """Stream one chat completion to its end, whatever end that is."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }
    headers = more.pop("headers", {})
    body.pop("headers", None)
    answer = Answer()
    try:
        async with client.stream(
            "POST", "/v1/chat/completions", json=body, headers=headers
        ) as response:
            answer.status = response.status_code
            if response.status_code != 200:
                answer.error = (await response.aread()).decode()
                return answer
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    answer.done = True
                elif line.startswith("data: "):
                    answer.take(json.loads(line[6:]))
    except httpx2.HTTPError as error:
        answer.error = answer.error or f"{type(error).__name__}: {error}"
    return answer


def echoed(prompt: str, tokens: int) -> str:
    """What the echo engine answers: the words of the last message, over and over, but
    for `delay=MS`."""
    words = [word for word in prompt.split() if not word.startswith("delay=")]
    return " ".join(words[n % len(words)] for n in range(tokens))
