"""TLS at a front door: versions, bounds, and certificates exchanged under running answers."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from tests.support.door_certificates import DAY, DoorAuthority, serial_of
from tests.support.http_server import KEY, Served, served
from tests.support.raw_http import Raw, chat, events, request, said
from tests.support.waiting import PATIENCE_S, until
from tether.http import certificate as certificates
from tether.http import metrics, tls_listener
from tether.http.certificate import CertificateUnusable, DoorCertificate
from tether.http.options import DoorOptions
from tether.http.tls_listener import Handshakes, TlsListener, origin_of

CHAT = "/v1/chat/completions"


@pytest.fixture
def authority(tmp_path: Path) -> DoorAuthority:
    authority = DoorAuthority(tmp_path)
    authority.renew()
    return authority


@pytest.fixture
async def door(authority: DoorAuthority) -> AsyncIterator[Served]:
    options = DoorOptions(port=0, certificate=str(authority.certificate), key=str(authority.key))
    async with served(options=options) as door:
        yield door


def serial(raw: Raw) -> int:
    return serial_of(raw.writer.get_extra_info("ssl_object"))


def result(name: str) -> float:
    return float(metrics.handshakes.labels(name)._value.get())


def door_handshakes() -> float:
    return float(tls_listener._used._value.get())


async def s_client(port: int, *options: str) -> tuple[int, str]:
    """OpenSSL's own client; its exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-alpn", "h2,http/1.1", *options,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    return process.returncode or 0, said.decode(errors="replace")


async def test_clients_of_all_kinds(door: Served, authority: DoorAuthority) -> None:
    async with httpx2.AsyncClient(
        base_url=door.url, verify=authority.client(), headers={"authorization": f"Bearer {KEY}"}
    ) as client:
        answer = await client.post(CHAT, json=chat("a b", 3))
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "a b a "
        async with client.stream("POST", CHAT, json=chat("a b", 30, stream=True)) as stream:
            body = b"".join([part async for part in stream.aiter_bytes()])
        assert said(body) == "a b " * 15 and events(body)[-1] == "[DONE]"
        large = {"model": "echo", "messages": [{"role": "user", "content": "w " * 400_000}]}
        answer = await client.post(CHAT, json=large | {"max_tokens": 1})
        assert answer.status_code in (200, 400)  # read whole, whatever the model says to it
    curl = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--cacert", str(authority.path), f"https://localhost:{door.port}/healthz",
        "--resolve", f"localhost:{door.port}:127.0.0.1", stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(curl.communicate(), PATIENCE_S)
    assert (curl.returncode, out) == (0, b'{"status":"ok"}')


async def test_versions_and_ciphers(door: Served) -> None:
    code, told = await s_client(door.port, "-tls1_3")
    assert code == 0 and "TLSv1.3" in told and "ALPN protocol: http/1.1" in told, told
    code, told = await s_client(door.port, "-tls1_2")
    assert code == 0 and "ECDHE-ECDSA-" in told and "ALPN protocol: http/1.1" in told, told
    before = result("refused")
    old = "ALL:@SECLEVEL=0"  # at which the client would
    for refused in (
        ("-tls1_1", "-cipher", old),
        ("-tls1", "-cipher", old),
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"),  # no AEAD
    ):
        code, told = await s_client(door.port, *refused)
        assert code != 0 and "Cipher is (NONE)" in told, told
    await until(lambda: result("refused") == before + 3)


async def test_only_the_newest_version_if_so_told(authority: DoorAuthority) -> None:
    options = DoorOptions(
        port=0, certificate=str(authority.certificate), key=str(authority.key), tls_minimum="1.3"
    )
    async with served(options=options) as door:
        assert (await s_client(door.port, "-tls1_3"))[0] == 0
        assert (await s_client(door.port, "-tls1_2"))[0] != 0


@pytest.mark.parametrize("size", [0, 300_000])
async def test_plain_http_is_told_so_and_counted(door: Served, size: int) -> None:
    """Also who sends a body first, and reads then."""
    before = result("refused")
    async with await Raw.open(door.port) as raw:
        raw.write(request("POST", "/v1/chat/completions", b"x" * size))
        status, body = await raw.answer()
        assert (status, body) == (400, b"the plain HTTP request was sent to an HTTPS port\n")
        assert raw.headers["connection"] == "close"
        assert await raw.closed()
    await until(lambda: result("refused") == before + 1)


async def test_who_reads_no_answer_to_plain_http_is_left(
    door: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_listener, "_PLAIN_S", 0.2)
    async with await Raw.open(door.port) as raw:
        raw.write(b"GET / HTTP/1.1\r\n")
        assert await raw.head() == 400
        assert len(await raw.body()) == int(raw.headers["content-length"])
        await until(lambda: not door_handshakes())


