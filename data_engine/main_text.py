"""HTML to its main text, with trafilatura or resiliparse."""

from collections.abc import Callable
from typing import Any


def parser(engine: str, options: dict[str, Any]) -> Callable[[str], str]:
    """A function from HTML to main text, empty when there is none. The imports of its engine are done here."""
    if engine == "resiliparse":
        from resiliparse.extract.html2text import extract_plain_text

        return lambda html: extract_plain_text(html, **options) or ""

    import trafilatura

    return lambda html: trafilatura.extract(html, **options) or ""


def whole_text(html: str) -> str:
    """All visible text of a page that holds nothing but text, such as a chapter of a book; blocks on lines."""
    from resiliparse.extract.html2text import extract_plain_text

    return str(extract_plain_text(html, main_content=False, alt_texts=False, list_bullets=True) or "")
