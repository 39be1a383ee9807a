"""The kinds of metrics, whose values a full disk can't turn into a SIGBUS.

Every metric is made from these, never from prometheus_client's own: whichever module declares the
first metric of a process, the files of its values are `MetricFile`s by then.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from supervision.telemetry import metric_file

__all__ = ["Counter", "Gauge", "Histogram"]

metric_file.install()
