"""Who may connect: the modes, and how each tells users."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from threadwire.settings.section import Duration, Section

_SYMMETRIC = ("HS256", "HS384", "HS512")
_ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]


class Jwt(Section):
    """How tokens of mode jwt are checked; one of jwks_url, public_key and secret."""

    jwks_url: Annotated[
        str | None, Field(pattern=r"^https?://.", description="http:// or https:// URL of the issuer's keys.")
    ] = None
    public_key: Annotated[
        str | None, Field(min_length=1, description="The issuer's public key, the text of its PEM.")
    ] = None
    secret: Annotated[SecretStr | None, Field(min_length=1, description="What the issuer signs with, if shared.")] = (
        None
    )
    issuer: Annotated[str | None, Field(min_length=1, description="What iss must be; null: anything.")] = None
    audience: Annotated[
        str | None, Field(min_length=1, description="What aud must be or hold; null: a token for somebody is refused.")
    ] = None
    algorithms: Annotated[
        list[Algorithm],
        Field(description="How tokens may be signed; empty: HS256 with a secret, else RS256, ES256 and EdDSA."),
    ] = []
    user_claim: Annotated[str, Field(min_length=1, description="The claim that says who the user is.")] = "sub"
    leeway_seconds: Annotated[Duration, Field(description="How far the issuer's clock may be off.")] = 0

    @model_validator(mode="after")
    def _fits(self) -> Jwt:
        if sum(found is not None for found in (self.jwks_url, self.public_key, self.secret)) > 1:
            raise ValueError("expected one of jwks_url, public_key and secret")
        # With a public key taken for a shared secret anybody could sign.
        fitting = _SYMMETRIC if self.secret is not None else _ASYMMETRIC
        if wrong := [name for name in self.algorithms if name not in fitting]:
            raise ValueError(f"algorithms: {wrong[0]} does not go with this key; expected of {', '.join(fitting)}")
        return self

    def pinned(self) -> list[str]:
        """The algorithms that are taken, and no others."""
        return list(self.algorithms) or (["HS256"] if self.secret is not None else ["RS256", "ES256", "EdDSA"])


class Auth(Section):
    """Who may connect (docs/auth.md)."""

    mode: Annotated[
        Literal["none", "tokens", "jwt", "custom"],
        Field(description="none: all who reach the server, so only a loopback host; tokens; jwt; custom: a handler."),
    ] = "none"
    insecure: Annotated[
        bool, Field(description="Let mode none bind to any address: everybody who reaches it may use it.")
    ] = False
    tokens: Annotated[
        dict[str, SecretStr],
        Field(description="Mode tokens: fixed ones, by name, beside those of `threadwire token create`."),
    ] = {}
    jwt: Jwt = Jwt()
    handler: Annotated[
        str | None,
        Field(
            pattern=r".:[A-Za-z_]",
            description="Mode custom: package.module:attribute, an async function of the request that gives a user.",
        ),
    ] = None

    @field_validator("tokens")
    @classmethod
    def _distinct(cls, tokens: dict[str, SecretStr]) -> dict[str, SecretStr]:
        values = [token.get_secret_value() for token in tokens.values()]
        if not all(name.strip() == name != "" for name in tokens) or not all(
            value.isascii() and value.isprintable() and value and " " not in value for value in values
        ):
            raise ValueError("expected names with tokens of printable ASCII characters, none of them empty or a space")
        if len(set(values)) < len(values):
            raise ValueError("two names have the same token")
        return tokens

    @model_validator(mode="after")
    def _complete(self) -> Auth:
        keys = (self.jwt.jwks_url, self.jwt.public_key, self.jwt.secret)
        if self.mode == "jwt" and all(key is None for key in keys):
            raise ValueError("jwt: mode jwt needs one of jwks_url, public_key and secret")
        if self.mode == "custom" and self.handler is None:
            raise ValueError("handler: mode custom needs one, as module:attribute")
        return self

    @property
    def own_machine(self) -> bool:
        """Whether whoever reaches the server may use it, so that only this machine is to reach it."""
        return self.mode == "none" and not self.insecure
