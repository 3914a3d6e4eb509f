"""Docstrings to HTML: paragraphs, headings, lists, definitions, code; of reStructuredText, numpydoc and Google style.

A rough rendering on purpose: what it does not know becomes a paragraph.
"""

import re
from html import escape
from textwrap import dedent

_RULE = re.compile(r"^([=\-~^\"*#+'`:.])\1{2,}$")
_TABLE = re.compile(r"^[=+\-]{3,}[=+\- ]*[=+\-]$")
_BULLET = re.compile(r"^([-*+•])\s+(?=\S)")
_NUMBER = re.compile(r"^(\d{1,2}|#)[.)]\s+(?=\S)")
_FIELD = re.compile(r"^:(\w+)((?: [^:]+)?):(?:\s+(.*))?$")
_DIRECTIVE = re.compile(r"^\.\. +([\w-]+):: ?(.*)$")
_FOOTNOTE = re.compile(r"^\.\. +(\[[\w#]+\])\s+(.*)$")
_HEADING = re.compile(r"^[A-Z][A-Za-z ]{2,30}:$")
_MARKDOWN_HEADING = re.compile(r"^#{1,4} +(\S.*?)#*$")
_CODE_DIRECTIVES = {"code", "code-block", "sourcecode", "math", "parsed-literal", "doctest", "productionlist", "table"}
_NOTE_DIRECTIVES = {
    **{name: name.capitalize() for name in ("note", "warning", "tip", "important", "caution", "attention", "hint")},
    "versionadded": "New in version",
    "versionchanged": "Changed in version",
    "deprecated": "Deprecated since",
    "seealso": "See also",
    "rubric": "",
    "topic": "",
    "admonition": "",
}
_NAMED_FIELDS = {"param", "parameter", "arg", "type", "ivar", "keyword", "var"}
_GOOGLE_SECTIONS = {"Args", "Arguments", "Attributes", "Keyword Args", "Keyword Arguments", "Parameters", "Raises"}
_GOOGLE_ENTRY = re.compile(r"^(\*{0,2}[\w.]+(?: ?\([^)]*\)+)?): *(.*)$")
_INLINE = [
    (re.compile(r"``(.+?)``"), r"<code>\1</code>"),
    (re.compile(r":[\w:+-]+:`~?([^`]+?)(?:\s*&lt;[^`]*&gt;)?`"), r"<code>\1</code>"),
    (re.compile(r"`([^`]+?)\s+&lt;[^`]*?&gt;`__?"), r"\1"),
    (re.compile(r"`([^`]+)`__?\b"), r"\1"),
    (re.compile(r"`~?([^`]+)`"), r"<code>\1</code>"),
    (re.compile(r"\*\*(\S(?:[^*]*?\S)?)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"(?<![\w*])\*([^\s*](?:[^*]*?[^\s*])?)\*(?![\w*])"), r"<em>\1</em>"),
    (re.compile(r"!?\[([^\]]+)\]\([^)\s]+\)"), r"\1"),
    (re.compile(r"\[([\w, ]+)\]_"), r"[\1]"),
]


def render(text: str) -> str:
    """HTML of a docstring that `inspect.cleandoc` has dedented. Everything is escaped; code keeps its lines."""
    return _Blocks(text.expandtabs().splitlines()).html()


def inline(text: str) -> str:
    """HTML of one run of text: code, emphasis, and links as their text."""
    html = escape(text, quote=False)
    for pattern, replacement in _INLINE:
        html = pattern.sub(replacement, html)
    return html


def code(lines: list[str]) -> str:
    """A block of code."""
    body = escape(dedent("\n".join(lines)).strip("\n"), quote=False)
    return f"<pre><code>{body}</code></pre>\n" if body.strip() else ""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


class _Blocks:
    """A cursor over lines; each `_take...` method consumes one block and returns its HTML."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = [line.rstrip() for line in lines]
        self.at = 0

    def html(self) -> str:
        parts = []
        while self.at < len(self.lines):
            if not self.lines[self.at]:
                self.at += 1
            else:
                parts.append(self._block())
        return "".join(parts)

    def _block(self) -> str:  # noqa: PLR0911 - one return for each kind of block
        line = self.lines[self.at]
        following = self.lines[self.at + 1] if self.at + 1 < len(self.lines) else ""
        if line.startswith(" "):
            return _Blocks(dedent("\n".join(self._indented())).splitlines()).html()
        if line.startswith(">>>"):
            return code(self._doctest())
        if line.startswith("```"):
            return self._fenced()
        if line.startswith(".."):
            return self._directive(line)
        if _TABLE.match(line) and (" " in line or "+" in line):
            return code(self._until_blank(after_rule=True))
        if _RULE.match(line):
            self.at += 1
            return ""
        if _RULE.match(following) and len(following) >= min(len(line), 3):
            self.at += 2
            return f"<h2>{inline(line)}</h2>\n"
        if heading := _MARKDOWN_HEADING.match(line):
            self.at += 1
            return f"<h2>{inline(heading.group(1))}</h2>\n"
        if _HEADING.match(line) and self._next_is_indented():
            self.at += 1
            entries = self._entries() if line[:-1] in _GOOGLE_SECTIONS else ""
            return f"<h2>{inline(line[:-1])}</h2>\n{entries}"
        return self._list_or_text(line, following)

    def _list_or_text(self, line: str, following: str) -> str:
        if _BULLET.match(line):
            return self._list("ul", _BULLET)
        if _NUMBER.match(line):
            return self._list("ol", _NUMBER)
        if _FIELD.match(line):
            return self._fields()
        if following.startswith("  ") and not line.endswith("::"):
            return self._definitions()
        return self._paragraph()

    # --- blocks of lines ----------------------------------------------------------------------------------------

    def _indented(self) -> list[str]:
        """The indented lines from here, with the blank ones between them."""
        begin = self.at
        while self.at < len(self.lines) and (not self.lines[self.at] or self.lines[self.at].startswith(" ")):
            self.at += 1
        return self.lines[begin : self.at]

    def _doctest(self) -> list[str]:
        """Prompts and their output; a blank line ends them unless another prompt follows."""
        begin = self.at
        while self.at < len(self.lines):
            if not self.lines[self.at]:
                rest = next((line for line in self.lines[self.at :] if line), "")
                if not rest.startswith((">>>", "...")):
                    break
            self.at += 1
        return self.lines[begin : self.at]

    def _until_blank(self, after_rule: bool = False) -> list[str]:
        """Lines up to a blank one; of a table, up to a blank one after a rule."""
        begin = self.at
        while self.at < len(self.lines):
            if not self.lines[self.at] and not (after_rule and not _TABLE.match(self.lines[self.at - 1])):
                break
            self.at += 1
        return self.lines[begin : self.at]

    def _next_is_indented(self) -> bool:
        rest = next((line for line in self.lines[self.at + 1 :] if line), "")
        return rest.startswith(" ")

    # --- kinds --------------------------------------------------------------------------------------------------

    def _fenced(self) -> str:
        self.at += 1
        begin = self.at
        while self.at < len(self.lines) and not self.lines[self.at].startswith("```"):
            self.at += 1
        self.at += 1
        return code(self.lines[begin : self.at - 1])

    def _directive(self, line: str) -> str:
        self.at += 1
        body = self._indented()
        if footnote := _FOOTNOTE.match(line):
            return f"<p>{inline(' '.join([footnote.group(1), footnote.group(2), *map(str.strip, body)]).strip())}</p>\n"
        found = _DIRECTIVE.match(line)
        if found is None:
            return ""
        name, argument = found.group(1), found.group(2)
        if name in _CODE_DIRECTIVES:
            options_left_out = [text for text in body if not re.match(r"^\s+:[\w-]+:", text)]
            return code(([argument] if name == "math" and argument else []) + options_left_out)
        if name not in _NOTE_DIRECTIVES:
            return ""
        title = f"{_NOTE_DIRECTIVES[name]} {argument}".strip()
        rest = _Blocks(dedent("\n".join(body)).splitlines()).html()
        if name in ("versionadded", "versionchanged", "deprecated"):
            return f"<p>{inline(title)}.</p>\n{rest}"
        return (f"<p><strong>{inline(title)}</strong></p>\n" if title else "") + rest

    def _list(self, tag: str, marker: re.Pattern[str]) -> str:
        items = []
        while self.at < len(self.lines) and (found := marker.match(self.lines[self.at])):
            first = self.lines[self.at][found.end() :]
            self.at += 1
            begin = self.at
            while self.at < len(self.lines) and self.lines[self.at] and not self.lines[self.at].startswith(" "):
                if _BULLET.match(self.lines[self.at]) or _NUMBER.match(self.lines[self.at]):
                    break
                self.at += 1  # a continuation that is not indented
            body = self.lines[begin : self.at] + self._indented()
            items.append(f"<li>{inline(first)}{_joined(body)}</li>\n")
        return f"<{tag}>\n{''.join(items)}</{tag}>\n"

    def _fields(self) -> str:
        """`:param name: text` and its like."""
        entries = []
        while self.at < len(self.lines) and (found := _FIELD.match(self.lines[self.at])):
            kind, name, first = found.group(1), found.group(2).strip(), found.group(3) or ""
            self.at += 1
            body = self._indented()
            title = (
                name if kind in ("param", "parameter", "arg", "type", "ivar", "keyword", "var") else f"{kind} {name}"
            )
            entries.append(f"<dt>{inline(title.strip())}</dt>\n<dd>{inline(first)}{_joined(body)}</dd>\n")
        return f"<dl>\n{''.join(entries)}</dl>\n"

    def _entries(self) -> str:
        """The `name (type): text` lines below a Google-style heading."""
        lines = dedent("\n".join(self._indented())).splitlines()
        starts = [number for number, line in enumerate(lines) if _GOOGLE_ENTRY.match(line)]
        if not starts:
            return _Blocks(lines).html()
        html = [_Blocks(lines[: starts[0]]).html()]
        for number, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            found = _GOOGLE_ENTRY.match(lines[number])
            assert found is not None
            body = f"{inline(found.group(2))}{_joined(lines[number + 1 : end])}"
            html.append(f"<dt>{inline(found.group(1))}</dt>\n<dd>{body}</dd>\n")
        return f"{html[0]}<dl>\n{''.join(html[1:])}</dl>\n"

    def _definitions(self) -> str:
        """A term, and an indented text below it; several in a row make one list."""
        entries = []
        while True:
            term = self.lines[self.at]
            self.at += 1
            body = _Blocks(dedent("\n".join(self._indented())).splitlines()).html()
            entries.append(f"<dt>{inline(term)}</dt>\n<dd>{body}</dd>\n")
            if self.at + 1 >= len(self.lines) or not self.lines[self.at + 1].startswith("  "):
                break
            if self.lines[self.at].startswith((">>>", "..", "```")) or _BULLET.match(self.lines[self.at]):
                break
        return f"<dl>\n{''.join(entries)}</dl>\n"

    def _paragraph(self) -> str:
        begin = self.at
        while self.at < len(self.lines) and self.lines[self.at]:
            line = self.lines[self.at]
            if self.at > begin and (line.startswith((">>>", "```", ".. ")) or _indent(line) > 1 or _BULLET.match(line)):
                break
            self.at += 1
        text = " ".join(line.strip() for line in self.lines[begin : self.at])
        literal = text.endswith("::")
        text = text[:-1].removesuffix(" :") if literal else text
        html = f"<p>{inline(text)}</p>\n" if text not in ("", ":") else ""
        if literal:
            while self.at < len(self.lines) and not self.lines[self.at]:
                self.at += 1
            html += code(self._indented())
        return html


def _joined(body: list[str]) -> str:
    """The rest of a list item: more of its first paragraph, then further blocks."""
    lines = dedent("\n".join(body)).splitlines()
    first = []
    while lines and lines[0] and not lines[0].startswith(">>>") and not _BULLET.match(lines[0]):
        first.append(lines.pop(0).strip())
    rest = _Blocks(lines).html()
    return (f" {inline(' '.join(first))}" if first else "") + (f"\n{rest}" if rest else "")
