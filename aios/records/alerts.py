"""Where people are told of alarms, and what they are told.

Nothing secret stands in a record: it is the name of an environment variable of the kernel's
machine, `env:ALERT_...`, and read when an alert is sent. What is wrong with one is told without
repeating what was given, in case it was the secret itself.
"""

import re
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from aios.records.base import Given, Name, Record

_ENV = re.compile(r"env:ALERT_[A-Za-z0-9_]+")
"""No other variables: who may watch names the host too, and could send there what they hold."""


def http_fault(url: str) -> str | None:
    """What keeps a text from being an address that can be posted to; None if nothing does."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  reading it is what checks it
    except ValueError:
        return "is no address"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "has characters that no address has"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "is no address that begins with https:// or http://"
    if "@" in parts.netloc:
        return "holds a user or a password"
    return None


def _environment_name(given: str) -> str:
    if _ENV.fullmatch(given) is None:
        raise ValueError(
            "holds a secret, which is not stored here; put it into an environment variable of the "
            'kernel\'s machine whose name begins with ALERT_, and give its name: "env:ALERT_SECRET"'
        )
    return given


def _public_address(given: str) -> str:
    if given.startswith("env:"):
        return _environment_name(given)
    fault = http_fault(given)
    if fault is not None:
        raise ValueError(f'{fault}; give one, or "env:ALERT_..." if it holds a secret')
    return given


def _mail_address(given: str) -> str:
    if re.fullmatch(r"[^@\s<>,;]+@[^@\s<>,;]+", given) is None:
        raise ValueError("is not one e-mail address, such as ops@example.com")
    return given


Secret = Annotated[str, AfterValidator(_environment_name), Field(max_length=200)]
Address = Annotated[str, AfterValidator(_public_address), Field(max_length=2000)]
MailAddress = Annotated[str, AfterValidator(_mail_address), Field(max_length=254)]


class _Sink(Given):
    """Where alerts go."""

    repeats_input: ClassVar[bool] = False


class WebhookAlert(_Sink):
    """Tell a program of alarms: JSON posted to `url`, signed if there is a `secret`.

    Signed as Standard Webhooks 1.0 says, which receivers have libraries for: headers
    `webhook-id` (the same whenever the same alert is sent), `webhook-timestamp` and
    `webhook-signature`, `v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`. The body is
    `{"type": "alarm.raised" or "alarm.resolved", "timestamp", "data"}`.

    Args:
        url: https:// or http://, or `env:ALERT_...` of a variable that holds it.
        secret: `env:ALERT_...` of a variable that holds `whsec_` and base64.
    """

    kind: Literal["webhook"] = "webhook"
    url: Address
    secret: Secret | None = None

    @property
    def shown(self) -> str:
        """For people: no more of the address than its host."""
        return f"webhook {self.url if self.url.startswith('env:') else urlsplit(self.url).hostname}"


class SlackAlert(_Sink):
    """Tell a channel of alarms, by an incoming webhook of Slack or of what understands the same
    JSON, as Mattermost and Rocket.Chat do.

    Args:
        url: `env:ALERT_...` of a variable that holds the webhook's address, which is a secret.
    """

    kind: Literal["slack"] = "slack"
    url: Secret

    @property
    def shown(self) -> str:
        """For people."""
        return f"slack {self.url}"


class EmailAlert(_Sink):
    """Tell one address, a person's or a list's, of alarms by e-mail.

    Args:
        to: who is told.
        sender: from whom it comes.
        host: the SMTP server, at `port`.
        user: by whom to log in, with `password`: `env:ALERT_...` of a variable that holds it. A
            password is only sent under `starttls`.
        starttls: encrypt, and send nothing to a server that cannot or whose certificate is wrong.
    """

    kind: Literal["email"] = "email"
    to: MailAddress
    sender: MailAddress
    host: str = Field(pattern=r"^[A-Za-z0-9._:-]+$", max_length=253)
    port: int = Field(default=25, ge=1, le=65535)
    user: str | None = Field(default=None, min_length=1, max_length=254)
    password: Secret | None = None
    starttls: bool = False

    @model_validator(mode="after")
    def _logs_in_whole_and_encrypted(self) -> "EmailAlert":
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together")
        if self.password is not None and not self.starttls:
            raise ValueError("a password must not be sent in the clear; give starttls=True")
        return self

    @property
    def shown(self) -> str:
        """For people."""
        return f"email {self.to}"


Alert = Annotated[WebhookAlert | SlackAlert | EmailAlert, Field(discriminator="kind")]


class AlertMessage(Record):
    """What people are told, kept as it was when it happened.

    `id` is the same if the same thing is told again. `since_s` is when the alarm was raised,
    `at_s` when this was said.
    """

    id: str
    type: Literal["alarm.raised", "alarm.resolved"]
    at_s: float
    endpoint: Name
    watch: str
    alarm: str
    condition: str
    subject: str
    score: float | None
    reason: str
    since_s: float
