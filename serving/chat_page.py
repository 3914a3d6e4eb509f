"""The chat page at `/`: one HTML file without data, which asks this endpoint with the key that its reader types."""

import base64
import hashlib
import re
from importlib import resources

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

PATH = "/"
_BLOCK = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def add_to(app: FastAPI) -> None:
    """Answer `/` with the page, to whoever asks; keep the path out of the OpenAPI document."""
    html = resources.files("serving").joinpath("chat.html").read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": policy(html),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    @app.api_route(PATH, methods=["GET", "HEAD"], include_in_schema=False)
    async def chat_page() -> HTMLResponse:
        """Talk to the models."""
        return HTMLResponse(html, headers=headers)


def policy(html: str) -> str:
    """A content security policy under which the page's own script and style run, nothing else does, and only this
    endpoint can be asked."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in _BLOCK.findall(html):
        found = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{found}'")
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(hashes['script'])}",
            f"style-src {' '.join(hashes['style'])}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
