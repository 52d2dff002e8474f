"""Users, and the issuer whose tokens count beside ours."""

import re

from pydantic import Field, SecretStr, field_validator, model_validator

from taskflow.setting_types import CommaSeparated
from taskflow.settings.base import Settings

LEAST_SECRET_CHARACTERS = 32
ASYMMETRIC_ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""What others may sign with: never what is checked with a key that signs as well."""


class UserSettings(Settings):
    """How users sign in; `smtp_host`: whether there is a server that takes mail to them."""

    jwt_secret: SecretStr = SecretStr("")
    jwt_previous_secret: SecretStr = SecretStr("")
    access_token_seconds: int = Field(900, ge=60, le=3_600)
    session_seconds: int = Field(30 * 86_400, ge=3_600, le=366 * 86_400)
    registration_open: bool = True
    registration_job_types: CommaSeparated = ("echo", "sleep", "flaky")
    login_limit_attempts: int = Field(10, ge=1, le=10_000)
    login_limit_seconds: int = Field(600, ge=1, le=86_400)
    smtp_host: str = ""

    @field_validator("jwt_secret", "jwt_previous_secret")
    @classmethod
    def _long_or_none(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and len(value.get_secret_value()) < LEAST_SECRET_CHARACTERS:
            raise ValueError(f"must have at least {LEAST_SECRET_CHARACTERS} characters, or none")
        return value


class OidcSettings(Settings):
    """The issuer whose tokens count beside our own; none is set by default."""

    oidc_issuer: str = ""
    oidc_audience: str = ""
    oidc_jwks_url: str = ""
    oidc_algorithms: CommaSeparated = ("RS256", "ES256")
    oidc_tenant_claim: str = "tenant"
    oidc_scopes_claim: str = "scope"

    @field_validator("oidc_issuer", "oidc_jwks_url")
    @classmethod
    def _on_the_web(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s?#]+(\?[^\s#]*)?", value):
            raise ValueError("must begin with https:// or http:// and name a host")
        return value

    @field_validator("oidc_algorithms")
    @classmethod
    def _asymmetric(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not set(value) <= ASYMMETRIC_ALGORITHMS:
            raise ValueError(f"must be some of {', '.join(sorted(ASYMMETRIC_ALGORITHMS))}")
        return value

    @model_validator(mode="after")
    def _for_us(self) -> "OidcSettings":
        if self.oidc_issuer and not self.oidc_audience:
            raise ValueError(
                "TASKFLOW_OIDC_ISSUER needs TASKFLOW_OIDC_AUDIENCE, or tokens for anybody's"
                " service would count here"
            )
        return self
