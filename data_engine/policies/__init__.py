"""Policies: thresholds on measured signals. One file a policy; none reads text or files."""

from typing import Literal

from pydantic import Field

from core.config import Config
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

    def enabled(self) -> list[Policy]:
        """The policies that are switched on."""
        rules = [self.toxicity, self.gopher_repetition, self.gopher_quality, self.c4, self.fineweb]
        policies = [*rules, self.classifiers]
        return [policy for policy in policies if policy.enabled]
