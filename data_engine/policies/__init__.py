"""Policies: thresholds on measured signals. One file a policy; none reads text or files."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from core.config import Config, parse
from core.errors import UserError
from data_engine import languages
from data_engine.policies.base import Policy, Rule
from data_engine.policies.c4 import C4
from data_engine.policies.classifiers import Classifiers
from data_engine.policies.fineweb import FineWeb
from data_engine.policies.gopher_quality import GopherQuality
from data_engine.policies.gopher_repetition import GopherRepetition
from data_engine.policies.toxicity import Toxicity

__all__ = ["C4", "FineWeb", "GopherQuality", "GopherRepetition", "Policies", "Policy", "Rule", "Toxicity"]


class Policies(Config):
    """Every quality policy, in the order in which it judges; the first rule broken is the reason."""

    flavour: Literal["default", "datatrove"] = Field(
        "default",
        description="whose reading of the published rules: this project's, for any language, or datatrove 0.10's four "
        "filter classes as they are (English words as spaCy cuts them; FineWeb judges what C4 leaves of a document)",
    )
    toxicity: Toxicity = Field(default_factory=Toxicity, description="share of words on the toxic lists")
    gopher_repetition: GopherRepetition = Field(default_factory=GopherRepetition, description="repeated text")
    gopher_quality: GopherQuality = Field(default_factory=GopherQuality, description="text that is no prose")
    c4: C4 = Field(default_factory=C4, description="boilerplate and code, by C4")
    fineweb: FineWeb = Field(default_factory=FineWeb, description="lists and fragments, by FineWeb")

    classifiers: Classifiers = Field(default_factory=Classifiers, description="scores of fastText models")

    by_language: dict[str, dict[str, dict[str, float | bool | None]]] = Field(
        {},
        description="thresholds of some languages where they differ from the ones above: a label, or several with "
        "commas between, as `ja, zh: {gopher_quality: {min_words: 30}}`; the rest is as above",
    )

    @model_validator(mode="after")
    def _by_language_holds_thresholds(self) -> Self:
        for key, changes in self.by_language.items():
            try:
                changed = self._changed(changes, f"by_language.{key}")
            except UserError as error:
                raise ValueError(str(error)) from None
            ours, theirs = self.shaping(), changed.shaping()
            shaped = sorted(name for name in ours if ours[name] != theirs[name])
            if shaped:
                raise ValueError(f"by_language.{key}: {shaped[0]} decides what is measured; it is the same for all")
        named = [label for key in self.by_language for label in _labels(key)]
        if len(set(named)) < len(named):
            raise ValueError(f"by_language names a language twice: {', '.join(sorted(named))}")
        return self

    def _changed(self, changes: dict[str, dict[str, Any]], where: str) -> "Policies":
        """These policies with some of their settings replaced."""
        whole = self.model_dump(exclude={"by_language"})
        for name, settings in changes.items():
            whole[name] = {**whole[name], **settings} if isinstance(whole.get(name), dict) else settings
        return parse(Policies, whole, where)

    def of_language(self, label: str) -> "Policies":
        """What judges documents of a language: `by_language` names its label, or the language that the label begins
        with ('zh' for 'zh-tw'), or says nothing of it."""
        for wanted in (label, languages.base(label)):
            for key, changes in self.by_language.items():
                if wanted in _labels(key):
                    return self._changed(changes, key)
        return self

    def shaping(self) -> dict[str, Any]:
        """The settings that decide what is measured; all others are thresholds on it."""
        rules = [self.c4, self.fineweb]
        shaping = {f"{policy.name}.{name}": getattr(policy, name) for policy in rules for name in sorted(policy.shapes)}
        shaping["flavour"] = self.flavour
        shaping["classifiers"] = [(model.name, model.model, model.label) for model in self.classifiers.models]
        if self.flavour == "datatrove":  # FineWeb judges what these leave
            shaping |= {
                "c4.enabled": self.c4.enabled,
                "c4.max_lorem_ipsum": self.c4.max_lorem_ipsum is None,
                "c4.max_curly_brackets": self.c4.max_curly_brackets is None,
            }
        return shaping

    def enabled(self) -> list[Policy]:
        """The policies that are switched on."""
        rules = [self.toxicity, self.gopher_repetition, self.gopher_quality, self.c4, self.fineweb]
        policies = [*rules, self.classifiers]
        return [policy for policy in policies if policy.enabled]


def _labels(key: str) -> list[str]:
    return [label.strip() for label in key.split(",")]
