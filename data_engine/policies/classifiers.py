"""Documents by what fastText classifiers say of them: quality, topic, toxicity; trained here or given by path."""

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from core.config import Config, InputPath
from data_engine.policies.base import Policy, Rule


class Classifier(Config):
    """One model and what its score of one label decides."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="reason and signal are named after it")
    model: InputPath = Field(description="fastText model (.bin or .ftz), as `data train-classifier` writes it")
    label: str = Field(description="the label whose score is read, without __label__")
    min_score: float | None = Field(None, ge=0, le=1, description="least score to keep; none does not bind")
    max_score: float | None = Field(None, ge=0, le=1, description="highest score to keep; none does not bind")
    action: Literal["drop", "tag"] = Field("drop", description="reject by the bounds, or only keep the score")

    @property
    def signal(self) -> str:
        """The field of the `signals` column that holds the score."""
        return f"classifier_{self.name}"

    @model_validator(mode="after")
    def _decides_something(self) -> Self:
        if self.action == "drop" and self.min_score is None and self.max_score is None:
            raise ValueError(f"classifier {self.name} drops nothing; set min_score or max_score, or action: tag")
        return self


class Classifiers(Policy):
    """Bounds on the scores of any number of models."""

    name: ClassVar[str] = "classifier"

    models: list[Classifier] = Field([], description="models in the order in which they judge")

    @field_validator("models")
    @classmethod
    def _names_differ(cls, models: list[Classifier]) -> list[Classifier]:
        names = [model.name for model in models]
        if len(set(names)) < len(names):
            raise ValueError(f"two classifiers have one name: {', '.join(sorted(names))}")
        return models

    def rules(self) -> Iterator[Rule]:
        """One for each model that drops."""
        for model in self.models:
            if model.action == "drop":
                yield Rule(model.name, model.signal, at_least=model.min_score, at_most=model.max_score)
