"""Facts in reference pages: which object a page documents, where it lives, what it does. Text in, facts out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

NAMED_GROUPS = frozenset({"name", "kind", "module", "package"})

# Line 2 of a page of the quickstart's documentation site.
OBJECT_PATTERN = (
    r"(?P<name>\S+) is an? (?P<kind>function|class|exception|method) in the module (?P<module>\S+) "
    r"of (?:the package (?P<package>\S+)|the standard library)\."
)
MODULE_PATTERN = r"(?P<name>\S+) is a (?P<kind>module) of (?:the package (?P<package>\S+)|the standard library)\."
DEFAULT_PACKAGE = "the standard library"

_SIGNATURE = re.compile(r"(?:async def |def |class )?(?:[\w.]*\.)?(?P<name>\w+)\(")
_SENTENCE_END = re.compile(r"(?<![A-Z])(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)[.!?](?=\s|$)")
_MAX_HEAD_LINES = 12


@dataclass(frozen=True)
class Fact:
    """What one page says about one object. `signature` is empty where the page shows none."""

    document_id: str
    source: str
    name: str
    kind: str
    module: str
    package: str
    signature: str
    description: str

    @property
    def short_name(self) -> str:
        """The last part of the dotted name."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Skipped:
    """Why a page gives no fact."""

    reason: str


def check_pattern(pattern: str) -> None:
    """Raises ValueError when `pattern` is no regular expression, lacks `name` or `kind`, or has an unknown group."""
    try:
        groups = set(re.compile(pattern).groupindex)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    if not {"name", "kind"} <= groups or not groups <= NAMED_GROUPS:
        raise ValueError(f"{pattern!r} must have the groups name and kind, may have module and package, and no other")


class PageReader:
    """Reads facts by patterns with the named groups `name`, `kind`, and where they apply `module` and `package`."""

    def __init__(self, patterns: Sequence[str], shortest: int, longest: int) -> None:
        self.patterns = [re.compile(pattern) for pattern in patterns]
        self.shortest = shortest
        self.longest = longest

    def read(self, document_id: str, text: str, source: str = "") -> Fact | Skipped:
        """The fact of one page, or the reason why there is none: `no_match`, `no_description`, `short_description`."""
        lines = [line.strip() for line in text.splitlines()]
        for number, line in enumerate(lines[:_MAX_HEAD_LINES]):
            for pattern in self.patterns:
                found = pattern.match(line)
                if found is not None:
                    rest = [line[found.end() :].strip(), *lines[number + 1 :]]
                    return self._fact(document_id, source, found.groupdict(), rest)
        return Skipped("no_match")

    def _fact(self, document_id: str, source: str, groups: dict[str, str | None], lines: list[str]) -> Fact | Skipped:
        name = groups["name"] or ""
        signature, body = _take_signature(lines, name.rpartition(".")[2])
        description = _first_sentence(body, self.longest)
        if not description:
            return Skipped("no_description")
        if len(description) < self.shortest:
            return Skipped("short_description")
        return Fact(
            document_id=document_id,
            source=source,
            name=name,
            kind=groups.get("kind") or "",
            module=groups.get("module") or name,
            package=groups.get("package") or DEFAULT_PACKAGE,
            signature=signature,
            description=description,
        )


def _take_signature(lines: list[str], short_name: str) -> tuple[str, list[str]]:
    """The signature block on one line, and the lines after it. A block ends where its parentheses close."""
    rest = list(lines)
    while rest and not rest[0]:
        rest.pop(0)
    found = _SIGNATURE.match(rest[0]) if rest else None
    if found is None or found["name"] != short_name:
        return "", rest
    taken: list[str] = []
    depth = 0
    while rest:
        line = rest.pop(0)
        taken.append(line)
        depth += line.count("(") + line.count("[") - line.count(")") - line.count("]")
        if depth <= 0:
            break
    return " ".join(" ".join(taken).split()), rest


def _first_sentence(lines: list[str], longest: int) -> str:
    """The first sentence of the first paragraph with wrapped lines joined; empty when it is too long to be one."""
    rest = list(lines)
    while rest and not rest[0]:
        rest.pop(0)
    paragraph: list[str] = []
    for line in rest:
        if not line:
            break
        paragraph.append(line)
    text = " ".join(" ".join(paragraph).split())
    end = _SENTENCE_END.search(text)
    if end is not None:
        text = text[: end.end()]
    return text if len(text) <= longest else ""


def parameters(signature: str) -> list[str]:
    """Names of the parameters that a signature shows, without self and cls, the bare `*` and `/`."""
    inside = signature[signature.find("(") + 1 :] if "(" in signature else ""
    names: list[str] = []
    depth = 0
    current = ""
    for character in inside:
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth < 0:
                break
        if character == "," and depth == 0:
            names.append(current)
            current = ""
        else:
            current += character
    names.append(current)
    cleaned = [re.split(r"[:=]", name)[0].strip() for name in names]
    return [name for name in cleaned if name and name not in ("self", "cls", "*", "/")]
