"""Render docs/settings.md from the stages' typed configurations: `python docs/render_settings.py` (make docs)."""

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from raymill import registry

PAGE = Path(__file__).resolve().parent / "settings.md"
HEAD = """# Settings

Every key of every stage, rendered by `make docs` from the typed configurations themselves. An unknown key is an error
that names the nearest valid one. On the command line: `--set dedup.threshold=0.8`.
"""


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """The configurations that a field's type holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, types.UnionType, list, dict):
        return [model for part in get_args(annotation) for model in models_of(part)]
    return []


def type_name(annotation: Any) -> str:
    """A type as a user writes it."""
    if annotation is type(None):
        return "null"
    if get_origin(annotation) is Annotated:
        return type_name(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(part) for part in get_args(annotation)))
    if get_origin(annotation) in (list, tuple):
        return f"list of {type_name(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        return f"map to {type_name(get_args(annotation)[1])}"
    if get_origin(annotation) is not None:  # Literal
        return " or ".join(str(value) for value in get_args(annotation))
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "SecretStr": "text"}
    return names.get(annotation.__name__, "settings below" if models_of(annotation) else annotation.__name__)


def rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(key, type, default, description) of every field, nested ones below their parent."""
    for name, field in model.model_fields.items():
        nested = models_of(field.annotation)
        default = "required" if field.is_required() else ""
        if not field.is_required() and not nested:
            value = field.get_default(call_default_factory=True)  # type: ignore[call-arg]
            default = "" if value is PydanticUndefined else f"`{json.dumps(value, default=str, ensure_ascii=False)}`"
        yield f"{prefix}{name}", type_name(field.annotation), default, field.description or ""
        several = get_origin(field.annotation) in (list, dict)
        for inner in nested:
            yield from rows(inner, f"{prefix}{name}[]." if several else f"{prefix}{name}.")


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name in registry.MODULES:
        parts.append(f"\n## {name}\n\n| key | type | default | what it is |\n|---|---|---|---|\n")
        for row in rows(registry.load(name).config):
            cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in row]
            parts.append(f"| `{cells[0]}` | " + " | ".join(cells[1:]) + " |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
