"""The console's files, as they lie in `assets/`: no build, nothing from elsewhere."""

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request, Response

FOLDER = Path(__file__).parent / "assets"
PAGE = "index.html"
# Stands in the page for where its other files are.
HERE = b"{here}"

# Nothing inline, nothing from another host, and no page of another site around ours.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
MARKS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "vary": "accept-encoding",
}
FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Asset:
    """One file; `packed` is the same bytes in gzip."""

    media_type: str
    content: bytes
    packed: bytes

    @classmethod
    def of(cls, name: str, content: bytes) -> "Asset":
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return cls(media_type, content, gzip.compress(content, mtime=0))

    def answer(self, request: Request, *, cached: str) -> Response:
        packed = "gzip" in request.headers.get("accept-encoding", "")
        return Response(
            self.packed if packed else self.content,
            media_type=self.media_type,
            headers=MARKS
            | {"cache-control": cached}
            | ({"content-encoding": "gzip"} if packed else {}),
        )


class Assets:
    """All of them, in memory. Those beside the page lie under their common hash, `version`, so a
    browser keeps them for good and never mixes two versions.
    """

    def __init__(self, folder: Path) -> None:
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.endswith(".d.ts")
        }
        whole = hashlib.sha256()
        for name, content in files.items():
            whole.update(f"{name}\0{len(content)}\0".encode() + content)
        self.version = whole.hexdigest()[:12]
        page = files.pop(PAGE).replace(HERE, f"/ui/{self.version}".encode())
        self.page = Asset.of(PAGE, page)
        self.by_name = {name: Asset.of(name, content) for name, content in files.items()}
