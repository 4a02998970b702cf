"""Nothing that a user names leads inside, and no server that answers can hold us up."""

import asyncio
import datetime as dt
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from api.webhooks import outbound
from tests.api.sink import Sink, sink
from tunery.errors import InvalidRequest

CLOSED = (
    "127.0.0.1 10.0.0.1 172.16.0.1 192.168.0.1 169.254.169.254 168.63.129.16 100.64.0.1 0.0.0.0 "
    "224.0.0.1 240.0.0.1 255.255.255.255 192.0.0.8 198.18.0.1 192.0.2.1 "
    ":: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::7f00:1 64:ff9b:1::1 2002:7f00:1:: "
    "2001::1 2001:db8::1 fe80::1 fe80::1%eth0 fec0::1 fc00::1 fd00:ec2::254 ff02::1"
)
OPEN = "8.8.8.8 93.184.216.34 2606:4700::1111 2a00:1450:4001:81b::200e"
IN_ODD_FORMS = (
    "127.0.0.1 169.254.169.254 10.1.2.3 [::1] [::ffff:127.0.0.1] [64:ff9b::7f00:1] "
    "0 127.1 2130706433 0x7f.1 0177.0.0.1 0x7f000001"
)


def test_only_addresses_of_the_open_internet_are_public() -> None:
    assert [address for address in CLOSED.split() if outbound.is_public(address)] == []
    assert [address for address in OPEN.split() if not outbound.is_public(address)] == []


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://hooks.example.com/", "must begin with https"),
        ("file:///etc/passwd", "must begin with https"),
        ("hooks.example.com/x", "must begin with https"),
        ("https://u:p@hooks.example.com/", "user name"),
        ("https://hooks.example.com/#x", "fragment"),
        ("https:///x", "names no host"),
        ("https://hooks.example.com:0/", "names no host and port"),
        ("https://hooks.example.com:99999/", "cannot be read"),
        ("https://[::1/", "cannot be read"),
        ("https://hooks.example.com./", "names no host"),
        ("https://hooks.exämple.com/", "ASCII"),
        ("https://hooks.example.com/a\nb", "ASCII"),
        ("https://hooks.example.com/" + "a" * 2048, "2048 characters"),
        ("https://localhost/", "not a public name"),
        ("https://postgres:5432/", "not a public name"),
        ("https://metadata.google.internal/", "not a public name"),
        *((f"https://{host}/", "not a public address") for host in IN_ODD_FORMS.split()),
    ],
)
def test_a_url_that_leads_nowhere_public_is_refused_without_asking_a_name_server(
    url: str, why: str
) -> None:
    with pytest.raises(InvalidRequest, match=why):
        outbound.target_of(url, to_private=False)


def post(url: str, *, to_private: bool = False) -> int:
    headers = {"content-type": "application/json"}
    return asyncio.run(outbound.post(url, headers, b"{}", to_private=to_private))


class Resolver:
    """Answers each question with the next of its answers."""

    def __init__(self, patch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self.answers = iter(answers)
        self.asked = 0
        self.real = socket.getaddrinfo
        patch.setattr(socket, "getaddrinfo", self.resolve)

    def resolve(self, host: str, port: Any, *args: Any, **more: Any) -> Any:
        if more.get("flags", 0) & socket.AI_NUMERICHOST or not port:
            return self.real(host, port, *args, **more)
        self.asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in next(self.answers)]


@contextmanager
def on_one_port(address: str, other: str) -> Iterator[tuple[Sink, Sink]]:
    """A port that is free at one address may be taken at the other."""
    with ExitStack() as stack:
        while True:
            one = stack.enter_context(sink(address))
            try:
                two = stack.enter_context(sink(other, one.port))
            except OSError:
                continue
            yield one, two
            return


def test_the_connection_goes_to_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name server that answers with another address the second time (DNS rebinding) gains
    nothing; nor does one that hides a private address behind a public one.
    """
    with on_one_port("127.0.0.2", "127.0.0.1") as (public, private):
        monkeypatch.setattr(outbound, "is_public", "127.0.0.2".__eq__)
        # Plain http for once: there is no certificate for it.
        target = outbound.Target("http", "hooks.example.com", public.port, "/", "hooks.example.com")
        monkeypatch.setattr(outbound, "target_of", lambda _, **__: target)
        resolver = Resolver(monkeypatch, ["127.0.0.2"], ["127.0.0.1"], ["127.0.0.1", "127.0.0.2"])
        assert post("http://hooks.example.com") == 200
        with pytest.raises(outbound.Blocked, match=r"leads to 127\.0\.0\.1: not a public"):
            post("http://hooks.example.com")
        assert post("http://hooks.example.com") == 200
        assert (resolver.asked, len(public.came), private.came) == (3, 2, [])
        assert public.came[0].headers["host"] == "hooks.example.com"


def test_an_address_is_checked_again_when_it_is_used() -> None:
    with pytest.raises(outbound.Blocked, match="not a public address"):
        post("https://127.0.0.1/")


def certificate(name: str, folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for the name that vouches for itself: its file, and a server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file, key_file = folder / "certificate.pem", folder / "key.pem"
    file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key_file)
    return file, context


def test_tls_checks_the_name_though_the_connection_goes_by_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, tls = certificate("hooks.example.com", tmp_path)
    names: list[str | None] = []
    tls.sni_callback = lambda _, name, __: names.append(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    outbound.trust.cache_clear()
    monkeypatch.setattr(outbound, "is_public", "127.0.0.1".__eq__)
    Resolver(monkeypatch, ["127.0.0.1"], ["127.0.0.1"])
    with sink(tls=tls) as receiver:
        assert post(f"https://hooks.example.com:{receiver.port}/a?b=c") == 200
        with pytest.raises(outbound.NotSent, match="certificate"):
            post(f"https://other.example.com:{receiver.port}/")
    outbound.trust.cache_clear()
    (came,) = receiver.came
    assert (came.path, came.headers["host"]) == (
        "/a?b=c",
        f"hooks.example.com:{receiver.port}",
    )
    assert names == ["hooks.example.com", "other.example.com"]


@contextmanager
def speaking(*said: bytes, pause: float) -> Iterator[str]:
    """A server that says the last of these again and again, with pauses; its url."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                try:
                    for word in said:
                        connection.sendall(word)
                    while True:
                        time.sleep(pause)
                        connection.sendall(said[-1])
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        thread.join(60)
        assert not thread.is_alive(), "the connection was not closed"


def test_a_server_that_drips_its_answer_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbound, "SECONDS", 0.3)
    with (
        speaking(b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n", pause=0.05) as url,
        pytest.raises(outbound.NotSent, match=r"No answer within 0\.3 s"),
    ):
        post(url, to_private=True)


def test_of_an_answer_without_end_only_the_head_is_read() -> None:
    head = b"HTTP/1.1 503 Busy\r\ncontent-length: 10000000000\r\n\r\n"
    with speaking(head, b"x" * 65536, pause=0.001) as url:
        assert post(url, to_private=True) == 503


@pytest.mark.parametrize(
    ("url", "why"),
    [("http://127.0.0.1:1/", "ConnectError"), ("http://no-such-host.invalid/", "does not resolve")],
)
def test_a_server_that_is_not_there_is_said_so(
    url: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "invalid" in url:
        missing = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: raise_(missing))
    with pytest.raises(outbound.NotSent, match=why):
        post(url, to_private=True)


def raise_(error: Exception) -> Any:
    raise error
