"""Settings of `serve up`: one model, or several; the door before them; what they are asked."""

import os
from typing import Annotated, Self

from pydantic import Field, model_validator

from core.config import RUNTIME, InputPath, StageConfig
from serving.ask import Question
from serving.door_settings import DoorConfig
from serving.endpoint import Address
from serving.engine import ModelConfig

_DOOR_FILES = ("keys_file", "tls_certificate", "tls_key", "audit_log")


class UpConfig(StageConfig, ModelConfig, DoorConfig):
    """What is served, where, and what it is asked. A single model's settings stand at the top, several in `models`."""

    models: list[ModelConfig] = Field(default_factory=list, description="several models, instead of checkpoint")
    formats: list[InputPath] = Field(
        default_factory=list,
        description="the same model in other number formats: of these and checkpoint the fastest that runs here is "
        "served, by a short calibration that is remembered",
    )
    questions: list[Question] = Field(default_factory=list, description="asked through the openai client when it is up")
    host: Annotated[str, RUNTIME] = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every interface")
    port: Annotated[int, RUNTIME] = Field(8000, ge=1, le=65535, description="port to listen on")
    keep: Annotated[bool, RUNTIME] = Field(False, description="leave the endpoint up; 'raymill serve down' stops it")
    start_timeout_s: Annotated[float, RUNTIME] = Field(600.0, gt=0, description="how long the start may take")

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if self.models:
            several = set(ModelConfig.model_fields) & self.model_fields_set - {"seed"}
            if several or self.formats:
                raise ValueError(f"{', '.join(sorted(several or {'formats'}))}: with models, each has its own settings")
        elif self.checkpoint is None:
            raise ValueError("checkpoint is missing; it says which model is served; models serves several")
        return self

    @property
    def reusable(self) -> bool:
        """What is asked and answered can be reused; an endpoint that is to stay up must be started."""
        return not self.keep

    @property
    def served(self) -> list[ModelConfig]:
        """Every model."""
        if self.models:
            return self.models
        return [ModelConfig.model_validate({name: getattr(self, name) for name in ModelConfig.model_fields})]

    @property
    def door(self) -> DoorConfig:
        """The door's part of the settings, with paths that hold in another process."""
        found = {name: getattr(self, name) for name in DoorConfig.model_fields}
        return DoorConfig.model_validate(
            found | {name: os.path.abspath(found[name]) for name in _DOOR_FILES if found[name]}
        )

    @property
    def address(self) -> Address:
        """Where it will listen."""
        return Address(self.host, self.port, self.door.tls_certificate)
