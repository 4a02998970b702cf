"""An OpenID Connect issuer of the tests' own, for what no real provider says: wrong tokens."""

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT = "tunery"
SECRET = "client-secret"
KEY, OTHER_KEY = (rsa.generate_private_key(65537, 2048) for _ in range(2))


class Issuer:
    """Each code that it is given beforehand is exchanged once. `wrong` changes the claims of the
    next tokens, `key` and `algorithm` are what signs them, `document` what it says of itself.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.wrong: dict[str, Any] = {}
        self.key: Any = KEY
        self.algorithm = "RS256"
        self.kid = "one"
        self.shown: list[dict[str, Any]] = [public(KEY, "one")]
        self.document: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {}
        self.codes: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.forms: list[dict[str, str]] = []

    def code_for(self, nonce: str, subject: str = "ada", **claims: Any) -> str:
        code = secrets.token_urlsafe(8)
        now = int(time.time())
        self.codes[code] = {
            "iss": self.url,
            "sub": subject,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            "groups": ["team"],
            "email": f"{subject}@example.com",
            **claims,
        }
        return code

    def answer(self, method: str, path: str, form: dict[str, str]) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        if path == "/.well-known/openid-configuration":
            return 200, {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
                "userinfo_endpoint": f"{self.url}/me",
                "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
                **self.document,
            }
        if path == "/keys":
            return 200, {"keys": self.shown}
        if path == "/me":
            return 200, self.userinfo
        self.forms.append(form)
        claims = self.codes.pop(form.get("code", ""), None)
        if claims is None:
            return 400, {"error": "invalid_grant", "error_description": "no such code"}
        claims = {name: said for name, said in (claims | self.wrong).items() if said is not None}
        headers = {"kid": self.kid}
        token = jwt.encode(claims, self.key, algorithm=self.algorithm, headers=headers)
        return 200, {"id_token": token, "access_token": "a", "token_type": "Bearer"}


def public(key: Any, kid: str) -> dict[str, Any]:
    shown: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return shown | {"kid": kid, "use": "sig"}


@contextmanager
def issuing() -> Iterator[Issuer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.say("GET", {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self.say("POST", {name: values[0] for name, values in parse_qs(body).items()})

        def say(self, method: str, form: dict[str, str]) -> None:
            status, said = issuer.answer(method, self.path, form)
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = Issuer(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join()
