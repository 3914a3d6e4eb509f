import json
import pickle

import httpx
import openai
import pytest

from serving import errors
from serving.errors import ApiError

EVERY = [
    errors.unauthorized(),
    errors.unknown_model("x'y\"\n"),
    errors.not_found(),
    errors.busy(7),
    errors.over_quota("This key may use 5 requests per minute", 7),
    errors.too_large(1_000),
    errors.too_slow(2.5),
    errors.timed_out(600),
    errors.not_ready(),
    errors.internal(),
    ApiError(400, "max_tokens: too many.", param="max_tokens"),
]
EXPECTED = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    404: openai.NotFoundError,
    408: openai.APIStatusError,
    413: openai.APIStatusError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    503: openai.InternalServerError,
    504: openai.InternalServerError,
}


@pytest.mark.parametrize("error", EVERY, ids=lambda error: error.code)
def test_the_openai_client_reads_each_error_as_its_own_kind_with_our_words(error):
    def respond(_request):
        return httpx.Response(error.status, json=error.body(), headers=error.headers)

    transport = httpx.Client(transport=httpx.MockTransport(respond))
    client = openai.OpenAI(base_url="http://x/v1", api_key="k", max_retries=0, http_client=transport)
    with pytest.raises(EXPECTED[error.status]) as raised:
        client.models.list()
    assert error.message in raised.value.message
    assert (raised.value.code, raised.value.param, raised.value.type) == (error.code, error.param, error.type)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: error.code)
def test_an_error_keeps_every_part_on_its_way_from_the_replica(error):
    arrived = pickle.loads(pickle.dumps(error))
    assert arrived == error
    assert isinstance(arrived, ApiError)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: error.code)
def test_a_body_is_one_json_object_with_the_four_fields_of_openai(error):
    found = json.loads(json.dumps(error.body()))
    assert set(found) == {"error"}
    assert set(found["error"]) == {"message", "type", "param", "code"}


def test_refusals_carry_the_headers_that_http_asks_for():
    assert errors.unauthorized().headers["WWW-Authenticate"] == "Bearer"  # RFC 9110, 11.6.1
    assert errors.busy(7).headers["Retry-After"] == "7"
    assert "7 s" in errors.busy(7).message
    assert int(errors.not_ready().headers["Retry-After"]) > 0
