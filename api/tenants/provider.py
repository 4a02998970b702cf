"""The OpenID Connect provider at which people sign in: OpenID Connect Core 1.0, the authorization
code flow with PKCE (RFC 7636).

All of it belongs to the event loop's thread; nothing here touches the database.
"""

import asyncio
import hmac
import json
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote_plus, urlencode, urlsplit

import httpx

from api.db import sealing
from api.settings import Settings
from api.tenants import id_tokens
from api.tenants.id_tokens import UnknownKey, cut, failed, label
from tunery import pkce
from tunery.errors import Conflict, RateLimited, SignInAway

ANSWER_SECONDS = 10
MOST_BYTES = 1 << 20
# After the first, the provider is asked again for what it says of itself; while it is away, that is
# believed until the second.
KNOWN_SECONDS, BELIEVED_SECONDS = 3_600, 86_400
# A new key is looked for at most so often.
KEY_SECONDS = 10
# So long somebody may take to sign in there.
BEGUN_SECONDS = 15 * 60
MOST_AT_ONCE = 64
SEALED_AS = "sign-in that was begun"

Found = TypeVar("Found")


@dataclass(frozen=True)
class Known:
    """Somebody as the provider knows them. `groups` are the values of the claims that say them."""

    issuer: str
    subject: str
    email: str | None
    name: str | None
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Begun:
    """A sign-in on its way: where the browser goes, and what it shows again afterwards."""

    url: str
    sealed: str


@dataclass(frozen=True)
class Metadata:
    """What the provider says of itself, with the keys that it signs with, since when."""

    document: dict[str, Any]
    keys: list[dict[str, Any]]
    at: float


