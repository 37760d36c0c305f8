"""What a sync tells of itself, for Prometheus: its library is needed for that alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plait.sync.progress import Progress
from plait.watch import exporter


class Metrics(Collector):
    """The progress of one sync."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def describe(self) -> list[Metric]:
        """Nothing is known before the first scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        told = self._progress
        for name, text, value in (
            ("plait_sync_lag_seconds", "Since all that the store had was in force", told.lag()),
            ("plait_sync_position", "How far the store was read", told.position),
            ("plait_sync_store_up", "1 while the store answers", told.is_reading),
        ):
            yield self._gauge(name, text, value)
        for name, text, value in (
            ("plait_sync_applied", "Changes that the engine took", told.applied),
            ("plait_sync_refused", "Rows that are no peers, or that the engine refused", told.refused),
            ("plait_sync_snapshots", "Times that all rows were read", told.snapshots),
        ):
            yield self._counter(name, text, value)
        if (knocks := told.knocks) is not None:
            beats = "Times that it beat in the store"
            yield self._counter("plait_sync_beats", beats, knocks.beats)
            sessions = "Sessions that were told to the other gateways"
            yield self._counter("plait_sync_told_sessions", sessions, knocks.sessions)
            dead = "Gateways that are dead, and whose clients may knock here"
            yield self._gauge("plait_sync_dead_gateways", dead, knocks.dead)
            taken = "1 while another gateway beats with this one's number"
            yield self._gauge("plait_sync_number_taken", taken, knocks.is_taken)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        gauge = GaugeMetricFamily(name, text, labels=["interface"])
        gauge.add_metric([self._progress.interface], value)
        return gauge

    def _counter(self, name: str, text: str, value: float) -> Metric:
        counter = CounterMetricFamily(name, text, labels=["interface"])
        counter.add_metric([self._progress.interface], value)
        return counter


def serve(listen: str, progress: Progress) -> str:
    """Serve them at this address in a thread that ends with the program; the page's URL."""
    address, port = exporter.parse_listen(listen)
    registry = CollectorRegistry()
    registry.register(Metrics(progress))
    server = exporter.listening(listen, address, port)
    server.set_app(exporter.pages(make_wsgi_app(registry)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return exporter.url_of(server)
