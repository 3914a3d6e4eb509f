import functools
import time

import pytest
from pydantic import ValidationError

from serving import grammar_limits
from serving.conversation import ChatRequest, TokenizeRequest
from serving.grammar_limits import check_regex, check_schemas
from serving.protocol import CompletionRequest, describe
from serving.responses_request import ResponsesRequest

CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def of(count, field=lambda number: {"type": "string"}):
    return {"type": "object", "properties": {f"p{number}": field(number) for number in range(count)}}


def nested(levels):
    return functools.reduce(
        lambda inner, _: {"type": "object", "properties": {"a": inner}}, range(levels), {"type": "string"}
    )


@pytest.mark.parametrize(
    "schema",
    [
        of(500),
        nested(20),
        {"enum": list(range(1000))},
        of(100, lambda number: {"type": "string", "maxLength": 255}),
        of(9, lambda number: {"type": "string", "maxLength": 10 * number}),
        {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2})?Z?)?$"},
        {"properties": {"enum": {"type": "string"}, "properties": {"type": "integer"}, "pattern": {"type": "string"}}},
    ],
)
def test_schemas_of_every_day_pass(schema):
    check_schemas([schema])


ZOD_DATE = (  # https://github.com/colinhacks/zod, packages/zod/src/v4/core/regexes.ts, of version 4.1
    r"(?:(?:\d\d[2468][048]|\d\d[13579][26]|\d\d0[48]|[02468][048]00|[13579][26]00)-02-29|\d{4}-(?:(?:0[13578]|1[02])-"
    r"(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|(?:02)-(?:0[1-9]|1\d|2[0-8])))"
)
ZOD_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?"
ZOD = {
    "datetime": f"^{ZOD_DATE}T(?:{ZOD_TIME}(?:Z|([+-](?:[01]\\d|2[0-3]):[0-5]\\d)))$",
    "date": f"^{ZOD_DATE}$",
    "email": r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
    "uuid": r"^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}"
    r"|00000000-0000-0000-0000-000000000000|ffffffff-ffff-ffff-ffff-ffffffffffff)$",
}


def test_formats_as_zod_writes_them_fit_into_one_schema():
    check_schemas([{"properties": {name: {"type": "string", "pattern": pattern} for name, pattern in ZOD.items()}}])


@pytest.mark.parametrize("pattern", ["(?:a)(?=b)(?!c)(?<=d)(?<name>e)" * 10, "[?*{]" * 40, r"[\]?]" * 40, r"\?\*" * 40])
def test_what_only_looks_as_if_it_could_be_left_out_does_not_count(pattern):
    assert check_regex(pattern) == pattern


@pytest.mark.parametrize("part", [r"\\?", "[[]?", "(?:|a)", "(?:a)?", "(?<name>a|)", "[a]]?", "[a?"])
def test_what_may_be_left_out_counts_behind_a_class_an_escape_or_a_group(part):
    with pytest.raises(ValueError, match="parts that may be left out"):
        check_regex(part * 31)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (of(501), "501 properties and alternatives, 500 at most"),
        (of(20, lambda number: of(30)), "620 properties"),
        ({"anyOf": [{"const": number} for number in range(501)]}, "501 properties and alternatives"),
        ({"$defs": of(501)["properties"], "type": "string"}, "501 properties and alternatives"),
        ({"enum": list(range(1001))}, "1,001 values in its enums, 1,000 at most"),
        (nested(23), "deeper than 20 objects"),
        ({"description": "x" * 70_000}, "bytes, 65,536 at most"),
        (of(30, lambda number: {"type": "string", "maxLength": 1000 + number}), "7,680 characters together"),
        ({"type": "string", "pattern": "[a-z]" * 200}, "1,000 characters, 500 at most"),
        ({"type": "string", "pattern": "[a-z ]?" * 70}, "70 parts that may be left out"),
        ({"type": "string", "pattern": "(|[a-z ])" * 40}, "40 parts that may be left out"),
        ({"patternProperties": {"[a-z]?" * 70: {}}}, "70 parts that may be left out"),
        ({"type": "string", "pattern": "([a-z ]{1,999}X|)" * 8}, "2,048 characters together"),
    ],
)
def test_schemas_that_would_hold_the_engine_up_are_refused_with_what_is_too_much(schema, reason):
    with pytest.raises(ValueError, match=reason):
        check_schemas([schema])
    body = CHAT | {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    with pytest.raises(ValidationError) as raised:
        ChatRequest.model_validate(body)
    message, param = describe(raised.value.errors())
    assert reason in message and message.startswith("response_format.json_schema.schema: ")
    assert param == "response_format.json_schema.schema"


def test_the_measuring_itself_takes_no_time():
    broad = [of(200, lambda number: {"enum": list(range(1000))}) for _ in range(10)]
    began = time.process_time()
    for schema in (broad, [nested(90)], [{"pattern": "{" * 60_000}]):
        with pytest.raises(ValueError, match=r"at most|deeper"):
            check_schemas(schema)
    assert time.process_time() - began < 0.5


def test_every_place_of_a_grammar_is_measured():
    large, function = of(501), {"name": "f", "parameters": of(501), "strict": True}
    bodies = [
        (ChatRequest, CHAT | {"structured_outputs": {"json": large}}),
        (CompletionRequest, {"model": "m", "prompt": "x", "structured_outputs": {"json": large}}),
        (ChatRequest, CHAT | {"tools": [{"type": "function", "function": function}]}),
        (ChatRequest, CHAT | {"structured_outputs": {"regex": "[a-z ]?" * 70}}),
        (ChatRequest, CHAT | {"structured_outputs": {"choice": ["x" * 70_000]}}),
    ]
    for model, body in bodies:
        with pytest.raises(ValidationError, match=r"at most|more than"):
            model.model_validate(body)
    formats = {"type": "json_schema", "name": "x", "schema": large}
    for fields in ({"text": {"format": formats}}, {"tools": [{"type": "function"} | function]}):
        with pytest.raises(ValidationError, match="at most"):
            ResponsesRequest.model_validate({"model": "m", "input": "x"} | fields).chat()


def tool(name, parameters, **fields):
    return {"type": "function", "function": {"name": name, "parameters": parameters} | fields}


CHOSEN = {"type": "function", "function": {"name": "f0"}}
TOOLS = [tool(f"f{number}", of(100)) for number in range(6)]
STRICT = [*TOOLS[:5], tool("f5", of(100), strict=True)]


@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        (TOOLS, {"tool_choice": "required"}),
        (STRICT, {"tool_choice": "auto"}),
        (STRICT, {"tool_choice": None}),
        (STRICT, {}),
    ],
)
def test_tools_count_together_where_one_grammar_holds_them(tools, choice):
    with pytest.raises(ValidationError, match="600 properties") as raised:
        ChatRequest.model_validate(CHAT | {"tools": tools} | choice)
    assert describe(raised.value.errors())[0].startswith("Tools: the schema has 600 properties")


