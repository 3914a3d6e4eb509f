"""Facts of hand-written reference pages: right, or skipped with the reason."""

import pytest

from data_engine.facts import MODULE_PATTERN, OBJECT_PATTERN, Fact, PageReader, Skipped, check_pattern, parameters

FUNCTION = """json.dumps
json.dumps is a function in the module json of the standard library.
dumps(obj, *, skipkeys=False,
      default=None, **kw)
Serialize ``obj`` to a JSON formatted ``str``, e.g. a string
that other programs read. If ``skipkeys`` is true then keys are skipped.
"""
MODULE = """json
json is a module of the standard library.

JSON (JavaScript Object Notation) is a subset of JavaScript syntax.

More about it.
"""
METHOD = """numpy.ndarray.sum
numpy.ndarray.sum is a method in the module numpy of the package numpy.
sum(self, axis: int | None = None, dtype=(1, 2)) -> numpy.ndarray

Return the sum of the array elements over the given axis!
"""
EXCEPTION = """json.JSONDecodeError
json.JSONDecodeError is an exception in the module json of the standard library.
class JSONDecodeError(ValueError)
Subclass of ValueError with the following additional properties:
msg: the unformatted error message
"""


@pytest.fixture
def reader():
    return PageReader([OBJECT_PATTERN, MODULE_PATTERN], 20, 160)


def test_function(reader):
    assert reader.read("1", FUNCTION, "docs") == Fact(
        document_id="1",
        source="docs",
        name="json.dumps",
        kind="function",
        module="json",
        package="the standard library",
        signature="dumps(obj, *, skipkeys=False, default=None, **kw)",
        description="Serialize ``obj`` to a JSON formatted ``str``, e.g. a string that other programs read.",
    )


def test_module(reader):
    fact = reader.read("2", MODULE)
    assert (fact.kind, fact.module, fact.signature) == ("module", "json", "")
    assert fact.description == "JSON (JavaScript Object Notation) is a subset of JavaScript syntax."


def test_method_of_a_package(reader):
    fact = reader.read("3", METHOD)
    assert (fact.kind, fact.package, fact.short_name) == ("method", "numpy", "sum")
    assert fact.signature == "sum(self, axis: int | None = None, dtype=(1, 2)) -> numpy.ndarray"
    assert fact.description == "Return the sum of the array elements over the given axis!"
    assert parameters(fact.signature) == ["axis", "dtype"]


def test_exception(reader):
    fact = reader.read("4", EXCEPTION)
    assert fact.kind == "exception"
    assert fact.description.startswith("Subclass of ValueError with the following additional properties:")


def test_heading_that_extraction_left_above_does_not_matter(reader):
    assert reader.read("1", "Documentation\n\nHome\n" + FUNCTION).name == "json.dumps"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_match"),
        ("An essay.\nIt says that json.dumps is a function in the module json of the standard library.", "no_match"),
        ("a.b\na.b is a function in the module a of the standard library.\nb(x)\n", "no_description"),
        ("a.b\na.b is a function in the module a of the standard library.\n" + "word " * 60, "no_description"),
        ("a.b\na.b is a function in the module a of the standard library.\nDo it.", "short_description"),
    ],
)
def test_page_without_a_fact_says_why(reader, text, reason):
    assert reader.read("5", text) == Skipped(reason)


@pytest.mark.parametrize(
    ("signature", "names"),
    [
        ("f()", []),
        ("f(a, b=1, /, *, c: dict[str, int] = {}, **kw)", ["a", "b", "c", "**kw"]),
        ("f(self, x: Callable[[int, str], None] = g(1, 2))", ["x"]),
        ("class C(Base)", ["Base"]),
        ("", []),
    ],
)
def test_parameters(signature, names):
    assert parameters(signature) == names


@pytest.mark.parametrize("pattern", ["(", "(?P<name>x)", "(?P<name>x)(?P<kind>y)(?P<colour>z)"])
def test_patterns_that_cannot_work_are_refused(pattern):
    with pytest.raises(ValueError):
        check_pattern(pattern)
