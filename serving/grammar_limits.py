"""How much of a grammar a request may bring: vLLM compiles all grammars in one thread.

xgrammar's time grows with the square or the cube of what is counted here. Measured with 0.2.8 and 32,000 tokens: 500
optional properties 0.19 s, 1,000 enum values 0.13 s, 100 levels 0.16 s, each different maxLength of 200 or more 0.9 s,
20 optional letters in a row 0.25 s, 40 of them 1.8 s and 70 of them 6.8 s.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import pydantic_core

MAX_BYTES = 65_536
MAX_PROPERTIES = 500
MAX_ENUM = 1000
MAX_LEVELS = 20
MAX_REGEX = 500
MAX_OPTIONAL = 30
MAX_REPEATS = 1024
_LONGEST_COUNTED = 256  # beyond it xgrammar takes no longer
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_ATOM = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]", re.DOTALL)  # an escape or a class of characters: one letter
_GROUP = re.compile(r"\(\?(?:[:=!]|<[=!]|P?<\w+>)")
_OPTIONAL = re.compile(r"[?*{]|\(\||\|\)|\|\|")  # what may be left out, each in its own way
_REPEATS = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}")


def check_schemas(schemas: Iterable[Any]) -> None:
    """Of one grammar together. Raises ValueError, in the words for a client."""
    schemas = [schema for schema in schemas if schema is not None]
    if not schemas:
        return
    if (size := len(pydantic_core.to_json(schemas)) - 2) > MAX_BYTES:
        raise ValueError(f"the schema has {size:,} bytes, {MAX_BYTES:,} at most")
    properties, values = 0, 0
    bounded: set[tuple[int, int]] = set()
    patterns: set[str] = set()
    for node in _objects(schemas):
        properties += sum(len(node[name]) for name in _NAMED if isinstance(node.get(name), dict))
        properties += sum(len(node[name]) for name in _LISTED if isinstance(node.get(name), list))
        values += len(node["enum"]) if isinstance(node.get("enum"), list) else 0
        lengths = [node.get(name) for name in ("minLength", "maxLength")]
        if any(isinstance(length, int) for length in lengths):
            low, high = (length if isinstance(length, int) else 0 for length in lengths)
            bounded.add((low, high))
        if isinstance(node.get("pattern"), str):
            patterns.add(node["pattern"])
        if isinstance(node.get("patternProperties"), dict):
            patterns.update(node["patternProperties"])
    if properties > MAX_PROPERTIES:
        raise ValueError(f"the schema has {properties:,} properties and alternatives, {MAX_PROPERTIES} at most")
    if values > MAX_ENUM:
        raise ValueError(f"the schema has {values:,} values in its enums, {MAX_ENUM:,} at most")
    _check_patterns(patterns, sum(min(max(pair), _LONGEST_COUNTED) for pair in bounded))


def check_regex(pattern: str) -> str:
    """A regular expression by itself. Raises ValueError."""
    _check_patterns([pattern], 0)
    return pattern


def _check_patterns(patterns: Iterable[str], repeats: int) -> None:
    optional = 0
    for pattern in patterns:
        if len(pattern) > MAX_REGEX:
            raise ValueError(f"a regular expression has {len(pattern):,} characters, {MAX_REGEX} at most")
        bare = _GROUP.sub("(", _ATOM.sub("x", pattern))
        optional += len(_OPTIONAL.findall(bare))
        for low, high in _REPEATS.findall(bare):
            repeats += min(int(high[:9] or low[:9] or 0), _LONGEST_COUNTED)
    if optional > MAX_OPTIONAL:
        raise ValueError(
            f"regular expressions with {optional:,} parts that may be left out ('?', '*', '{{'), {MAX_OPTIONAL} at most"
        )
    if repeats > MAX_REPEATS:
        raise ValueError(
            f"strings with different bounds of their length, {repeats:,} characters together, {MAX_REPEATS:,} at most: "
            "equal bounds count once"
        )


def _objects(schemas: list[Any]) -> Iterator[dict[str, Any]]:
    """Every JSON object below. Raises ValueError for too many levels: an object of a schema is two of JSON's."""
    rest = [(schema, 1) for schema in schemas]
    while rest:
        node, level = rest.pop()
        if level > 2 * MAX_LEVELS + 2:
            raise ValueError(f"the schema is nested deeper than {MAX_LEVELS} objects")
        if isinstance(node, dict):
            yield node
            rest += [(part, level + 1) for part in node.values() if isinstance(part, dict | list)]
        else:
            rest += [(part, level + 1) for part in node if isinstance(part, dict | list)]
