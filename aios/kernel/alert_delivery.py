"""One attempt to deliver one alert, over HTTP or SMTP. Errors never repeat a secret.

By the standard library's clients and not by httpx, which logs the addresses that it asks: that
of a Slack webhook is a secret.
"""

import os
import smtplib
import ssl
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from aios.errors import TemporaryError, UsageError
from aios.monitoring.alerting import (
    email,
    slack_body,
    webhook_body,
)
from aios.records.alerts import Alert, AlertMessage, EmailAlert, SlackAlert, http_fault
from aios.security.webhooks import webhook_headers, webhook_key

TIMEOUT_S = 10.0
"""For each answer that is waited for."""


def check(sink: Alert) -> None:
    """Look whether everything that a sink needs is on this machine.

    Raises:
        UsageError: a variable is missing, or does not hold what it should.
    """
    if isinstance(sink, EmailAlert):
        if sink.password is not None:
            _secret(sink, sink.password)
        return
    _url(sink, sink.url)
    if not isinstance(sink, SlackAlert):
        _key(sink, sink.secret)


def deliver(sink: Alert, message: AlertMessage, now_s: float) -> None:
    """Deliver a message, or say why not.

    Raises:
        TemporaryError: the sink did not take it.
        UsageError: as `check`.
    """
    if isinstance(sink, EmailAlert):
        _mail(sink, message)
    elif isinstance(sink, SlackAlert):
        _post(_url(sink, sink.url), slack_body(message), {})
    else:
        body = webhook_body(message)
        headers = webhook_headers(message.id, now_s, body, _key(sink, sink.secret))
        _post(_url(sink, sink.url), body, headers)


def _secret(sink: Alert, given: str) -> str:
    name = given.removeprefix("env:")
    value = os.environ.get(name, "").strip()
    if not value:
        raise UsageError(
            f"{type(sink).__name__}: the kernel's machine has no environment variable {name}; "
            "set it and start the kernel again"
        )
    return value


def _url(sink: Alert, given: str) -> str:
    if not given.startswith("env:"):
        return given
    url = _secret(sink, given)
    fault = http_fault(url)
    if fault is not None:
        raise UsageError(f"{type(sink).__name__}: what {given} holds {fault}")
    return url


def _key(sink: Alert, given: str | None) -> bytes | None:
    if given is None:
        return None
    key = webhook_key(_secret(sink, given))
    if key is None:
        raise UsageError(
            f"{type(sink).__name__}: what {given} holds is no secret of a webhook, which is "
            "whsec_ and then base64"
        )
    return key


class _NoRedirects(HTTPRedirectHandler):
    """What was signed for one address is not carried to another."""

    def redirect_request(self, *told: Any) -> None:
        return None


def _post(url: str, body: bytes, headers: dict[str, str]) -> None:
    headers = {"content-type": "application/json", "user-agent": "aios", **headers}
    try:
        request = Request(url, data=body, headers=headers, method="POST")
        with build_opener(_NoRedirects).open(request, timeout=TIMEOUT_S):
            return
    except HTTPError as error:
        with error:
            raise TemporaryError(f"it answered HTTP {error.code}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise TemporaryError(_told(error)) from None


def _mail(sink: EmailAlert, message: AlertMessage) -> None:
    password = None if sink.password is None else _secret(sink, sink.password)
    try:
        with smtplib.SMTP(sink.host, sink.port, timeout=TIMEOUT_S) as smtp:
            if sink.starttls:
                smtp.starttls(context=ssl.create_default_context())
            if sink.user is not None and password is not None:
                smtp.login(sink.user, password)
            smtp.send_message(email(message, sink), sink.sender, [sink.to])
    except smtplib.SMTPAuthenticationError as error:
        raise TemporaryError(
            f"it did not let {sink.user} in: {error.smtp_code}; is the password right?"
        ) from None
    except smtplib.SMTPRecipientsRefused as error:
        code, why = error.recipients[sink.to]
        raise TemporaryError(f"it does not take mail to {sink.to}: {code} {_text(why)}") from None
    except smtplib.SMTPResponseException as error:
        raise TemporaryError(f"it answered {error.smtp_code} {_text(error.smtp_error)}") from None
    except (OSError, ValueError) as error:
        raise TemporaryError(_told(error)) from None


def _text(answer: bytes | str) -> str:
    told = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
    return " ".join(told.split())[:200]


def _told(error: Exception) -> str:
    """A failure in words. Only the system's own are repeated: others may hold the address."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, OSError | str):
        return f"it cannot be reached: {str(cause) or type(cause).__name__}"
    return f"it cannot be reached: {type(cause).__name__}"
