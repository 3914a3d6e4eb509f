"""Python sources read with `ast`, never imported: definitions, docstrings, signatures, and what re-exports what."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_SKIPPED_FOLDERS = {
    "tests",
    "test",
    "testing",
    "_testing",
    "__pycache__",
    "_vendor",
    "vendor",
    "_vendored",
    "benchmarks",
}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass
class Module:
    """One source file.

    imports: (module, name, local name), relative imports resolved; `*` as the name stands for all public names.
    """

    name: str
    is_package: bool
    docstring: str
    definitions: dict[str, Definition]
    imports: list[tuple[str, str, str]]
    exported: list[str] | None = None
    """`__all__` where it is a plain list of strings."""


@dataclass
class Library:
    """Modules by dotted name, and where their definitions can be had under a public name."""

    modules: dict[str, Module]
    _aliases: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for module in self.modules.values():
            for origin, name, local in module.imports:
                for one in self._public_names(origin, frozenset()) if name == "*" else [name]:
                    here = one if name == "*" else local
                    star_or_listed = name == "*" or (module.exported is not None and here in module.exported)
                    if (module.is_package or star_or_listed) and not here.startswith("_"):
                        self._aliases.setdefault((origin, one), []).append((module.name, here))

    def _public_names(self, name: str, visiting: frozenset[str]) -> list[str]:
        module = self.modules.get(name)
        if module is None or name in visiting:
            return []
        if module.exported is not None:
            return module.exported
        names = [defined for defined in module.definitions if not defined.startswith("_")]
        for origin, imported, local in module.imports:
            if imported == "*":
                names += self._public_names(origin, visiting | {name})
            elif not local.startswith("_"):
                names.append(local)
        return names

    def public_place(self, module: str, name: str) -> tuple[str, str] | None:
        """The shortest public (module, name) under which a definition can be imported, None when there is none."""
        seen, waiting = {(module, name)}, [(module, name)]
        while waiting:
            for place in self._aliases.get(waiting.pop(), []):
                if place not in seen:
                    seen.add(place)
                    waiting.append(place)
        public = [place for place in seen if not is_private(f"{place[0]}.{place[1]}")]
        return min(public, key=lambda place: (place[0].count("."), place), default=None)


def is_private(dotted: str) -> bool:
    """Whether a part of the name begins with an underscore."""
    return any(part.startswith("_") for part in dotted.split("."))


def read_library(root: Path, name: str, only: tuple[str, ...] = ()) -> dict[str, Module]:
    """The modules of one top-level module or package; with `only`, those below these dotted names and their parents."""
    modules = {}
    for path, dotted in _files(root, name):
        wanted = not only or dotted in only or dotted.startswith(tuple(f"{part}." for part in only))
        if wanted or any(part.startswith(f"{dotted}.") for part in only):
            module = read_module(path, dotted)
            if module is not None:
                modules[dotted] = module
    return modules


def _files(root: Path, name: str) -> Iterator[tuple[Path, str]]:
    if root.is_file():
        yield root, name
        return
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not _SKIPPED_FOLDERS.intersection(parts) and all(part.isidentifier() for part in parts):
            yield path, ".".join([name, *(parts[:-1] if parts[-1] == "__init__" else parts)])


def read_module(path: Path, name: str) -> Module | None:
    """One file, None when it is no Python of this version."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return None
    is_package = path.name == "__init__.py"
    module = Module(name, is_package, ast.get_docstring(tree) or "", {}, [])
    for node in _statements(tree.body):
        if isinstance(node, Definition):
            kept = module.definitions.get(node.name)
            if kept is None or (not ast.get_docstring(kept) and ast.get_docstring(node)):
                module.definitions[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(node, name, is_package)
            module.imports += [(origin, alias.name, alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            module.exported = _strings(node.value)
    return module


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, those inside if, try and with among them."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from _statements(node.body)
            yield from _statements(getattr(node, "orelse", []))
            for handler in getattr(node, "handlers", []):
                yield from _statements(handler.body)


def _absolute(node: ast.ImportFrom, name: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = name.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, node.module] if node.module else base)


def _strings(node: ast.expr) -> list[str] | None:
    if isinstance(node, ast.List | ast.Tuple):
        values = [item.value for item in node.elts if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        return values if len(values) == len(node.elts) else None
    return None


def signature(node: Definition, name: str) -> str:
    """The call as a reader writes it: names and defaults without annotations, `self` and `cls` left out."""
    if isinstance(node, ast.ClassDef):
        maker = next(
            (item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None
        )
        return f"class {name}({_arguments(maker, bound=True) if maker else ', '.join(map(ast.unparse, node.bases))})"
    word = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{word}{name}({_arguments(node, bound=False)})"


def method_signature(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> str:
    """As `signature`, for a function of a class body."""
    static = any(isinstance(item, ast.Name) and item.id == "staticmethod" for item in node.decorator_list)
    return f"{name}({_arguments(node, bound=not static)})"


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef, bound: bool) -> str:
    given = node.args
    positional = [ast.arg(arg=item.arg) for item in given.posonlyargs]
    named = [ast.arg(arg=item.arg) for item in given.args]
    if bound and positional:
        positional.pop(0)
    elif bound and named:
        named.pop(0)
    arguments = ast.arguments(
        posonlyargs=positional,
        args=named,
        vararg=ast.arg(arg=given.vararg.arg) if given.vararg else None,
        kwonlyargs=[ast.arg(arg=item.arg) for item in given.kwonlyargs],
        kw_defaults=given.kw_defaults,
        kwarg=ast.arg(arg=given.kwarg.arg) if given.kwarg else None,
        defaults=given.defaults[-len(positional + named) :] if positional + named else [],
    )
    return ast.unparse(arguments)
