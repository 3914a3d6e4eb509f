"""One HTTP GET with limits: the answer as it came, or one word on why there is none."""

import asyncio
import logging
import ssl
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

log = logging.getLogger("raymill.data.crawl")

_KEEPALIVE_SECONDS = 30.0
_RETRIED_STATUSES = frozenset({408, 429})


class FetchError(Exception):
    """No usable answer. `reason` is one word for the counts, `detail` is for people; `retry` says that it may pass."""

    def __init__(self, reason: str, detail: str, retry: bool) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.retry = retry
        self.tries = 1


@dataclass(frozen=True)
class Answer:
    """A response with its request, the body without transfer coding and, where `encoding` is gzip, decompressed."""

    url: str
    status: int
    phrase: str
    protocol: str
    headers: list[tuple[str, str]]
    request_headers: list[tuple[str, str]]
    body: bytes
    wire_bytes: int
    peer: str | None = None
    decoded: bool = True
    lowered: dict[str, str] = field(default_factory=dict)

    def header(self, name: str, default: str = "") -> str:
        """The last value of a response header; `name` in lower case."""
        return self.lowered.get(name, default)

    def media_type(self) -> str:
        """The media type in lower case without its parameters; empty when the server names none."""
        return self.header("content-type").partition(";")[0].strip().lower()

    def charset(self) -> str | None:
        """The charset parameter of Content-Type."""
        for parameter in self.header("content-type").split(";")[1:]:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "charset":
                return value.strip().strip("\"'").lower() or None
        return None

    @property
    def retryable(self) -> bool:
        """Whether the same request may be answered better later (429, 408 and 5xx)."""
        return self.status >= 500 or self.status in _RETRIED_STATUSES


@dataclass(frozen=True)
class Limits:
    """What one request may cost; `media_types` are prefixes, an empty tuple takes everything."""

    seconds: float
    body_bytes: int
    media_types: tuple[str, ...] = ()


class Fetcher:
    """GET over kept-alive HTTP/1.1 connections, `connections` at most.

    `connect_to` maps a host or host:port to the host:port that is dialled instead (as curl --connect-to): URL, Host
    header and TLS server name stay what they are.
    """

    def __init__(self, user_agent: str, connect_to: Mapping[str, str], connections: int) -> None:
        self._connect_to = {name.lower(): target for name, target in connect_to.items()}
        self._headers = [
            ("User-Agent", user_agent),
            ("Accept", "text/html,application/xhtml+xml,text/plain;q=0.9,*/*;q=0.5"),
            ("Accept-Encoding", "gzip"),
            ("Connection", "keep-alive"),
        ]
        self._transport = httpx.AsyncHTTPTransport(
            verify=ssl.create_default_context(),
            limits=httpx.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=_KEEPALIVE_SECONDS,
            ),
        )

    async def __aenter__(self) -> "Fetcher":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.aclose()

    async def get(self, url: str, limits: Limits) -> Answer:
        """GET without following redirects.

        url: in normal form. Raises FetchError with reason `connect`, `timeout`, `broken_connection`, `protocol`,
        `too_large`, `content_type` or `content_encoding`.
        """
        request = self._request(url)
        try:
            async with asyncio.timeout(limits.seconds):
                response = await self._transport.handle_async_request(request)
                try:
                    return await self._read(url, request, response, limits)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise FetchError("timeout", f"no complete answer within {limits.seconds:g} s", retry=True) from None
        except httpx.ConnectError as error:
            raise FetchError("connect", _sentence(error), retry=True) from None
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError, httpx.CloseError) as error:
            raise FetchError("broken_connection", _sentence(error), retry=True) from None
        except httpx.HTTPError as error:
            raise FetchError("protocol", _sentence(error), retry=False) from None

    def _request(self, url: str) -> httpx.Request:
        target = httpx.URL(url)
        authority = target.netloc.decode("ascii")
        headers = [("Host", authority), *self._headers]
        mapped = self._connect_to.get(authority) or self._connect_to.get(target.host)
        if mapped is None:
            return httpx.Request("GET", target, headers=headers)
        name, _, port = mapped.rpartition(":")
        extensions = {"sni_hostname": target.host}
        return httpx.Request("GET", target.copy_with(host=name, port=int(port)), headers=headers, extensions=extensions)

    async def _read(self, url: str, request: httpx.Request, response: httpx.Response, limits: Limits) -> Answer:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw]
        lowered = {name.lower(): value.strip() for name, value in headers}
        encoding = lowered.get("content-encoding", "").lower()
        success = 200 <= response.status_code < 300
        if success:
            media_type = lowered.get("content-type", "").partition(";")[0].strip().lower()
            if limits.media_types and media_type and not media_type.startswith(limits.media_types):
                raise FetchError("content_type", f"{media_type} is none of the wanted media types", retry=False)
            announced = lowered.get("content-length", "")
            if announced.isdigit() and int(announced) > limits.body_bytes:
                raise _too_large(limits)
        try:
            body, wire_bytes = await _body(response, limits, gzip=encoding.endswith("gzip"))
        except FetchError:
            if success:
                raise
            body, wire_bytes = b"", 0  # what counts of a redirect or an error is its head
        extensions = response.extensions
        stream = extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream is not None else None
        return Answer(
            url=url,
            status=response.status_code,
            phrase=extensions.get("reason_phrase", b"").decode("latin-1"),
            protocol=extensions.get("http_version", b"HTTP/1.1").decode("ascii"),
            headers=headers,
            request_headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw],
            body=body,
            wire_bytes=wire_bytes,
            peer=peer[0] if isinstance(peer, tuple) else None,
            decoded=encoding in ("", "identity", "gzip", "x-gzip"),
            lowered=lowered,
        )


async def _body(response: httpx.Response, limits: Limits, gzip: bool) -> tuple[bytes, int]:
    """The body, decompressed piece by piece so that a small archive cannot fill the memory."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    wbits_zlib_or_gzip = 32 + zlib.MAX_WBITS
    unzip = zlib.decompressobj(wbits_zlib_or_gzip) if gzip else None
    parts, size, wire_bytes = [], 0, 0
    async for chunk in response.stream:
        wire_bytes += len(chunk)
        if unzip is not None:
            try:
                chunk = unzip.decompress(chunk, limits.body_bytes - size + 1)  # noqa: PLW2901
            except zlib.error as error:
                raise FetchError("content_encoding", f"not the gzip it says it is: {error}", retry=False) from None
        size += len(chunk)
        if size > limits.body_bytes:
            raise _too_large(limits)
        parts.append(chunk)
    if unzip is not None and wire_bytes and not unzip.eof:
        raise FetchError("broken_connection", "the compressed body ends early", retry=True)
    return b"".join(parts), wire_bytes


def _too_large(limits: Limits) -> FetchError:
    return FetchError("too_large", f"more than {limits.body_bytes:,} bytes", retry=False)


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
