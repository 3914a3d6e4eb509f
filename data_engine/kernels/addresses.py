"""Web, mail and IP addresses as spaCy's URL_MATCH tells them: words that are left whole."""

import numba
import numpy as np

from data_engine.kernels.english_classes import ASCII_DIGIT, DIGIT, HOST, LOWER, SCHEME

_DOT, _HYPHEN, _AT = 0x2E, 0x2D, 0x40


@numba.njit(nogil=True, cache=True)
def is_address(points: np.ndarray, kinds: np.ndarray, start: int, end: int) -> bool:
    """spaCy's URL_MATCH: [scheme://] [user@] host [:port] [/?# anything]."""
    dotted = False
    for at in range(start + 1, end - 1):
        dotted = dotted or points[at] == _DOT
    if not dotted:
        return False
    if _is_host(points, kinds, start, end):
        return True
    scheme = start
    while scheme < end and kinds[scheme] & SCHEME:
        scheme += 1
    slashes = scheme + 3 < end and points[scheme] == 0x3A and points[scheme + 1] == points[scheme + 2] == 0x2F
    if slashes and scheme - start > 1 and _is_host(points, kinds, scheme + 3, end):
        return True
    for at in range(start + 1, end - 1):
        if points[at] == _AT and _is_host(points, kinds, at + 1, end):
            return True
    return False


@numba.njit(nogil=True, cache=True)
def _is_host(points: np.ndarray, kinds: np.ndarray, start: int, end: int) -> bool:
    """Whether a host stands at start..end, with whatever may follow it. It reads no further than the next '@', which
    no host holds: to try after each '@' of a text takes one reading of it in all."""
    stop = start
    while stop < end and points[stop] not in (0x3A, 0x2F, 0x3F, 0x23):  # : / ? #
        if points[stop] == _AT:
            return False
        stop += 1
    if stop < end and points[stop] == 0x3A:
        digits = 0
        while digits < 6 and stop + digits + 1 < end and kinds[stop + digits + 1] & DIGIT:
            digits += 1
        after = stop + digits + 1
        if digits < 2 or digits > 5 or (after < end and points[after] not in (0x2F, 0x3F, 0x23)):
            return False
    return _is_domain(points, kinds, start, stop) or _is_ip(points, kinds, start, stop)


@numba.njit(nogil=True, cache=True)
def _is_domain(points: np.ndarray, kinds: np.ndarray, start: int, end: int) -> bool:
    labels = 0
    label = start
    for at in range(start, end):
        if points[at] == _DOT:
            size = at - label
            if size < 1 or size > 64 or not kinds[label] & HOST or not kinds[at - 1] & HOST:
                return False
            labels += 1
            label = at + 1
        elif not kinds[at] & HOST and points[at] != 0x5F and points[at] != _HYPHEN:
            return False
    if not labels or end - label < 2 or end - label > 63:
        return False
    for at in range(label, end):
        if not kinds[at] & LOWER:
            return False
    return True


@numba.njit(nogil=True, cache=True)
def _is_ip(points: np.ndarray, kinds: np.ndarray, start: int, end: int) -> bool:
    """A public IPv4 address, as the expression has it: first byte 1 to 223, last 1 to 254."""
    values = np.zeros(4, np.int64)
    fields = 0
    at = start
    while at < end:
        size = 0
        value = 0
        first = points[at]
        while at < end and kinds[at] & ASCII_DIGIT:
            value = value * 10 + points[at] - 48
            size += 1
            at += 1
        padded = first == 48 and (size > 1 and (fields in (0, 3) or size > 2))
        if fields > 3 or size < 1 or size > 3 or value > 255 or padded:
            return False
        values[fields] = value
        fields += 1
        if at < end:
            if points[at] != _DOT:
                return False
            at += 1
            if at == end:
                return False
    if fields != 4 or not 1 <= values[0] <= 223 or not 1 <= values[3] <= 254:
        return False
    private = values[0] == 10 or values[0] == 127 or (values[0] == 172 and 16 <= values[1] <= 31)
    return not (private or (values[0] == 169 and values[1] == 254) or (values[0] == 192 and values[1] == 168))
