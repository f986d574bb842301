"""OpenTelemetry spans, off unless an OTLP address is configured.

A caller's W3C `traceparent` is taken over; `Span.traceparent` is the one to pass on. Names of
attributes are those of OpenTelemetry's semantic conventions where there are such; all others begin
with `aios.`.

What takes hours (a run, a rollout) outlives the process that began it, so its span has an id that
follows from its name (`named`) and is written down when it is over (`Tracer.record`): whoever goes
on with it goes on under the same trace.

Spans wait in a queue of 2,048 for a thread that sends them every second; a collector that is down
or slow costs spans and nothing else.
"""

import hashlib
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Thread
from typing import Any

CLOSE_S = 0.5
"""How long the last spans of a process may take to be sent."""
_NO_SPAN: AbstractContextManager[None] = nullcontext()


class Tracer:
    """Opens spans and exports them in the background; does nothing without an address.

    Args:
        otlp_endpoint: OTLP/HTTP base address such as `http://127.0.0.1:4318`, or None.
        service: the `service.name` of the spans.
        ratio: share of the traces that begin here which are sent. A trace that comes from a caller
            is sent if the caller's is.
    """

    def __init__(self, otlp_endpoint: str | None, service: str, ratio: float = 1.0) -> None:
        self.enabled = otlp_endpoint is not None
        self._tracer: Any = None
        if otlp_endpoint is None:
            return
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._resource = Resource.create(
            {
                "service.name": service,
                "service.namespace": "aios",
                "host.name": socket.gethostname(),
                "process.pid": os.getpid(),
            }
        )
        self._provider = TracerProvider(
            resource=self._resource,
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(f"{otlp_endpoint.rstrip('/')}/v1/traces")
        self._processor = BatchSpanProcessor(exporter, schedule_delay_millis=1000)
        self._provider.add_span_processor(self._processor)
        self._scope = InstrumentationScope("aios")
        self._tracer = self._provider.get_tracer("aios")

    def span(
        self,
        name: str,
        parent: str | None,
        attributes: Mapping[str, Any],
        *,
        server: bool = False,
    ) -> AbstractContextManager["Span | None"]:
        """A span under the W3C `parent`, or under the span that is open in this task; None when
        tracing is off. `server` is for one that answers a request from outside."""
        if self._tracer is None:
            return _NO_SPAN
        return self._open(name, parent, attributes, server)

    @contextmanager
    def _open(
        self, name: str, parent: str | None, attributes: Mapping[str, Any], server: bool
    ) -> Iterator["Span"]:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()
        context = propagator.extract({"traceparent": parent}) if parent else None
        kind = SpanKind.SERVER if server else SpanKind.INTERNAL
        with self._tracer.start_as_current_span(name, context=context, kind=kind) as raw:
            raw.set_attributes(attributes)
            try:
                yield Span(raw)
            except BaseException as error:
                raw.set_attribute("error.type", type(error).__name__)
                raise

    @property
    def traceparent(self) -> str | None:
        """The span that is open in this task, as a W3C header; None if there is none."""
        if self._tracer is None:
            return None
        from opentelemetry.trace import get_current_span

        span = get_current_span()
        return Span(span).traceparent if span.get_span_context().is_valid else None

    def record(
        self,
        name: str,
        identity: str,
        parent: str | None,
        start_s: float,
        end_s: float,
        attributes: Mapping[str, Any],
        error: str | None = None,
    ) -> None:
        """Send a span of something that is over. Told again, it is the same span.

        Args:
            identity: the span's own id and its trace's, as `named` gives them.
            parent: that of the span above, if there is one.
            start_s, end_s: Unix seconds.
            error: why it went wrong, if it did.
        """
        if self._tracer is None:
            return
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace.status import Status, StatusCode

        kept = {key: value for key, value in attributes.items() if value is not None}
        self._processor.on_end(
            ReadableSpan(
                name,
                context=_context(identity),
                parent=None if parent is None else _context(parent),
                resource=self._resource,
                attributes=kept,
                status=Status(StatusCode.UNSET if error is None else StatusCode.ERROR, error),
                start_time=int(start_s * 1e9),
                end_time=int(max(start_s, end_s) * 1e9),
                instrumentation_scope=self._scope,
            )
        )

    def flush(self) -> None:
        """Send what is buffered; waits for the collector."""
        if self._tracer is not None:
            self._provider.force_flush()

    def close(self) -> None:
        """Send what is buffered, but wait no longer than `CLOSE_S` for the collector."""
        if self._tracer is not None:
            last = Thread(target=self._provider.force_flush, name="aios-spans", daemon=True)
            last.start()
            last.join(CLOSE_S)


OFF = Tracer(None, "")
"""Opens nothing."""


class Span:
    """An open span."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def set(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes known only at the end; those that are None are left out."""
        self._raw.set_attributes({k: value for k, value in attributes.items() if value is not None})

    def fail(self, reason: str) -> None:
        """What it is about went wrong, and nothing was raised."""
        from opentelemetry.trace.status import Status, StatusCode

        self._raw.set_status(Status(StatusCode.ERROR, reason))

    @property
    def traceparent(self) -> str:
        """This span as a W3C header, for the process called next."""
        context = self._raw.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def named(name: str, parent: str | None = None) -> str:
    """The `traceparent` of the span with this name, which nothing else may have: in `parent`'s
    trace, else in one of its own.

    >>> named("run loan-run-1")
    '00-d87fb4fe313183c9540408c68a443ceb-02b15f362ebb3a59-01'
    """
    digest = hashlib.sha256(name.encode()).hexdigest()
    trace = digest[:32] if parent is None else parent.split("-")[1]
    return f"00-{trace}-{digest[32:48]}-01"


def _context(traceparent: str) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    _, trace, span, _ = traceparent.split("-")
    return SpanContext(int(trace, 16), int(span, 16), is_remote=False, trace_flags=TraceFlags(1))
