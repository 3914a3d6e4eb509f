import pytest

from serving.catalogue import Catalogue
from serving.errors import ApiError

LISTING = {
    "models": {
        "raymill": {"deployment": "model-raymill", "running": 4, "waiting": 2, "adapters": ["poet", "coder"]},
        "small": {"deployment": "model-small"},
    },
    "aliases": {"gpt-4o": "poet", "default": "small"},
}


@pytest.fixture
def connected():
    return []


@pytest.fixture
def catalogue(connected):
    return Catalogue(lambda deployment: connected.append(deployment) or f"backend of {deployment}", LISTING)


def test_every_name_leads_to_the_engine_that_knows_it(catalogue):
    assert catalogue.names() == ["raymill", "poet", "coder", "small", "gpt-4o", "default"]
    alias = catalogue.resolve("gpt-4o")
    assert (alias.engine_name, alias.model, alias.parent) == ("poet", "raymill", "raymill")
    assert (alias.backend, alias.gate) == ("backend of model-raymill", catalogue.resolve("raymill").gate)
    assert catalogue.resolve("default").parent is None
    assert [served.name for served in catalogue.models()] == ["raymill", "small"]
    with pytest.raises(ApiError) as raised:
        catalogue.resolve("gpt-4")
    assert raised.value.status == 404


def test_a_model_that_stays_keeps_its_backend_and_its_queue(catalogue, connected):
    gate = catalogue.resolve("raymill").gate
    with gate.admitted():
        catalogue.update({"models": {"raymill": {"deployment": "model-raymill", "running": 1, "waiting": 0}}})
        assert catalogue.resolve("raymill").gate is gate
        assert (gate.inside, gate.limit) == (1, 1)
        with pytest.raises(ApiError), gate.admitted():
            pass
    assert connected == ["model-raymill", "model-small"]
    assert catalogue.names() == ["raymill"]
    catalogue.update({"models": {"raymill": {"deployment": "model-raymill-2"}}})
    assert catalogue.resolve("raymill").backend == "backend of model-raymill-2"


@pytest.mark.parametrize(
    "listing",
    [
        {"models": {"a": {}}},
        {"models": {"a": {"deployment": "x", "running": 0}}},
        {"models": {"a b": {"deployment": "x"}}},
        {"models": {"a": {"deployment": "x", "adapters": ["a"]}}},
        {"models": {"a": {"deployment": "x", "adapters": ["p"]}, "b": {"deployment": "y", "adapters": ["p"]}}},
        {"models": {"a": {"deployment": "x"}}, "aliases": {"a": "a"}},
        {"models": {"a": {"deployment": "x"}}, "aliases": {"b": "c"}},
        {"models": {"a": {"deployment": "x"}}, "aliases": {"b": "a", "c": "b"}},
        {"modles": {}},
    ],
)
def test_what_is_no_listing_changes_nothing(catalogue, listing):
    before = catalogue.names()
    with pytest.raises(ValueError):
        catalogue.update(listing)
    assert catalogue.names() == before


def test_a_deployment_that_cannot_be_connected_changes_nothing(catalogue):
    def fail(_):
        raise RuntimeError

    catalogue._connect = fail
    with pytest.raises(RuntimeError):
        catalogue.update({"models": {"raymill": {"deployment": "model-raymill"}, "new": {"deployment": "n"}}})
    assert catalogue.resolve("raymill").gate.limit == 6
    assert "new" not in catalogue.names()
