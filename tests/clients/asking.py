"""How each client is asked, and what it read: one function a client.

A client gets a list of asks and gives back what it read of each, through whatever it offers of its
own; none is told that an answer may come early. Clients that are programs get the list as a file, a
line an ask, and print a line an answer (`Client.java`, `fetch.mjs`).
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import subprocess
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import aiohttp
import httpx
import httpx2
import requests

HERE = Path(__file__).parent
TIMEOUT_S = 60.0


class Ask(NamedTuple):
    """A POST."""

    url: str
    headers: dict[str, str]
    body: Path


class Read(NamedTuple):
    """What a client had of an answer; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


Client = Callable[[list[Ask]], list[Read]]


def _read(status: int, headers: object, body: bytes) -> Read:
    return Read(status, {k.lower(): v for k, v in dict(headers).items()}, body)  # type: ignore[call-overload]


def standard_library(asks: list[Ask]) -> list[Read]:
    """http.client on one connection, which it opens again when it was closed."""
    connection = http.client.HTTPConnection(
        urllib.parse.urlsplit(asks[0].url).netloc, timeout=TIMEOUT_S
    )
    found = []
    for ask in asks:
        path = urllib.parse.urlsplit(ask.url).path
        connection.request("POST", path, ask.body.read_bytes(), ask.headers)
        answer = connection.getresponse()
        found.append(_read(answer.status, answer.getheaders(), answer.read()))
    connection.close()
    return found


def of_requests(asks: list[Ask]) -> list[Read]:
    with requests.Session() as session:
        found = []
        for ask in asks:
            answer = session.post(
                ask.url, headers=ask.headers, data=ask.body.read_bytes(), timeout=TIMEOUT_S
            )
            found.append(_read(answer.status_code, answer.headers, answer.content))
        return found


def of_requests_in_chunks(asks: list[Ask]) -> list[Read]:
    with requests.Session() as session:
        found = []
        for ask in asks:
            body = ask.body.read_bytes()
            parts = (body[at : at + 60_000] for at in range(0, len(body), 60_000))
            answer = session.post(ask.url, headers=ask.headers, data=parts, timeout=TIMEOUT_S)
            found.append(_read(answer.status_code, answer.headers, answer.content))
        return found


def of_httpx(asks: list[Ask]) -> list[Read]:
    with httpx.Client(timeout=TIMEOUT_S) as client:
        answers = [
            client.post(ask.url, headers=ask.headers, content=ask.body.read_bytes()) for ask in asks
        ]
        return [_read(answer.status_code, answer.headers, answer.content) for answer in answers]


def of_httpx2(asks: list[Ask]) -> list[Read]:
    """What the openai package asks with."""
    with httpx2.Client(timeout=TIMEOUT_S) as client:
        answers = [
            client.post(ask.url, headers=ask.headers, content=ask.body.read_bytes()) for ask in asks
        ]
        return [_read(answer.status_code, answer.headers, answer.content) for answer in answers]


def of_aiohttp(asks: list[Ask]) -> list[Read]:
    async def run() -> list[Read]:
        found = []
        timeout = aiohttp.ClientTimeout(TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for ask in asks:
                body = ask.body.read_bytes()
                async with session.post(ask.url, headers=ask.headers, data=body) as answer:
                    found.append(_read(answer.status, answer.headers, await answer.read()))
        return found

    return asyncio.run(run())


def curl(asks: list[Ask], *options: str) -> list[Read]:
    found = []
    for ask in asks:
        fields = [
            item for name, value in ask.headers.items() for item in ("-H", f"{name}: {value}")
        ]
        said = _run(
            "curl", "-sS", "-i", *options, "--max-time", str(TIMEOUT_S), *fields,
            "--data-binary", f"@{ask.body}", ask.url,
        )  # fmt: skip
        while True:
            head, _, said = said.partition(b"\r\n\r\n")
            line, *lines = head.decode("latin-1").split("\r\n")
            if int(line.split()[1]) >= 200:
                break
        found.append(_read(int(line.split()[1]), [item.split(": ", 1) for item in lines], said))
    return found


def curl_http2(asks: list[Ask]) -> list[Read]:
    """It offers to go on in HTTP/2."""
    return curl(asks, "--http2")


def java(asks: list[Ask]) -> list[Read]:
    return _program(asks, "java", str(HERE / "Client.java"))


def node(asks: list[Ask]) -> list[Read]:
    return _program(asks, "node", str(HERE / "fetch.mjs"))


def _program(asks: list[Ask], *command: str) -> list[Read]:
    plan = asks[0].body.parent / f"plan-{command[0]}"
    plan.write_text(
        "".join(
            "\t".join([ask.url, str(ask.body), *(f"{k}: {v}" for k, v in ask.headers.items())])
            + "\n"
            for ask in asks
        )
    )
    found = []
    for line in _run(*command, str(plan)).decode().splitlines():
        status, fields, body = line.split("\t")
        lines = base64.b64decode(fields).decode("latin-1").splitlines()
        found.append(
            _read(int(status), [item.split(": ", 1) for item in lines], base64.b64decode(body))
        )
    return found


def _run(*command: str) -> bytes:
    done = subprocess.run(
        command, capture_output=True, stdin=subprocess.DEVNULL, timeout=5 * TIMEOUT_S, check=False
    )
    assert done.returncode == 0, (
        f"{command[0]} ended with {done.returncode}: {done.stderr.decode()}"
    )
    return done.stdout


CLIENTS: dict[str, tuple[str, Client]] = {
    "http.client": ("", standard_library),
    "requests": ("", of_requests),
    "requests, in chunks": ("", of_requests_in_chunks),
    "httpx": ("", of_httpx),
    "httpx2": ("", of_httpx2),
    "aiohttp": ("", of_aiohttp),
    "curl": ("curl", curl),
    "curl --http2": ("curl", curl_http2),
    "java": ("java", java),
    "node": ("node", node),
}
