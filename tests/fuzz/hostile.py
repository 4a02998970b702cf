"""What somebody would send who wishes us ill, route by route (security controls S8, S9, S11)."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

Asked = tuple[str, dict[str, Any]]  # the address, and what httpx sends to it

NAMES = (
    "../../../../etc/passwd",
    "..\\..\\windows",
    "/etc/passwd",
    "....//....//etc/passwd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "．．／．．／etc",  # noqa: RUF001
    "a\x00b",
    "%00",
    "\x7f\x1b[31m",
    "\u202egnp.exe",
    "e\u0301" * 300,
    "x" * 5_000,
    "ftjob-" + "0" * 24 + "\n",
    "' OR 1=1; DROP TABLE job; --",
    "{{7*7}}${7*7}#{7*7}",
    "$(touch /tmp/canary)",
    "line\r\nx-injected: 1",
    ".",
    "..",
    " ",
    "null",
    "-1",
    "1e999",
    "99999999999999999999",
    "[]",
    "\ufffe\uffff",
    "🦜" * 50,
)
JSON = (
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"0",
    b"{",
    b"{}",
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"[" * 30 + b"]" * 30,
    b'{"seed": ' + b"9" * 5_000 + b"}",
    b'{"seed": 1e400}',
    b'{"seed": NaN}',
    b'{"seed": -Infinity}',
    b'{"model": "a", "model": "b"}',
    b'{"model": "\\ud800", "training_file": "f"}',
    b'{"model": "\\u0000", "training_file": "f"}',
    b'{"model": "m", "training_file": "f", "metadata": {"\\u0000": "x"}}',
    b'{"model": "m", "training_file": "f", "metadata": {"__proto__": "x", "": ""}}',
    b'{"model": "m", "training_file": "f", "seed": 9223372036854775808}',
    b'{"model": {"$ref": "#"}, "training_file": ["f"]}',
    b'{"' + b"k" * 900_000 + b'": 1}',
    b"{" + b",".join(b'"%d": 1' % n for n in range(50_000)) + b"}",
    b" " * 1_100_000,
)
KINDS = (
    "application/json",
    "application/json; charset=utf-16",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "multipart/form-data; boundary=",
    "multipart/form-data; boundary=" + "b" * 500,
    "application/xml",
    "\xff/\xfe",
    "",
)
HEADERS = (
    {"authorization": "Bearer"},
    {"authorization": "Basic Og=="},
    {"authorization": "Bearer " + "k" * 20_000},
    {"authorization": "Bearer \xe9\xff"},
    {"authorization": "Bearer a b c"},
    {"idempotency-key": ""},
    {"idempotency-key": "k" * 300},
    {"idempotency-key": "\xe9"},
    {"x-stainless-retry-count": "NaN"},
    {"x-stainless-retry-count": "9" * 400},
    {"range": "bytes=-"},
    {"range": "bytes=5-1"},
    {"range": "bytes=99999999999999999999-"},
    {"range": "bytes=" + ",".join("0-0" for _ in range(2_000))},
    {"range": "lines=1-2"},
    {"if-none-match": '"' + "x" * 5_000},
    {"if-range": "\xff"},
    {"last-event-id": "\x7f" * 10},
    {"content-length-": "1"},
    {"host": "evil.example"},
    {"x-forwarded-host": "evil.example", "x-request-id": "mine"},
    {"accept": "text/html;q=x", "accept-encoding": "br;q=2"},
    {f"x-{n}": "v" * 400 for n in range(60)},
)
QUERIES = (
    "limit=abc",
    "limit=-1",
    "limit=1e3",
    "limit=" + "9" * 400,
    "limit=1&limit=2",
    "after=",
    "after=%00",
    "after=%ff%fe",
    "after=%ED%A0%80",
    "after=" + "x" * 5_000,
    "metadata=null&metadata[a]=b",
    "metadata[" + "k" * 3_000 + "]=v",
    "metadata[]=&metadata[[a]]=b&metadata=",
    "metadata[%ED%A0%80]=%FF",
    "&".join(f"metadata[{n}]=v" for n in range(40)),
    "order=sideways",
    "purpose=%F0%9F%A6%9C",
    "%=&=&&;;",
    "wait=NaN",
    "wait=-1",
    "wait=1e999",
    "until=9999999999999999999999&size=1&sha256=x&signature=y",
    "until=1&size=-1&sha256=" + "0" * 64 + "&signature=%FF",
)
CRLF = b"\r\n"


def forms() -> Iterator[tuple[str, bytes]]:
    """Content types and bodies of broken and of hostile uploads."""

    def part(disposition: bytes, content: bytes, more: bytes = b"") -> bytes:
        head = b"--B\r\nContent-Disposition: " + disposition + CRLF + more + CRLF
        return head + content + CRLF

    kind = "multipart/form-data; boundary=B"
    purpose = part(b'form-data; name="purpose"', b"fine-tune")
    good = part(b'form-data; name="file"; filename="a.jsonl"', b'{"messages": []}')
    end = b"--B--\r\n"
    for name in NAMES:
        raw = name.encode(errors="replace").replace(CRLF, b"%0D%0A")
        yield kind, purpose + part(b'form-data; name="file"; filename="' + raw + b'"', b"{}") + end
        yield kind, purpose + part(b'form-data; name="' + raw + b'"', b"x") + good + end
        yield kind, good + part(b'form-data; name="purpose"', raw) + end
    yield kind, b""
    yield kind, end
    yield kind, good + purpose  # never ends
    yield kind, b"--C" + CRLF + good + end
    yield kind, good[:20]
    yield kind, good + good + purpose + end
    yield kind, purpose + part(b"form-data", b"no name") + end
    yield kind, purpose + b"--B\r\n\r\nno headers\r\n" + end
    yield kind, purpose + b"--B\r\nno colon\r\n\r\nx\r\n" + end
    yield kind, purpose + part(b'form-data; name="file', b"x") + end
    yield kind, purpose + part(b'form-data; name="file"', b"x", b"X: " + b"y" * 50_000 + CRLF) + end
    yield (
        kind,
        purpose
        + part(b'form-data; name="file"', b"eA==", b"Content-Transfer-Encoding: base64\r\n")
        + end,
    )
    yield kind, purpose + part(b"form-data; name*=utf-8''file; filename*=utf-8''..%2fx", b"x") + end
    yield kind, b"".join(part(b'form-data; name="f%d"' % n, b"x") for n in range(500)) + end
    yield kind, part(b'form-data; name="purpose"', b"p" * 100_000) + good + end
    yield (
        kind,
        purpose + part(b'form-data; name="file"; filename="a"', b"\x80\x04cos\nsystem\n.") + end,
    )
    yield (
        kind,
        purpose + part(b'form-data; name="file"; filename="a"', b"\x1f\x8b" + b"\x00" * 99) + end,
    )
    yield kind, purpose + part(b'form-data; name="file"; filename="a"', b"[" * 100_000) + end
    yield kind, purpose + part(b'form-data; name="file"; filename="a"', b"\xff\xfe" * 500) + end
    yield "multipart/form-data", good + purpose + end
    yield "multipart/mixed; boundary=B", good + purpose + end
    yield "multipart/form-data; boundary=B; boundary=C", good + purpose + end
    yield 'multipart/form-data; boundary="' + "B" * 300 + '"', good + purpose + end


def on_route(method: str, path: str, good: dict[str, str]) -> Iterator[Asked]:
    """`path` with its braces filled by `good` values but for what is tried."""
    address = path.format(**good)
    for name in good:
        for bad in NAMES:
            yield path.format(**good | {name: quote(bad, safe="")}), {}
            yield path.format(**good | {name: quote(bad, safe="/.\\")}), {}
    for query in QUERIES:
        yield f"{address}?{query}", {}
    for headers in HEADERS:
        yield address, {"headers": {name: text.encode("latin-1") for name, text in headers.items()}}
    if method in {"GET", "HEAD"}:
        return
    for body in JSON:
        yield address, {"content": body, "headers": {"content-type": "application/json"}}
    for kind in KINDS:
        as_said = {"content-type": kind.encode("latin-1")}
        yield address, {"content": b'{"model": "m"}', "headers": as_said}


def in_each_text(body: Any, bad: str) -> Iterator[Any]:
    """The body with one of its texts replaced, each in turn, keys included."""
    if isinstance(body, str):
        yield bad
    elif isinstance(body, list):
        for n, item in enumerate(body):
            for other in in_each_text(item, bad):
                yield [*body[:n], other, *body[n + 1 :]]
    elif isinstance(body, dict):
        for name, item in body.items():
            for other in in_each_text(item, bad):
                yield body | {name: other}
        yield body | {bad: "x"}


VALUES: tuple[Any, ...] = (None, True, -1, 0.5, "x", [], {}, ["x"], {"x": "x"})


def in_each_place(body: Any, bad: Any) -> Iterator[Any]:
    """The body with one of its values replaced, each in turn."""
    yield bad
    if isinstance(body, list):
        for n, item in enumerate(body):
            for other in in_each_place(item, bad):
                yield [*body[:n], other, *body[n + 1 :]]
    elif isinstance(body, dict):
        for name, item in body.items():
            for other in in_each_place(item, bad):
                yield body | {name: other}


CREATE = b"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: a\r\n"
# Not HTTP, or hardly.
RAW = (
    b"\x00\x01\x02\x03\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /v1/files HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /v1/files HTTP/1.1\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v1/files\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v1/\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v1/%zz%f HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET //v1//files/../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    b"G\xc3\x89T /v1/files HTTP/1.1\r\nHost: a\r\n\r\n",
    b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT evil:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    CREATE + b"Content-Length: -5\r\n\r\n",
    CREATE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    CREATE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    CREATE + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
    b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nshort",
)