class Provider:
    def __init__(self, settings: Settings) -> None:
        assert settings.oidc_issuer  # noqa: S101
        self.settings = settings
        self.issuer = settings.oidc_issuer
        self.client_id = str(settings.oidc_client_id)
        self.home = str(settings.public_url).rstrip("/")
        self.name = settings.oidc_name or str(urlsplit(self.issuer).hostname)
        self.known: Metadata | None = None
        self.asking: asyncio.Task[Metadata] | None = None
        self.at_work = 0
        self.client: httpx.AsyncClient | None = None

    @property
    def redirect_uri(self) -> str:
        """Registered at the provider. Of the settings, and never of a request."""
        return f"{self.home}/ui/oidc/callback"

    async def begin(self) -> Begun:
        """Raises `SignInAway` and `RateLimited`."""
        document = (await self.bounded(self.metadata)).document
        state, nonce = (secrets.token_urlsafe(32) for _ in range(2))
        verifier = pkce.new_verifier()
        asked = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": self.settings.oidc_scopes,
            "state": state,
            "nonce": nonce,
            "code_challenge": pkce.challenge_of(verifier),
            "code_challenge_method": "S256",
        }
        begun = {"state": state, "nonce": nonce, "verifier": verifier, "at": time.time()}
        secret = self.settings.secret.get_secret_value()
        sealed = sealing.seal(secret, json.dumps(begun), project_id="", name=SEALED_AS)
        return Begun(with_query(document["authorization_endpoint"], asked), sealed)

    async def finish(self, sealed: str | None, code: str, state: str, issuer: str | None) -> Known:
        """Who has signed in. `sealed` is what the same browser was given by `begin`; the others are
        what the provider sent it back with.

        Raises:
            Unauthenticated: this is not the end of a sign-in that was begun here, or what the
                provider says does not hold.
            SignInAway: the provider does not answer as one.
            RateLimited: too many sign in at once.

        """
        begun = self.begun_as(sealed, state)
        if issuer is not None and issuer != self.issuer:
            raise failed(f"The answer is of {cut(issuer)}, and {self.issuer} was asked.")
        return await self.bounded(lambda: self.know(begun, code, issuer))

    def begun_as(self, sealed: str | None, state: str) -> dict[str, Any]:
        try:
            secret = self.settings.secret.get_secret_value()
            begun = sealing.unseal(secret, sealed or "", project_id="", name=SEALED_AS)
            found: dict[str, Any] = json.loads(begun)
        except (Conflict, ValueError) as error:
            raise failed(
                "This browser has not begun to sign in here, or it has forgotten."
            ) from error
        if not hmac.compare_digest(found["state"].encode(), state.encode()):
            raise failed("Another sign-in was begun in this browser since.")
        if found["at"] < time.time() - BEGUN_SECONDS:
            raise failed(f"It took over {BEGUN_SECONDS // 60} minutes.")
        return found

    async def know(self, begun: dict[str, Any], code: str, issuer: str | None) -> Known:
        metadata = await self.metadata()
        document = metadata.document
        if issuer is None and document.get("authorization_response_iss_parameter_supported"):
            raise failed(f"{self.issuer} signs its answers with its name, and this one has none.")
        answer = await self.tokens(document, code, begun["verifier"])
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise failed(f"{self.issuer} has sent no id_token.")
        try:
            claims = self.read(token, metadata, begun["nonce"])
        except UnknownKey:
            newer = await self.metadata(newer_than=metadata.at)
            try:
                claims = self.read(token, newer, begun["nonce"])
            except UnknownKey as error:
                raise failed(f"No key of {self.issuer} has signed the id_token.") from error
        unsaid = [name for name in self.settings.oidc_groups_claim if name not in claims]
        if unsaid and "userinfo_endpoint" in document and answer.get("access_token"):
            more = await self.userinfo(document, answer["access_token"], claims["sub"])
            claims = more | claims
        return self.known_by(claims)

    def known_by(self, claims: dict[str, Any]) -> Known:
        groups: list[str] = []
        for name in self.settings.oidc_groups_claim:
            value = claims.get(name)
            if name == "email" and claims.get("email_verified") is not True:
                continue
            groups += (
                [value] if isinstance(value, str) else value if isinstance(value, list) else []
            )
        return Known(
            issuer=self.issuer,
            subject=claims["sub"],
            email=label(claims.get("email")),
            name=label(claims.get("name") or claims.get("preferred_username")),
            groups=tuple(one for one in groups if isinstance(one, str)),
        )

    async def tokens(self, document: dict[str, Any], code: str, verifier: str) -> dict[str, Any]:
        """What the code is exchanged for."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": verifier,
        }
        auth = None
        if secret := self.settings.oidc_client_secret:
            ways = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
            if "client_secret_basic" in ways:
                # RFC 6749, 2.3.1: each is form-encoded first.
                password = quote_plus(secret.get_secret_value())
                auth = httpx.BasicAuth(quote_plus(self.client_id), password)
            else:
                form |= {"client_id": self.client_id, "client_secret": secret.get_secret_value()}
        else:
            form["client_id"] = self.client_id
        status, said = await self.ask("POST", document["token_endpoint"], data=form, auth=auth)
        if status != 200:
            words = cut(f"{said.get('error')}: {said.get('error_description', '')}".rstrip(": "))
            if said.get("error") == "invalid_grant":
                raise failed(f"{self.issuer} takes the code no more ({words}).")
            raise SignInAway(
                f"{self.issuer} does not let this service in ({words}). An operator checks "
                "TUNERY_OIDC_CLIENT_ID and TUNERY_OIDC_CLIENT_SECRET."
            )
        return said

    async def userinfo(self, document: dict[str, Any], token: str, subject: str) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {token}"}
        status, said = await self.ask("GET", document["userinfo_endpoint"], headers=headers)
        if status != 200:
            raise SignInAway(f"{self.issuer} answers with status {status} when asked for groups.")
        if said.get("sub") != subject:
            raise failed(f"{self.issuer} has told of somebody else.")
        return said

    def read(self, token: str, metadata: Metadata, nonce: str) -> dict[str, Any]:
        supported = metadata.document.get("id_token_signing_alg_values_supported", ["RS256"])
        return id_tokens.read(
            token,
            keys=metadata.keys,
            algorithms=supported,
            issuer=self.issuer,
            client_id=self.client_id,
            nonce=nonce,
        )

    def sign_out_url(self) -> str | None:
        """Where a browser ends the session at the provider too (OpenID Connect RP-Initiated Logout
        1.0); None: it offers no such place, or has not said so yet.
        """
        place = self.known and self.known.document.get("end_session_endpoint")
        if not place:
            return None
        return with_query(
            place, {"client_id": self.client_id, "post_logout_redirect_uri": f"{self.home}/"}
        )

    async def metadata(self, *, newer_than: float | None = None) -> Metadata:
        """However many need it at once, the provider is asked once. Raises `SignInAway`."""
        known, now = self.known, time.monotonic()
        if known:
            fresh = known.at > now - KNOWN_SECONDS
            if newer_than is None and fresh:
                return known
            if newer_than is not None and (known.at > newer_than or known.at > now - KEY_SECONDS):
                return known
        if self.asking is None:
            self.asking = asyncio.create_task(self.look_up())
            self.asking.add_done_callback(self.looked_up)
        try:
            return await asyncio.shield(self.asking)
        except SignInAway:
            if known and newer_than is None and known.at > now - BELIEVED_SECONDS:
                return known
            raise

    def looked_up(self, task: asyncio.Task[Metadata]) -> None:
        self.asking = None
        if not task.cancelled() and task.exception() is None:
            self.known = task.result()

    async def look_up(self) -> Metadata:
        """OpenID Connect Discovery 1.0, 4."""
        at = time.monotonic()
        place = f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
        status, document = await self.ask("GET", place)
        needed = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        if status != 200 or not all(isinstance(document.get(name), str) for name in needed):
            raise SignInAway(
                f"{place} answers with status {status}, and not as an OpenID Connect provider. An "
                "operator checks TUNERY_OIDC_ISSUER."
            )
        if document.get("issuer") != self.issuer:
            raise SignInAway(
                f"{place} is of the issuer {cut(str(document.get('issuer')))!r}. An operator sets "
                "TUNERY_OIDC_ISSUER to exactly that, if it is the right one."
            )
        for name in (*needed, "userinfo_endpoint", "end_session_endpoint"):
            self.require_safe(name, document.get(name))
        status, keys = await self.ask("GET", document["jwks_uri"])
        found = keys.get("keys")
        if status != 200 or not isinstance(found, list):
            raise SignInAway(f"{document['jwks_uri']} shows no keys (status {status}).")
        return Metadata(document, [key for key in found if isinstance(key, dict)], at)

    def require_safe(self, name: str, url: object) -> None:
        """Its other addresses are encrypted as its own is."""
        safe = url is None or str(url).startswith("https://")
        if self.issuer.startswith("https://") and not safe:
            raise SignInAway(f"{self.issuer} has {cut(str(url))} as {name}, which is not https.")

    async def ask(self, method: str, url: str, **sent: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401
        """Its status and its JSON object. Raises `SignInAway`."""
        if self.client is None:
            self.client = httpx.AsyncClient(verify=ssl.create_default_context())
        content = bytearray()
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                self.client.stream(
                    method, url, follow_redirects=False, timeout=ANSWER_SECONDS, **sent
                ) as answer,
            ):
                async for some in answer.aiter_bytes():
                    content += some
                    if len(content) > MOST_BYTES:
                        raise self.away(f"{url} answers without end")
                status = answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise self.away(f"{url}: {cut(why)}") from error
        if status >= 500:
            raise self.away(f"{url} answers with status {status}")
        try:
            said = json.loads(content)
        except (ValueError, RecursionError):
            said = None
        return status, said if isinstance(said, dict) else {}

    def away(self, what: str) -> SignInAway:
        return SignInAway(
            f"{self.name} does not answer ({what}). Sign in with an API key, or try again later."
        )

    async def bounded(self, do: Callable[[], Awaitable[Found]]) -> Found:
        """What `do` returns. Strangers make this service ask the provider no more than so often at
        once. Raises `RateLimited`.
        """
        if self.at_work >= MOST_AT_ONCE:
            raise RateLimited("Too many are signing in. Try again.", retry_after=2)
        self.at_work += 1
        try:
            return await do()
        finally:
            self.at_work -= 1

    async def close(self) -> None:
        if self.client is not None:
            await self.client.aclose()


def with_query(url: str, query: dict[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"
