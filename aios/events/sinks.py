"""Where events go: each kind's sender, by which a batch arrives or the reason is told."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from aios.errors import TemporaryError, UsageError
from aios.events.kafka import KafkaSender
from aios.events.rabbitmq import RabbitSender
from aios.events.secrets import key_of_webhook, secret
from aios.records.cloudevents import STRUCTURED
from aios.records.events import Files, Kafka, RabbitMQ, Sink, Webhook
from aios.security.webhooks import webhook_headers

TIMEOUT_S = 10.0
_REFUSALS = (400, 404, 405, 410, 413, 414, 415, 422)
"""Answers that mean: not this one, whenever it comes. Others may be different later."""

Leaves = tuple[str, str | None, bytes]
"""The id of an event, its key, and its JSON format."""


class Sender(Protocol):
    """One connection to a sink. Not shared between threads."""

    def send(self, events: list[Leaves]) -> None:
        """Send events in order; all have arrived when this returns.

        Raises:
            TemporaryError: one did not; those before it may have.
            UsageError: the sink does not take one, whatever is done.
        """

    def close(self) -> None: ...


class WebhookSender:
    """Posts each event, signed; its id stays the same whenever it is sent again."""

    def __init__(self, url: str, key: bytes | None, now_s: Callable[[], float] = time.time) -> None:
        import httpx

        self._url = url
        self._key = key
        self._now_s = now_s
        self._broken = (httpx.TransportError, httpx.InvalidURL)
        # What was signed for one address is not carried to another.
        self._client = httpx.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)

    def send(self, events: list[Leaves]) -> None:
        for event_id, _, event in events:
            headers = webhook_headers(event_id, self._now_s(), event, self._key)
            try:
                answer = self._client.post(
                    self._url, content=event, headers={**headers, "content-type": STRUCTURED}
                )
            except self._broken as error:
                told = str(error) or type(error).__name__
                raise TemporaryError(f"the webhook cannot be reached: {told}") from None
            if answer.status_code in _REFUSALS:
                raise UsageError(f"the webhook answered {answer.status_code}")
            if not 200 <= answer.status_code < 300:
                raise TemporaryError(f"the webhook answered {answer.status_code}")

    def close(self) -> None:
        self._client.close()


class FilesSender:
    """Writes a file for each event, named by its id, whole or not at all."""

    def __init__(self, url: str) -> None:
        import fsspec

        self._files, self._folder = fsspec.core.url_to_fs(url)
        self._local = "file" in self._files.protocol

    def send(self, events: list[Leaves]) -> None:
        try:
            self._files.makedirs(self._folder, exist_ok=True)
            for event_id, _, event in events:
                name = f"{self._folder}/{quote(event_id, safe='')[:200]}.json"
                # A store of objects shows what is written only when it is whole.
                written = (
                    f"{self._folder}/.{quote(event_id, safe='')[:190]}" if self._local else name
                )
                with self._files.open(written, "wb") as file:
                    file.write(event)
                if written != name:
                    self._files.mv(written, name)
        except OSError as error:
            raise TemporaryError(f"the folder cannot be written: {error}") from None

    def close(self) -> None:
        """Nothing is held."""


def open_sender(sink: Sink, home: Path) -> Sender:
    """Connect to a sink.

    Args:
        home: of the runtime, where secret files are.

    Raises:
        UsageError: a secret is missing, or the client is not installed.
        TemporaryError: it cannot be reached.
    """
    match sink:
        case Webhook(url=str() as url, secret=reference):
            key = None if reference is None else key_of_webhook(reference, home)
            return WebhookSender(url, key)
        case Kafka(password=reference):
            return KafkaSender(sink, None if reference is None else secret(reference, home))
        case RabbitMQ(password=reference):
            return RabbitSender(sink, None if reference is None else secret(reference, home))
        case Files(url=url):
            return FilesSender(url)
        case _:
            raise UsageError(f"{sink.shown} takes no events")