async def test_who_says_nothing_is_a_handshake_that_takes_too_long(
    authority: DoorAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TlsListener.__init__, "__kwdefaults__", {"most": 512, "timeout_s": 0.2})
    options = DoorOptions(port=0, certificate=str(authority.certificate), key=str(authority.key))
    async with served(options=options) as door:
        before = result("timeout")
        async with await Raw.open(door.port) as raw:
            assert await raw.closed()
        assert result("timeout") == before + 1


async def test_what_comes_with_the_handshake_is_not_lost(
    door: Served, authority: DoorAuthority
) -> None:
    """A client of TLS 1.3 may send its request in the same segment as the end of its handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = authority.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    try:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(1 << 16))
        tls.write(request("GET", "/healthz"))
        writer.write(outgoing.read())  # the end of the handshake, and the request
        incoming.write(await asyncio.wait_for(reader.read(1 << 16), PATIENCE_S))
        assert tls.read(12) == b"HTTP/1.1 200"
    finally:
        writer.close()


async def test_a_new_certificate_under_running_streams(
    door: Served, authority: DoorAuthority
) -> None:
    assert door.certificate is not None
    watching = asyncio.create_task(door.certificate.watch())
    client = authority.client()
    gateway = door.node.gateway()
    try:
        async with await Raw.open(door.port, tls=client) as running:
            first = serial(running)
            running.post(CHAT, chat("a hold", 4, stream=True))
            assert await running.head() == 200
            await until(lambda: gateway.running == 1)
            second = authority.renew()
            assert second != first

            async def new() -> bool:
                async with await Raw.open(door.port, tls=client) as raw:
                    raw.write(request("GET", "/healthz"))
                    assert await raw.head() == 200
                    return serial(raw) == second

            async with asyncio.timeout(PATIENCE_S):
                while not await new():  # noqa: ASYNC110 - only looking can tell
                    await asyncio.sleep(0.05)
            gateway.release.set()
            assert said(await running.body()) == "a hold a hold "
            running.write(request("GET", "/healthz"))  # and the connection goes on
            assert await running.head() == 200
    finally:
        watching.cancel()


async def test_a_broken_new_pair_is_kept_out(
    door: Served, authority: DoorAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    files = door.certificate
    assert files is not None
    good = files.current
    assert files.last() == b"" and "PRIVATE" not in repr(good)
    before = float(metrics.certificate_failures._value.get())

    def looks() -> None:
        for _ in range(3):
            files.look()

    certificate, key = authority.pair()
    broken = [
        (certificate, authority.pair()[1]),  # of another one
        (certificate[:200], key),
        (certificate, key[:100]),
        (b"", b""),
        authority.pair(ends=-datetime.timedelta(seconds=1)),
        authority.pair(begins=DAY),
    ]
    for number, pair in enumerate(broken, 1):
        authority.put(*pair) if number in (1, 5, 6) else _write(authority, *pair)
        looks()
        assert files.current is good and files.last() == good.pem
        assert float(metrics.certificate_failures._value.get()) == before + number
        again = DoorCertificate(authority.certificate, authority.key, last=files.last())
        assert again.current.serial == good.serial
        before += 1  # which is told too
    authority.certificate.unlink()
    looks()
    assert files.current is good
    authority.put(certificate, key)
    looks()
    assert files.current is not good and files.last() == b""
    shown = metrics.certificate_ends.labels(str(authority.certificate))
    assert files.current.ends_at == shown._value.get()


def _write(authority: DoorAuthority, certificate: bytes, key: bytes) -> None:
    authority.certificate.write_bytes(certificate)
    authority.key.write_bytes(key)


async def test_a_half_copied_pair_alarms_nobody(door: Served, authority: DoorAuthority) -> None:
    files = door.certificate
    assert files is not None
    good, before = files.current, float(metrics.certificate_failures._value.get())
    certificate, key = authority.pair()
    authority.certificate.write_bytes(certificate)
    files.look()
    authority.key.write_bytes(key)
    files.look()
    assert files.current is good
    files.look()
    assert files.current is not good
    assert float(metrics.certificate_failures._value.get()) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("mismatch", "not that of the certificate"),
        ("expired", "ended on"),
        ("early", "is good from"),
        ("mode", "chmod 600"),
        ("encrypted", "encrypted"),
        ("no certificate", "holds no certificate"),
        ("absent", "can't be read"),
        ("large", "longer than"),
    ],
)
def test_what_cant_be_used_is_one_sentence(
    authority: DoorAuthority, change: str, told: str
) -> None:
    match change:
        case "mismatch":
            authority.put(authority.pair()[0], authority.pair()[1])
        case "expired":
            authority.put(*authority.pair(ends=-datetime.timedelta(hours=1)))
        case "early":
            authority.put(*authority.pair(begins=DAY))
        case "mode":
            authority.key.chmod(0o640)
        case "encrypted":
            protected = authority.folder / "protected.key"
            subprocess.run(
                ["openssl", "pkey", "-in", authority.key, "-aes256", "-passout", "pass:x",
                 "-out", protected], check=True,
            )  # fmt: skip
            protected.chmod(0o600)
            protected.replace(authority.key)
        case "no certificate":
            authority.certificate.write_bytes(authority.key.read_bytes())
        case "absent":
            authority.key.unlink()
        case "large":
            authority.certificate.write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(CertificateUnusable, match=told) as caught:
        DoorCertificate(authority.certificate, authority.key)
    assert "\n" not in str(caught.value)


async def test_the_log_says_when_it_ends(authority: DoorAuthority) -> None:
    now = [0.0]
    authority.put(*authority.pair(ends=10 * DAY))
    files = DoorCertificate(
        authority.certificate, authority.key,
        clock=lambda: now[0] + time.time(),
    )  # fmt: skip
    told: list[str] = []
    patch = pytest.MonkeyPatch()
    patch.setattr(certificates, "log", _Told(told))
    try:
        for day in (0, 1, 4, 5, 11, 12):
            now[0] = day * 86_400.0
            files.look()
    finally:
        patch.undo()
    assert len(told) == 2 and "ends soon" in told[0] and "has ended" in told[1]


class _Told:
    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def error(self, line: str, **_: object) -> None:
        self._lines.append(line)


async def test_strangers_who_never_end_their_handshake(
    door: Served, authority: DoorAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """600 of them from one address, silent or with half a greeting; a client of another one, and
    one that comes after them from the same, are served meanwhile."""
    refused = result("crowded_out")
    silent = []
    try:
        for number in range(tls_listener.MAX_HANDSHAKES + 88):
            reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
            if number % 2:
                writer.write(b"\x16\x03\x01\x02\x00\x01")
            silent.append((reader, writer))
        await until(lambda: result("crowded_out") == refused + 88)
        assert tls_listener._used._value.get() == tls_listener.MAX_HANDSHAKES
        async with await Raw.open(door.port, tls=authority.client()) as raw:
            raw.write(request("GET", "/healthz"))
            assert await raw.head() == 200
        for reader, _ in silent[:89]:  # the oldest have given way
            assert await asyncio.wait_for(reader.read(1), PATIENCE_S) == b""
    finally:
        for _, writer in silent:
            writer.close()
    await until(lambda: tls_listener._used._value.get() == 0)


async def test_a_crowd_of_one_address_leaves_others_alone() -> None:
    """Who has most gives way, not who came first."""
    crowd = Handshakes(4)
    honest, *others = [asyncio.create_task(asyncio.Event().wait()) for _ in range(6)]
    crowd.add(honest, "192.0.2.1")  # type: ignore[arg-type]
    for one in others:
        crowd.add(one, "192.0.2.2")  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert [one.done() for one in (honest, *others)] == [False, True, True, False, False, False]
    crowd.end()
    await asyncio.wait((honest, *others))


def test_whose_a_handshake_is() -> None:
    assert origin_of("192.0.2.1") == origin_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert origin_of("2001:db8::1") == origin_of("2001:db8::ffff:1") != origin_of("2001:db8:0:1::1")
    assert origin_of("fe80::1%eth0") == "fe80::/64"


async def test_the_time_for_a_handshake_is_bounded(
    authority: DoorAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TlsListener.__init__.__kwdefaults__, "timeout_s", 0.2)  # type: ignore[arg-type]
    options = DoorOptions(port=0, certificate=str(authority.certificate), key=str(authority.key))
    before = result("timeout")
    async with served(options=options) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(b"\x16\x03\x01")
        assert await asyncio.wait_for(reader.read(1), PATIENCE_S) == b""
        assert result("timeout") == before + 1
        writer.close()


async def test_a_stop_ends_unfinished_handshakes_at_once(
    authority: DoorAuthority,
) -> None:
    options = DoorOptions(port=0, certificate=str(authority.certificate), key=str(authority.key))
    async with served(options=options) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        await until(lambda: tls_listener._used._value.get() == 1)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await door.server.stop(1.0)
        assert loop.time() - begun < 1.0
        assert await asyncio.wait_for(reader.read(1), PATIENCE_S) == b""
        writer.close()


async def test_descriptors_are_closed(door: Served, authority: DoorAuthority) -> None:
    def descriptors() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    files = door.certificate
    assert files is not None
    before = 0
    for number in range(6):
        before = before or (descriptors() if number else 0)  # after what the first one needs anyway
        authority.renew()
        files.look()
        files.look()
        async with await Raw.open(door.port, tls=authority.client()) as raw:
            raw.write(request("GET", "/healthz"))
            assert await raw.head() == 200
    await until(lambda: descriptors() <= before)