@pytest.mark.parametrize(
    ("tools", "choice"), [(TOOLS, {"tool_choice": "auto"}), (TOOLS, {}), (STRICT, {"tool_choice": "none"})]
)
def test_tools_of_which_no_grammar_is_made_do_not_count(tools, choice):
    ChatRequest.model_validate(CHAT | {"tools": tools} | choice)


def test_of_a_chosen_tool_alone_a_grammar_is_made():
    huge = tool("f6", of(501), strict=True)
    ChatRequest.model_validate(CHAT | {"tools": [*STRICT, huge], "tool_choice": CHOSEN})
    chosen = {"type": "function", "function": {"name": "f6"}}
    with pytest.raises(ValidationError, match="501 properties"):
        ChatRequest.model_validate(CHAT | {"tools": [*STRICT, huge], "tool_choice": chosen})


@pytest.mark.parametrize(
    "parameters",
    [
        of(5, lambda number: {"type": "string", "maxLength": (255, 256, 500, 1000, 2000)[number]}),
        {"properties": {"a": {"type": "string", "pattern": "[a-z]" * 200}}},
        nested(40),
        {"description": "x" * 70_000},
    ],
    ids=["lengths", "pattern", "nested", "large"],
)
def test_a_plain_tool_may_have_any_schema(parameters):
    tools = [tool("f", parameters)]
    ChatRequest.model_validate(CHAT | {"tools": tools})
    TokenizeRequest.model_validate(CHAT | {"tools": tools})
    flat = [{"type": "function"} | tools[0]["function"]]
    ResponsesRequest.model_validate({"model": "m", "input": "x", "tools": flat}).chat()


def test_a_plain_regular_expression_passes():
    assert check_regex(r"(yes|no|maybe), \d{1,3}\.\d+\?") == r"(yes|no|maybe), \d{1,3}\.\d+\?"


def test_a_grammar_in_ebnf_is_refused():
    with pytest.raises(ValidationError, match="grammar"):
        ChatRequest.model_validate(CHAT | {"structured_outputs": {"grammar": 'root ::= "x"'}})


def test_what_passes_compiles_soon():
    xgrammar = pytest.importorskip("xgrammar")
    words = [chr(code) for code in range(32, 127)] + [f"w{number}" for number in range(20_000)] + ["<eos>"]
    info = xgrammar.TokenizerInfo(words, vocab_size=len(words), stop_token_ids=[len(words) - 1])
    for schema in (of(grammar_limits.MAX_PROPERTIES), nested(20), {"enum": [str(n) for n in range(1000)]}):
        check_schemas([schema])
        began = time.process_time()
        xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False).compile_json_schema(schema)
        assert time.process_time() - began < 3
