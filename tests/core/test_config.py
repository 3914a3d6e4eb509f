from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from core.config import RUNTIME, Config, InputPath, StageConfig, apply_overrides, load, load_yaml, parse
from core.errors import UserError


class Dedup(Config):
    threshold: float = Field(0.75, ge=0, le=1)
    bands: int = 14


class Source(Config):
    name: str
    paths: list[InputPath]


class Build(StageConfig):
    dedup: Dedup = Dedup()
    sources: list[Source] = []
    models: dict[str, InputPath] = {}
    key: InputPath | None = None
    port: Annotated[int, RUNTIME] = 1


def error(data):
    with pytest.raises(UserError) as caught:
        parse(Build, {"output": "x", **data}, "web.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unknown_key_names_the_nearest_one():
    assert error({"dedup": {"threshhold": 1}}) == (
        "web.yaml: dedup.threshhold is not a setting; did you mean dedup.threshold?"
    )


def test_unknown_key_far_from_all_lists_the_known_ones():
    assert "knows: bands, threshold" in error({"dedup": {"zzz": 1}})


def test_unknown_key_in_a_list_item_is_located():
    assert "sources.0.path is not a setting; did you mean sources.0.paths?" in error(
        {"sources": [{"name": "a", "paths": [], "path": 1}]}
    )


def test_wrong_type_shows_setting_and_value():
    message = error({"dedup": {"bands": "many"}})
    assert "dedup.bands" in message
    assert "'many'" in message


def test_missing_key_says_how_to_set_it():
    with pytest.raises(UserError, match=r"output is missing; set it in the file or with --set output=\.\.\."):
        parse(Build, {}, "web.yaml")


def test_scientific_notation_is_a_number():
    # YAML 1.1 reads 1e-1 as text
    assert parse(Build, apply_overrides({"output": "x"}, ["dedup.threshold=1e-1"]), "w").dedup.threshold == 0.1


def test_override_reaches_into_lists_and_new_mappings():
    data = {"sources": [{"name": "a"}]}
    assert apply_overrides(data, ["sources.0.name=b", "dedup.bands=3"]) == {
        "sources": [{"name": "b"}],
        "dedup": {"bands": 3},
    }
    assert data == {"sources": [{"name": "a"}]}, "the input is not changed"


@pytest.mark.parametrize("override", ["nonsense", "=1", "a.b=1", "sources.7.name=x"])
def test_bad_override_is_one_line(override):
    with pytest.raises(UserError, match="--set"):
        apply_overrides({"a": 3, "sources": []}, [override])


@given(st.dictionaries(st.sampled_from("abc"), st.integers() | st.booleans() | st.text(st.sampled_from("xy"))))
def test_overrides_set_what_they_say(values):
    import yaml

    overrides = [f"{key}={yaml.safe_dump(value).splitlines()[0]}" for key, value in values.items()]
    assert apply_overrides({}, overrides) == values


def test_identity_ignores_output_and_runtime_fields_only():
    config = Build(output="x", port=5)
    assert config.identity() == Build(output="y", port=6).identity()
    assert config.identity() != Build(output="x", seed=1).identity()


def test_every_input_path_is_found():
    config = Build(output="x", sources=[Source(name="a", paths=["p", "q"])], models={"m": "r"}, key="s")
    assert config.input_paths() == ["p", "q", "r", "s"]


@pytest.mark.parametrize("content", ["a: [1", "- 1\n- 2", "\xff"])
def test_bad_file_is_one_line(tmp_path, content):
    path = tmp_path / "c.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        load_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such configuration file"):
        load(Build, tmp_path / "none.yaml")


def test_a_mistyped_setting_is_named_before_the_one_it_leaves_missing():
    class Needs(Config):
        seeds: list[str]

    with pytest.raises(UserError, match="x: seedz is not a setting; did you mean seeds"):
        parse(Needs, {"seedz": []}, "x")


def test_the_kind_of_a_thing_is_asked_for_by_its_setting():
    class Cat(Config):
        type: Literal["cat"]

    class Dog(Config):
        type: Literal["dog"]

    class Zoo(Config):
        animals: list[Annotated[Cat | Dog, Field(discriminator="type")]]

    with pytest.raises(UserError, match=r"x: animals\.0\.type is missing"):
        parse(Zoo, {"animals": [{}]}, "x")
    with pytest.raises(UserError, match=r"x: animals\.0\.type: 'cow' is none of 'cat', 'dog'"):
        parse(Zoo, {"animals": [{"type": "cow"}]}, "x")
