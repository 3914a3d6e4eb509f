"""Taking parts out of a text so that what is left still reads: paragraphs stay apart, no gap is left behind."""

from collections.abc import Iterable, Sequence


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges begin..end ascending, those that overlap or touch joined."""
    out: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if out and begin <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], end)
        else:
            out.append((begin, end))
    return out


def cut(text: bytes, ranges: Sequence[tuple[int, int]]) -> str:
    """A text without some of its bytes. text: UTF-8; ranges: as from `merged`, on the borders of characters.

    Where parts meet, the white space with more line breaks stays, the longer one of two with as many.
    """
    pieces: list[str] = []
    gap = ""
    borders = [0, *(border for span in ranges for border in span), len(text)]
    for begin, end in zip(borders[::2], borders[1::2], strict=True):
        part = text[begin:end].decode()
        inner = part.strip()
        if inner:
            pieces += [_wider(gap, part[: len(part) - len(part.lstrip())]), inner]
            gap = part[len(part.rstrip()) :]
        else:
            gap = _wider(gap, part)
    return "".join(pieces).strip()


def _wider(one: str, other: str) -> str:
    return max(one, other, key=lambda space: (space.count("\n"), len(space)))
