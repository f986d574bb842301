"""OpenTelemetry spans, off unless an OTLP address is configured.

A caller's W3C `traceparent` is taken over; `Span.traceparent` is the one to pass on.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

_OFF: AbstractContextManager[None] = nullcontext()


class Tracer:
    """Opens spans and exports them in the background; does nothing without an address.

    Args:
        otlp_endpoint: OTLP/HTTP base address such as `http://127.0.0.1:4318`, or None.
        service: the `service.name` of the spans.
    """

    def __init__(self, otlp_endpoint: str | None, service: str) -> None:
        self.enabled = otlp_endpoint is not None
        self._tracer: Any = None
        if otlp_endpoint is None:
            return
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._provider = TracerProvider(resource=Resource.create({"service.name": service}))
        exporter = OTLPSpanExporter(f"{otlp_endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("aios")

    def span(
        self, name: str, parent: str | None, attributes: dict[str, Any]
    ) -> AbstractContextManager["Span | None"]:
        """A span under the W3C `parent`; None when tracing is off."""
        return _OFF if self._tracer is None else self._open(name, parent, attributes)

    @contextmanager
    def _open(self, name: str, parent: str | None, attributes: dict[str, Any]) -> Iterator["Span"]:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()
        context = propagator.extract({"traceparent": parent}) if parent else None
        with self._tracer.start_as_current_span(name, context=context) as raw:
            raw.set_attributes(attributes)
            yield Span(raw)

    def flush(self) -> None:
        """Send what is buffered; waits for the collector."""
        if self._tracer is not None:
            self._provider.force_flush()


class Span:
    """An open span."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def set(self, attributes: dict[str, Any]) -> None:
        """Add attributes known only at the end."""
        self._raw.set_attributes(attributes)

    @property
    def traceparent(self) -> str:
        """This span as a W3C header, for the process called next."""
        context = self._raw.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
