"""A table of keys, and the types of their values. Units are in the names of the keys."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


def _number(value: Any) -> Any:
    # To pydantic true is 1, so that ``port: yes`` would be port 1.
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


Count = Annotated[int, BeforeValidator(_number), Field(ge=0)]
Positive = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Duration = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]
PositiveDuration = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
Temperature = Annotated[float, BeforeValidator(_number), Field(ge=0, le=2, allow_inf_nan=False)]


class Section(BaseModel):
    """A table of keys; none but these, and none may change later."""

    model_config = ConfigDict(extra="forbid", frozen=True)
