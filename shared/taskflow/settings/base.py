"""What every process reads, and how settings are read."""

import sys
from pathlib import Path
from typing import NoReturn, TypeVar

from pydantic import ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from taskflow.errors import ConfigurationError

PREFIX = "TASKFLOW_"

SettingsType = TypeVar("SettingsType", bound="Settings")


class Settings(BaseSettings):
    """What every process reads: the log's form."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
    )

    log_level: str = "INFO"
    log_format: str = "json"

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @field_validator("log_format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        if value not in {"json", "console"}:
            raise ValueError("must be json or console")
        return value


def load_settings(settings_type: type[SettingsType]) -> SettingsType:
    """Read the environment and `.env`.

    Raises:
        ConfigurationError: one line for each setting that is missing or malformed.
    """
    env_file = Path(".env")
    try:
        return settings_type()
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_input=False, include_url=False):
            where = problem["loc"]
            name = PREFIX + str(where[0]).upper() if where else "settings"
            detail = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "missing":
                hint = "" if env_file.exists() else " (there is no .env here; 'make up' writes one)"
                detail = f"is not set{hint}"
            lines.append(f"{name}: {detail}")
        raise ConfigurationError("; ".join(lines)) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{env_file} is not UTF-8 text") from None


def exit_with(error: Exception) -> NoReturn:
    """End the process at start with one line that says why."""
    sys.exit(f"taskflow: {error}")
