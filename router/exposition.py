"""What processes tell of themselves, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric, generate_latest
from prometheus_client.registry import Collector

from node.metrics import gauge
from router.processes import Told

_TOTAL = "_total"


class _Merged(Collector):
    """The families of many processes, each once, with the samples of all."""

    def __init__(self, told: Told) -> None:
        self._told = told

    def collect(self) -> Iterable[Metric]:
        merged: dict[str, Metric] = {}
        for process, metrics in self._told:
            up = gauge("pobox_up", "Whether the process answers", float(metrics is not None))
            for family in [up, *(metrics.families if metrics is not None else ())]:
                metric = merged.get(family.name)
                if metric is None:
                    name = family.name.removesuffix(_TOTAL) if family.kind == "counter" else family.name
                    metric = merged[family.name] = Metric(name, family.help, family.kind)
                for sample in family.samples:
                    metric.add_sample(sample.name, {**sample.labels, process.label: process.value}, sample.value)
        return [merged[name] for name in sorted(merged)]


def exposition(told: Told) -> bytes:
    """The text for what was told. Pure."""
    return generate_latest(_Merged(told))
