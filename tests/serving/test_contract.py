"""The door keeps what its OpenAPI document says, whatever is sent: requests made up by schemathesis.

RAYMILL_CONTRACT_EXAMPLES=230 makes some 2,000 cases; the few of a plain run are there to notice that it works.
"""

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving import openapi
from serving.auth import KeyRing
from serving.door import build_app
from serving.door_settings import DoorConfig
from tests.serving.doors import BEARER, Parrot, catalogue_of, listening

EXAMPLES = int(os.environ.get("RAYMILL_CONTRACT_EXAMPLES", "5"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
DOCUMENT = openapi.describe(build_app(catalogue_of({"parrot": Parrot()}), KeyRing([]), DoorConfig()))
OPERATIONS = [found.ok() for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()]


@pytest.fixture(scope="module")
def url():
    with listening({"parrot": Parrot()}, request_timeout_s=5, max_body_bytes=1_000_000) as (_, client):
        yield str(client.base_url)


def test_the_document_names_every_path_the_key_and_the_errors():
    paths = {operation.path for operation in OPERATIONS}
    named = {"chat/completions", "completions", "responses", "embeddings", "models", "models/{name}"}
    assert {f"/v1/{path}" for path in named} | {"/tokenize", "/detokenize", "/metrics", "/health", "/ready"} == paths
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            assert operation["security"] == ([] if path in ("/health", "/ready") else [{"key": []}])
            assert {"200", "401", "429", "500"} <= set(operation["responses"])
            assert "422" not in operation["responses"]


def hold_to_contract(operation, url, headers, model, examples):
    """Send made-up requests, with the name of a model that is there, so that they come further than the 404."""
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in GenerationMode])
    limit = {"/v1/responses": "max_output_tokens", "/v1/chat/completions": "max_tokens"}.get(operation.path)

    @settings(
        max_examples=examples,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=examples < 50,
    )
    @given(cases)
    def check(case):
        if isinstance(case.body, dict):
            if isinstance(case.body.get("model"), str):
                case.body["model"] = model
            if limit is not None and not isinstance(case.body.get(limit), str | float | bool | list | dict):
                case.body[limit] = 4  # a whole context of a made-up answer would say nothing more
        response = case.call(base_url=url, headers=headers, timeout=60)
        if response.status_code not in (405, 431) or case.method in DOCUMENT["paths"][operation.path]:
            case.validate_response(response, checks=CHECKS)

    check()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_no_request_brings_the_door_out_of_its_contract(url, operation):
    hold_to_contract(operation, url, BEARER, "parrot", EXAMPLES)
