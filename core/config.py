"""Strict typed configuration: a YAML file and `a.b=c` overrides become one frozen model, or one readable error."""

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import UserError

M = TypeVar("M", bound=BaseModel)
C = TypeVar("C", bound="Config")


@dataclass(frozen=True)
class Marker:
    """What a field means to the run directory; travels in `Annotated`."""

    name: str


INPUT = Marker("input")
RUNTIME = Marker("runtime")

InputPath = Annotated[str, INPUT]
"""A path, glob or fsspec URL that a stage reads: its digest decides whether the artifact is up to date."""


class Config(BaseModel):
    """Base of every configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())

    def identity(self) -> dict[str, Any]:
        """What decides the result: every field but those marked RUNTIME (ports, worker counts, verbosity)."""
        return {
            name: _identity_of(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if RUNTIME not in field.metadata
        }

    def input_paths(self) -> list[str]:
        """Every path in a field whose type holds `InputPath`, in field order, nested models included."""
        return list(_inputs_of(self))


class StageConfig(Config):
    """What every stage has: where its run directory is, and a seed."""

    output: Annotated[str, RUNTIME] = Field(description="run directory of this stage")
    seed: int = Field(0, description="the one seed of everything random in this stage")

    @property
    def reusable(self) -> bool:
        """Whether an up-to-date artifact stands for running again; not for a stage that leaves something running."""
        return True


def _identity_of(value: Any) -> Any:
    if isinstance(value, Config):
        return value.identity()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _identity_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_identity_of(item) for item in value]
    return value


def _inputs_of(config: BaseModel) -> Iterator[str]:
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        marked = INPUT in field.metadata or _holds_input(field.annotation)
        yield from _paths_in(value, marked)


def _paths_in(value: Any, marked: bool) -> Iterator[str]:
    if isinstance(value, BaseModel):
        yield from _inputs_of(value)
    elif isinstance(value, str):
        if marked:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _paths_in(item, marked)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _paths_in(item, marked)


def _holds_input(annotation: Any) -> bool:
    if typing.get_origin(annotation) is Annotated:
        return INPUT in annotation.__metadata__
    return any(_holds_input(argument) for argument in typing.get_args(annotation))


# --- reading ------------------------------------------------------------------------------------------------------


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises UserError when the file is missing, unreadable as YAML, or no mapping."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such configuration file")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected settings as 'key: value', found a {type(data).__name__}")
    return data


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `data` with each `a.b=c` set; the value is read as YAML, a number names a list item.

    Raises UserError for an override without '=' or one that passes through a value that is no mapping.
    """
    result = _copy(data)
    for override in overrides:
        dotted, equals, text = override.partition("=")
        if not equals or not dotted:
            raise UserError(f"--set {override}: expected key=value, as in --set dedup.threshold=0.8")
        try:
            value = yaml.safe_load(text) if text else ""
        except yaml.YAMLError:
            value = text
        node: Any = result
        *parents, last = dotted.split(".")
        for parent in parents:
            node = _step(node, parent, override)
        if isinstance(node, list):
            node[_index(node, last, override)] = value
        else:
            node[last] = value
    return result


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def _step(node: Any, key: str, override: str) -> Any:
    child = node[_index(node, key, override)] if isinstance(node, list) else node.setdefault(key, {})
    if child is None:
        child = node[key] = {}
    if not isinstance(child, dict | list):
        raise UserError(f"--set {override}: {key} holds the value {child!r} and has no settings below it")
    return child


def _index(node: list[Any], key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise UserError(f"--set {override}: {key} is no item of a list of {len(node)}")
    return int(key)


def parse(model: type[M], data: Mapping[str, Any], where: str) -> M:
    """Validate `data` as `model`. Raises UserError with one line that names the setting and how to mend it."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # A mistyped setting is often a missing one too; its own name says more.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UserError(f"{where}: {_explain(model, data, first)}{more}") from None


def _explain(model: type[BaseModel], data: Any, error: Any) -> str:
    location = _location(data, error["loc"])
    dotted = ".".join(location)
    if error["type"] == "extra_forbidden":
        parent = ".".join(location[:-1])
        known = sorted(_keys_beside(model, location[:-1]))
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        if close:
            return f"{dotted} is not a setting; did you mean {'.'.join([*location[:-1], close[0]])}?"
        return f"{dotted} is not a setting; {parent or 'here'} knows: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{dotted} is missing; set it in the file or with --set {dotted}=..."
    if error["type"].startswith("union_tag"):  # which kind of thing it is decides what else it may hold
        tag, context = error["ctx"]["discriminator"].strip("'"), error["ctx"]
        if error["type"] == "union_tag_not_found":
            return f"{dotted}.{tag} is missing; it says which settings belong here"
        return f"{dotted}.{tag}: {context['tag']!r} is none of {context['expected_tags']}"
    message = error["msg"][0].lower() + error["msg"][1:]
    value = error.get("input")
    shown = "" if isinstance(value, dict | list | BaseModel) else f", got {value!r}"
    return f"{dotted}: {message}{shown}" if dotted else f"{message}{shown}"


def _location(data: Any, loc: tuple[int | str, ...]) -> list[str]:
    """pydantic puts the tags of unions between the keys; keep the steps that the data itself has, and the last one."""
    steps: list[str] = []
    for position, step in enumerate(loc):
        known = step in data if isinstance(data, dict) else isinstance(data, list) and step in range(len(data))
        if known:
            data = data[step]
        elif position != len(loc) - 1:
            continue
        steps.append(str(step))
    return steps


def _keys_beside(model: type[BaseModel], parents: Sequence[str]) -> set[str]:
    models = {model}
    for parent in parents:
        below: set[type[BaseModel]] = set()
        for candidate in models:
            if parent in candidate.model_fields:
                below |= _models_in(candidate.model_fields[parent].annotation)
        models = below or models
    return {key for candidate in models for key in candidate.model_fields}


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return {annotation} if issubclass(annotation, BaseModel) else set()
    if typing.get_origin(annotation) in (Union, types.UnionType, Annotated, list, dict, tuple):
        return {found for argument in typing.get_args(annotation) for found in _models_in(argument)}
    return set()


def load(model: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Read one stage's configuration file. Raises UserError as `load_yaml`, `apply_overrides` and `parse` do."""
    return parse(model, apply_overrides(load_yaml(path), overrides), str(path))
