"""Errors of a body that do not grow with it: pydantic lists what is wrong with every item of a list and every key of an
object, and a body of 500 KB cost 6 s and 650 MB in this way."""

from typing import Any

from pydantic_core import core_schema


def bound(schema: Any) -> None:
    """Change pydantic's core schema: every list stops at its first wrong item, and an object with a limit is measured
    before its keys are looked at."""
    if isinstance(schema, list | tuple):
        for part in schema:
            bound(part)
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "list":
        schema["fail_fast"] = True
    for name, part in schema.items():
        limit = part.get("max_length") if isinstance(part, dict) and part.get("type") == "dict" else None
        if limit is not None and schema.get("type") != "function-before":
            schema[name] = core_schema.no_info_before_validator_function(_at_most(limit), part)
        bound(part)


def _at_most(limit: int) -> Any:
    def check(given: Any) -> Any:
        if isinstance(given, dict) and len(given) > limit:
            raise ValueError(f"{len(given):,} keys, {limit:,} at most")
        return given

    return check
