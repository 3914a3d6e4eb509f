"""A longer context for a trained model: its rotary positions stretched, as its configuration will say."""

from typing import Any, Literal

from pydantic import Field

from core.config import Config
from core.errors import UserError


class RopeScaling(Config):
    """How positions beyond the checkpoint's context are mapped; the names and formulas are those of `transformers`."""

    type: Literal["linear", "dynamic", "yarn", "llama3"] = Field(
        description="linear: positions divided by the factor (Chen et al. 2023, arXiv:2306.15595); dynamic: the base "
        "grows with the length; yarn: by frequency (Peng et al. 2023, arXiv:2309.00071); llama3: as Llama 3.1"
    )
    factor: float = Field(gt=1, description="new context / the checkpoint's context")
    low_freq_factor: float = Field(1.0, gt=0, description="llama3: wavelengths over context / this are stretched")
    high_freq_factor: float = Field(4.0, gt=0, description="llama3: wavelengths under context / this stay as they are")

    def apply(self, config: Any, where: str) -> None:
        """Write `rope_parameters` and `max_position_embeddings` of a `transformers` configuration.

        The context becomes factor times what it was, but for `dynamic`, whose formula takes `max_position_embeddings`
        for the length that the model was trained on. Raises UserError for a model without rotary positions, or with
        scaled ones already.
        """
        parameters = getattr(config, "rope_parameters", None)
        if not isinstance(parameters, dict) or "rope_theta" not in parameters:
            raise UserError(f"{where}: rope_scaling: a {config.model_type} model has no rotary positions of one kind")
        if parameters.get("rope_type", "default") != "default":
            raise UserError(
                f"{where}: rope_scaling: its positions are scaled already ({parameters['rope_type']}); leave "
                "rope_scaling out to go on with them"
            )
        trained = int(config.max_position_embeddings)
        scaled = {**parameters, "rope_type": self.type, "factor": self.factor}
        if self.type in ("yarn", "llama3"):
            scaled["original_max_position_embeddings"] = trained
        if self.type == "llama3":
            scaled |= {"low_freq_factor": self.low_freq_factor, "high_freq_factor": self.high_freq_factor}
        config.rope_parameters = scaled
        if self.type != "dynamic":
            config.max_position_embeddings = int(trained * self.factor)


def context(config: Any) -> int | None:
    """Tokens that a `transformers` configuration is made for, None where it names no number."""
    longest = getattr(config, "max_position_embeddings", None)
    parameters = getattr(config, "rope_parameters", None) or {}
    if longest is not None and parameters.get("rope_type") == "dynamic":
        return int(longest * parameters["factor"])
    return None if longest is None else int(longest)
