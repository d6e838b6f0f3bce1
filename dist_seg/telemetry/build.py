"""Builds the sinks of a rank from the configuration."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_seg.config.schema import TelemetryConfig
from dist_seg.errors import ConfigError
from dist_seg.runtime.dotted_path import import_function
from dist_seg.telemetry.console import ConsoleSink
from dist_seg.telemetry.events import Event, Sink
from dist_seg.telemetry.jsonl import JsonLinesSink
from dist_seg.telemetry.prometheus import PrometheusSink
from dist_seg.telemetry.tensorboard import TensorBoardSink

logger = logging.getLogger(__name__)
_SINKS = "telemetry.sinks"


class FanOut:
    """Passes every event to all sinks. A sink that raises is named in the log, closed and not called again."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.sinks = list(sinks)

    def emit(self, event: Event) -> None:
        for sink in tuple(self.sinks):
            try:
                sink.emit(event)
            except Exception:
                logger.exception("%s failed and gets no more events; training continues", _name(sink))
                self.sinks.remove(sink)
                _close(sink)

    def close(self) -> None:
        while self.sinks:
            _close(self.sinks.pop(0))


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """The sinks of a rank, and the port of its metrics."""

    sink: FanOut
    prometheus_port: int | None
    """None if no metrics are served."""


def build_sinks(cfg: TelemetryConfig, run_dir: Path, *, rank: int, local_rank: int) -> Telemetry:
    """The sinks of a rank. Every rank writes a log and serves metrics. Progress, TensorBoard and the user's own sinks
    are on rank 0 only.

    Raises ConfigError for a dotted path, address or port that cannot be used, and UserError if an extra is not
    installed.
    """
    sinks: list[Sink] = [JsonLinesSink(run_dir, rank=rank, log_interval_steps=cfg.log_interval_steps)]
    port: int | None = None
    try:
        if cfg.prometheus_port >= 0:
            requested = cfg.prometheus_port + local_rank if cfg.prometheus_port else 0
            prometheus = PrometheusSink(address=cfg.prometheus_address, requested_port=requested, rank=rank)
            sinks.append(prometheus)
            port = prometheus.port
        if rank == 0:
            sinks.append(ConsoleSink())
            if cfg.tensorboard:
                sinks.append(TensorBoardSink(run_dir, log_interval_steps=cfg.log_interval_steps))
            sinks.extend(_user_sink(path, run_dir) for path in cfg.sinks)
    except BaseException:
        FanOut(sinks).close()
        raise
    return Telemetry(sink=FanOut(sinks), prometheus_port=port)


def check_sinks(cfg: TelemetryConfig) -> None:
    """Raises the errors of `build_sinks` that can be found without a run. Leaves nothing behind."""
    for path in cfg.sinks:
        import_function(path, _SINKS)
    if cfg.tensorboard:
        with tempfile.TemporaryDirectory() as folder:
            TensorBoardSink(Path(folder)).close()
    if cfg.prometheus_port >= 0:
        PrometheusSink(address=cfg.prometheus_address, requested_port=cfg.prometheus_port, rank=0).close()


def _user_sink(path: str, run_dir: Path) -> Sink:
    """The sink of a dotted path such as `my_package.wandb_sink:build`."""
    try:
        sink = import_function(path, _SINKS)(run_dir)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"telemetry.sinks: {path} raised {type(error).__name__}: {error}") from error
    for method in ("emit", "close"):
        if not callable(getattr(sink, method, None)):
            raise ConfigError(
                f"telemetry.sinks: {path} returned a {type(sink).__name__}, which has no method {method}()"
            )
    assert isinstance(sink, Sink)
    return sink


def _name(sink: Sink) -> str:
    return f"{type(sink).__module__}.{type(sink).__qualname__}"


def _close(sink: Sink) -> None:
    try:
        sink.close()
    except Exception:
        logger.exception("%s failed to close", _name(sink))
