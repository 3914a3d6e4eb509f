"""Reference pages: one for each public module, class, function and method whose docstring is worth a page."""

import ast
import gc
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pages import selection
from pages.sources import Definition, Library, is_private, method_signature, read_library, signature

_TEMPLATE_MARKS = ("%(", "{klass}", "{{", "@inherit", "%s")  # filled in when the module is imported, which we never do
_EXCEPTION_ENDS = ("Error", "Exception", "Warning", "Interrupt")


@dataclass
class Member:
    """A function or class that is too small for a page of its own."""

    signature: str
    docstring: str


@dataclass
class Page:
    """What one reference page documents; `package` is empty for the standard library."""

    name: str
    kind: str
    module: str
    package: str
    signature: str
    docstring: str
    members: list[Member] = field(default_factory=list)

    def words(self) -> int:
        """Words of the page's own text."""
        return len(self.docstring.split()) + sum(len(member.docstring.split()) for member in self.members)

    def sentence(self) -> str:
        """The sentence that says what the object is and where it lives."""
        place = f"the package {self.package}" if self.package else "the standard library"
        if self.kind == "module":
            return f"{self.name} is a module of {place}."
        article = "an" if self.kind == "exception" else "a"
        return f"{self.name} is {article} {self.kind} in the module {self.module} of {place}."


def read_pages(small: bool) -> list[Page]:
    """All reference pages, sorted by name. Packages that are not installed give none."""
    pages: dict[str, Page] = {}
    # Syntax trees are millions of small objects without cycles: the collector more than doubles the time (21 s to 9 s).
    gc.disable()
    try:
        for page in _all_pages(small):
            pages.setdefault(page.name, page)
    finally:
        gc.enable()
    return [pages[name] for name in sorted(pages)]


def _all_pages(small: bool) -> Iterator[Page]:
    standard, installed = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    modules = {}
    for name in selection.SMALL_STANDARD if small else (*selection.STANDARD, *selection.STANDARD_BEHIND):
        if (root := _root(standard, name)) is not None:
            modules.update(read_library(root, name))
    shown = set(selection.SMALL_STANDARD if small else selection.STANDARD)
    for page in library_pages(Library(modules), package=""):
        if page.name.partition(".")[0] in shown:
            yield page
    for name, part in (selection.SMALL_PACKAGES if small else selection.PACKAGES).items():
        if (root := _root(installed, name)) is not None:
            for page in library_pages(Library(read_library(root, name, part.only)), package=name):
                if page.module.count(".") < part.depth:
                    yield page


def _root(folder: Path, name: str) -> Path | None:
    """The package folder or the module file of a top-level name."""
    if (folder / name / "__init__.py").is_file():
        return folder / name
    return folder / f"{name}.py" if (folder / f"{name}.py").is_file() else None


def library_pages(library: Library, package: str) -> Iterator[Page]:
    """Pages of one library, in no particular order; the same object may come twice."""
    gathered: dict[str, list[Member]] = {}
    for module in library.modules.values():
        for name, node in module.definitions.items():
            place = library.public_place(module.name, name)
            if place is None or not _usable(node):
                continue
            page = _object_page(node, place, package)
            if isinstance(node, ast.ClassDef):
                yield from _class_pages(node, page)
            elif page.words() >= selection.MIN_WORDS:
                yield page
            elif page.docstring:
                gathered.setdefault(place[0], []).append(Member(page.signature, page.docstring))
    for module in library.modules.values():
        if not is_private(module.name) and _filled_in(module.docstring):
            members = sorted(gathered.get(module.name, []), key=lambda member: member.signature)
            page = Page(module.name, "module", module.name, package, "", module.docstring, members)
            if page.docstring and page.words() >= selection.MIN_WORDS:
                yield page


def _object_page(node: Definition, place: tuple[str, str], package: str) -> Page:
    name = ".".join(place)
    kind = "function"
    if isinstance(node, ast.ClassDef):
        bases = [ast.unparse(base) for base in node.bases]
        kind = "exception" if any(item.endswith(_EXCEPTION_ENDS) for item in [node.name, *bases]) else "class"
    return Page(name, kind, place[0], package, signature(node, name), ast.get_docstring(node) or "")


def _class_pages(node: ast.ClassDef, page: Page) -> Iterator[Page]:
    """Pages of the methods that deserve one, then the page of the class with its other methods."""
    for item in node.body:
        if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) or not _usable(item):
            continue
        docstring = ast.get_docstring(item) or ""
        if item.name == "__init__" and docstring:
            page.docstring = f"{page.docstring}\n\n{docstring}".strip()
        elif not item.name.startswith("_") and docstring:
            name = f"{page.name}.{item.name}"
            method = Page(name, "method", page.module, page.package, method_signature(item, name), docstring)
            if method.words() >= selection.MIN_WORDS:
                yield method
            else:
                page.members.append(Member(method_signature(item, item.name), docstring))
    page.members.sort(key=lambda member: member.signature)
    if page.docstring and page.words() >= selection.MIN_WORDS:
        yield page


def _usable(node: Definition) -> bool:
    return _filled_in(ast.get_docstring(node) or "")


def _filled_in(docstring: str) -> bool:
    return not any(mark in docstring for mark in _TEMPLATE_MARKS)
