"""What people are told of an alarm, in the words and forms of each sink. Pure.

Chat messages after Slack's "Sending messages using incoming webhooks", of which only `text` is
used, since that is what others understand too.
"""

import json
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime

from aios.monitoring.watching import Raised, Resolved
from aios.records.alerts import AlertMessage, EmailAlert
from aios.records.watching import Watch


def message_of(
    watch: Watch, action: Raised | Resolved, alert_id: str, now_s: float
) -> AlertMessage:
    """What is told of an alarm. Evidence is left out: it may hold values of people."""
    alarm = action.alarm
    raised = isinstance(action, Raised)
    return AlertMessage(
        id=alert_id,
        type="alarm.raised" if raised else "alarm.resolved",
        at_s=now_s,
        endpoint=watch.spec.endpoint,
        watch=watch.id,
        alarm=alarm.id,
        condition=alarm.condition,
        subject=alarm.finding.subject,
        score=alarm.finding.score,
        reason=action.reason if isinstance(action, Resolved) else alarm.finding.reason,
        since_s=alarm.since_s,
    )


def title(message: AlertMessage) -> str:
    """One line: what, where."""
    what = "Alarm" if message.type == "alarm.raised" else "Over"
    return f"{what}: {_line(message.condition)} at endpoint {message.endpoint}"


def body(message: AlertMessage) -> str:
    """A few lines: why, since when, where to look."""
    over = "" if message.type == "alarm.raised" else f"\nOver at {_time(message.at_s)}."
    return (
        f"{_line(message.reason)}\n"
        f"Raised at {_time(message.since_s)}.{over}\n"
        f"{message.alarm} of watch {message.watch}; to look closer: "
        f'rt.monitor("{message.endpoint}")'
    )


def webhook_body(message: AlertMessage) -> bytes:
    """JSON, the same bytes whenever the same message is sent."""
    told = {
        "type": message.type,
        "timestamp": _time(message.at_s),
        "data": message.model_dump(mode="json", exclude={"type", "at_s"}),
    }
    return json.dumps(told).encode()


def slack_body(message: AlertMessage) -> bytes:
    """JSON of one message, in which nothing is a link or calls a channel."""
    text = f"{title(message)}\n{body(message)}"
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(plain, escaped)
    return json.dumps({"text": text}).encode()


def email(message: AlertMessage, sink: EmailAlert) -> EmailMessage:
    """One mail; an alarm and its end are one conversation, and a repeat has the same id."""
    domain = sink.sender.rpartition("@")[2]
    mail = EmailMessage()
    mail["Subject"] = title(message)
    mail["From"] = sink.sender
    mail["To"] = sink.to
    mail["Date"] = format_datetime(datetime.fromtimestamp(message.at_s, UTC))
    mail["Message-ID"] = f"<{message.id}@{domain}>"
    mail["References"] = f"<{message.watch}-{message.alarm}@{domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(body(message))
    return mail


def _line(text: str) -> str:
    return " ".join(text.split())


def _time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
