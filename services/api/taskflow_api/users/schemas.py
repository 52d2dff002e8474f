"""Users and tokens as clients send and get them."""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from taskflow.access.scopes import ActorKind, Scope
from taskflow.jobs.schemas import Text
from taskflow_api.users import mail_addresses, passwords

_SCOPES_CHARACTERS = 200


def _address(text: str) -> str:
    address = mail_addresses.normal_address(text)
    if address is None:
        raise ValueError("must be an address like ada@example.com")
    return address


class RegistrationRequest(BaseModel):
    """Somebody who wants to become a user."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"email": "ada@example.com", "password": "correct horse battery staple"}]
        },
    )

    email: Annotated[
        str,
        Field(max_length=mail_addresses.MAX_CHARACTERS, pattern=mail_addresses.PATTERN),
        AfterValidator(_address),
    ] = Field(description="It counts in lower case.")
    password: Annotated[
        Text, Field(min_length=passwords.MIN_CHARACTERS, max_length=passwords.MAX_CHARACTERS)
    ] = Field(
        description="Any characters.",
        json_schema_extra={"format": "password", "writeOnly": True},
    )


class RegistrationAccepted(BaseModel):
    """What every registration is answered with, also one of an address that is taken."""

    email: str
    detail: str


class TokenRequest(BaseModel):
    """What tokens are given for: a password, or a refresh token."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"username": "ada@example.com", "password": "correct horse battery staple"},
                {"grant_type": "refresh_token", "refresh_token": "tf_refresh_vXb0…"},
            ]
        },
    )

    grant_type: Literal["password", "refresh_token"] = "password"
    username: Annotated[Text, Field(max_length=mail_addresses.MAX_CHARACTERS)] | None = Field(
        None, description="The address; `email` is another name for it."
    )
    email: Annotated[Text, Field(max_length=mail_addresses.MAX_CHARACTERS)] | None = None
    password: Annotated[Text, Field(max_length=passwords.MAX_CHARACTERS)] | None = None
    refresh_token: Annotated[Text, Field(max_length=200)] | None = None
    scope: Annotated[Text, Field(max_length=_SCOPES_CHARACTERS)] = Field(
        "",
        description="With a password: the scopes that the tokens shall have, with blanks between"
        " them; all that the user has by default.",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.grant_type == "refresh_token":
            if self.refresh_token is None:
                raise ValueError("refresh_token is required")
            return self
        if (self.username is None) == (self.email is None):
            raise ValueError("username or email is required, and not both")
        if self.password is None:
            raise ValueError("password is required")
        return self

    @property
    def account(self) -> str:
        """Who wants to sign in with a password."""
        return self.username or self.email or ""


class TokenResponse(BaseModel):
    """Tokens (RFC 6749)."""

    access_token: str = Field(description="For `Authorization: Bearer`.")
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - RFC 6749's word
    expires_in: int = Field(description="Seconds for which the access token is good.")
    refresh_token: str = Field(description="For the next pair, once.")
    scope: str = Field(description="What the access token may do.")


class Me(BaseModel):
    """Who asks."""

    kind: ActorKind
    id: str = Field(description="A user's id, `oidc:` and the subject of another's token, a key's.")
    tenant_id: UUID
    scopes: list[Scope]
    email: str | None = Field(description="Of a user that has registered here.")
