"""Serves the metrics of one rank to Prometheus over HTTP."""

import errno
import logging
import socket
import threading
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Summary, disable_created_metrics
from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app

from dist_seg.errors import ConfigError
from dist_seg.telemetry.events import (
    BadSampleFound,
    BadShardFound,
    CheckpointFailed,
    CheckpointIntervalChosen,
    CheckpointSaved,
    DigestTaken,
    EvalDone,
    Event,
    NonFiniteStep,
    RankTimes,
    RunEnded,
    RunStarted,
    StepDone,
)

logger = logging.getLogger(__name__)

_STEP_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 180.0)
_PORTS_TRIED = 64


class _Server(ThreadingWSGIServer):
    # Two ranks must never share a port: either of them could answer a scrape.
    allow_reuse_port = False


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: a line for every scrape would bury the log of the run."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class PrometheusSink:
    """Turns events into `dist_seg_*` metrics and serves them on `address`:`port` until it is closed.

    requested_port: 0 takes any free port. If the port is taken, the next free one above it is used, with a warning;
    `port` is the one in use. Raises ConfigError for an address or port that this process may not use.
    """

    def __init__(self, *, address: str, requested_port: int, rank: int) -> None:
        self.registry = CollectorRegistry()
        self._metrics = _Metrics(self.registry, rank)
        self._server = _listen(address, requested_port, self.registry)
        self.port = int(self._server.server_port)
        threading.Thread(target=self._server.serve_forever, name="dist-seg-metrics", daemon=True).start()

    def emit(self, event: Event) -> None:
        self._metrics.update(event)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _listen(address: str, requested_port: int, registry: CollectorRegistry) -> WSGIServer:
    if not 0 <= requested_port <= 65535:
        raise ConfigError(
            f"telemetry.prometheus_port: port {requested_port} (the configured one plus the local rank) is not in "
            "0..65535; 0 takes any free port, -1 serves no metrics"
        )
    candidates = [*range(requested_port, min(requested_port + _PORTS_TRIED, 65536)), 0] if requested_port else [0]
    server_class = _Server6 if ":" in address else _Server
    app = make_wsgi_app(registry)
    for port in candidates:
        try:
            server = make_server(address, port, app, server_class, handler_class=_SilentHandler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise ConfigError(
                f"telemetry.prometheus_address: cannot serve metrics at {address}:{port}: {error.strerror or error}; "
                "use 127.0.0.1 to be reachable from this machine only, 0.0.0.0 from other machines"
            ) from error
        if port != requested_port:
            logger.warning(
                "port %d is taken: the metrics are at http://%s:%d/metrics", requested_port, address, server.server_port
            )
        return server
    raise ConfigError(f"telemetry.prometheus_address: no free port at {address}")


class _Metrics:
    """The metrics of a rank, updated by events."""

    def __init__(self, registry: CollectorRegistry, rank: int) -> None:
        # Otherwise every counter has a second series, its time of creation, which nobody here reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has not annotated it
        self._run = _RunMetrics(registry, rank)
        self._steps = _StepMetrics(registry)
        self._data = _DataMetrics(registry)
        self._checkpoints = _CheckpointMetrics(registry)
        self._evaluation = _EvaluationMetrics(registry)
        self._rank_times = _RankTimeMetrics(registry)

    def update(self, event: Event) -> None:
        match event:
            case StepDone():
                self._steps.done(event)
                self._data.replaced_samples.inc(event.replaced)
            case RunStarted():
                self._run.started(event)
                self._steps.step.set(event.step)
            case BadSampleFound():
                self._data.bad_samples.inc()
            case BadShardFound():
                self._data.bad_shards.inc()
            case EvalDone():
                self._evaluation.done(event)
            case CheckpointSaved():
                self._checkpoints.saved(event)
            case CheckpointFailed():
                self._checkpoints.failures.inc()
            case CheckpointIntervalChosen():
                self._checkpoints.interval_chosen(event)
            case RankTimes():
                self._rank_times.update(event)
            case RunEnded():
                self._run.ended.labels(event.outcome).set(1)
            case NonFiniteStep() | DigestTaken():
                pass  # the skipped step's StepDone counts it


class _RunMetrics:
    """The run itself: its size, its start and its end."""

    def __init__(self, registry: CollectorRegistry, rank: int) -> None:
        self._rank = rank
        self.info = Info("dist_seg_run", "The run: device, data and versions", registry=registry)
        self.max_steps = Gauge("dist_seg_max_steps", "Steps that the run will train in total", registry=registry)
        self.world_size = Gauge("dist_seg_world_size", "Number of ranks of the run", registry=registry)
        self.global_batch = Gauge("dist_seg_global_batch", "Samples in a step, over all ranks", registry=registry)
        self.startup_seconds = Gauge(
            "dist_seg_startup_seconds", "Time from the start of the process to its first step", registry=registry
        )
        self.ended = Gauge(
            "dist_seg_run_ended", "1 once the process has ended its part of the run", ["outcome"], registry=registry
        )

    def started(self, event: RunStarted) -> None:
        labels = {"rank": str(self._rank), "device": event.device, "manifest_hash": event.manifest_hash}
        versions = {f"version_{_label(name)}": text for name, text in event.versions.items()}
        self.info.info({**versions, **labels})
        self.max_steps.set(event.max_steps)
        self.world_size.set(event.world_size)
        self.global_batch.set(event.global_batch)
        self.startup_seconds.set(event.startup_s)


class _StepMetrics:
    """Training steps: loss, learning rate and time."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"dist_seg_{name}", text, registry=registry)

        self.step = gauge("step", "Steps trained so far, including those of earlier processes of the run")
        self.epoch = gauge("epoch", "Epoch of the last step")
        self.loss = gauge("loss", "Training loss of the last step, mean over all micro-batches of all ranks")
        self.learning_rate = gauge("learning_rate", "Learning rate of the last step")
        self.gradient_norm = gauge("gradient_norm", "L2 norm of the gradient of the last step, before clipping")
        self.loss_part = Gauge("dist_seg_loss_part", "One term of the training loss", ["part"], registry=registry)
        self.steps = Counter("dist_seg_steps_total", "Steps done by this process", registry=registry)
        self.skipped_steps = Counter(
            "dist_seg_skipped_steps_total",
            "Steps skipped because the loss or the gradient was not finite",
            registry=registry,
        )
        self.samples = Counter("dist_seg_samples_total", "Training samples of this rank", registry=registry)
        self.step_seconds = Histogram(
            "dist_seg_step_seconds", "Wall time of a step", buckets=_STEP_BUCKETS_S, registry=registry
        )
        phase_seconds = Counter(
            "dist_seg_step_phase_seconds_total",
            "Time of the steps by phase; phases do not overlap and add up to the time of the steps",
            ["phase"],
            registry=registry,
        )
        self.data_wait = phase_seconds.labels("data_wait")
        self.compute = phase_seconds.labels("compute")
        self.other = phase_seconds.labels("other")
        compute_seconds = Counter(
            "dist_seg_compute_seconds_total", "Time of the phase `compute` by part", ["part"], registry=registry
        )
        self.forward = compute_seconds.labels("forward")
        self.backward = compute_seconds.labels("backward")
        self.optimizer = compute_seconds.labels("optimizer")

    def done(self, event: StepDone) -> None:
        compute_s = event.forward_s + event.backward_s + event.optimizer_s
        self.step.set(event.step)
        self.epoch.set(event.epoch)
        self.loss.set(event.loss)
        self.learning_rate.set(event.lr)
        self.gradient_norm.set(event.grad_norm)
        for part, value in event.parts.items():
            self.loss_part.labels(part).set(value)
        self.steps.inc()
        if event.skipped:
            self.skipped_steps.inc()
        self.samples.inc(event.samples)
        self.step_seconds.observe(event.step_s)
        self.data_wait.inc(event.data_wait_s)
        self.compute.inc(compute_s)
        self.other.inc(max(0.0, event.step_s - event.data_wait_s - compute_s))
        self.forward.inc(event.forward_s)
        self.backward.inc(event.backward_s)
        self.optimizer.inc(event.optimizer_s)


class _DataMetrics:
    """Training data that could not be used."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.bad_samples = Counter(
            "dist_seg_bad_samples_total", "Samples that this rank could not decode", registry=registry
        )
        self.bad_shards = Counter(
            "dist_seg_bad_shards_total", "Training shards whose samples are replaced (rank 0)", registry=registry
        )
        self.replaced_samples = Counter(
            "dist_seg_replaced_samples_total",
            "Samples of this rank that replaced samples of bad shards",
            registry=registry,
        )


class _CheckpointMetrics:
    """Checkpoints; only rank 0 has values."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stall = Summary(
            "dist_seg_checkpoint_stall_seconds",
            "Time that training waited for a checkpoint (rank 0)",
            ["engine"],
            registry=registry,
        )
        self.write = Summary(
            "dist_seg_checkpoint_write_seconds",
            "Time to write a checkpoint while training continues (rank 0)",
            ["engine"],
            registry=registry,
        )
        self.step = Gauge("dist_seg_checkpoint_step", "Step of the newest whole checkpoint (rank 0)", registry=registry)
        self.interval = Gauge(
            "dist_seg_checkpoint_interval_seconds",
            "Training time between two checkpoints, as chosen for checkpoint.interval_steps=auto (rank 0)",
            registry=registry,
        )
        self.cost = Gauge(
            "dist_seg_checkpoint_cost_seconds",
            "Measured cost of a checkpoint to the training, stall and slower steps, behind that choice (rank 0)",
            registry=registry,
        )
        self.failures = Counter(
            "dist_seg_checkpoint_failures_total", "Checkpoints that could not be written (rank 0)", registry=registry
        )

    def saved(self, event: CheckpointSaved) -> None:
        self.stall.labels(event.engine).observe(event.stall_s)
        self.write.labels(event.engine).observe(event.write_s)
        self.step.set(event.step)

    def interval_chosen(self, event: CheckpointIntervalChosen) -> None:
        self.interval.set(event.interval_s)
        self.cost.set(event.cost_s)


class _EvaluationMetrics:
    """The last evaluation of every split."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Summary("dist_seg_evaluation_seconds", "Time of an evaluation", registry=registry)
        self.step = Gauge("dist_seg_evaluation_step", "Step of the last evaluation", ["split"], registry=registry)
        self.images = Gauge(
            "dist_seg_evaluation_images", "Number of images in the last evaluation", ["split"], registry=registry
        )
        self.score = Gauge(
            "dist_seg_evaluation_score",
            "Score of the last evaluation, such as metric=miou or metric=mask_ap",
            ["metric", "split", "weights"],
            registry=registry,
        )
        self.class_score = Gauge(
            "dist_seg_evaluation_class_score",
            "Score of one class in the last evaluation, such as metric=iou or metric=mask_ap",
            ["metric", "class", "split", "weights"],
            registry=registry,
        )

    def done(self, event: EvalDone) -> None:
        self.seconds.observe(event.eval_s)
        self.step.labels(event.split).set(event.step)
        self.images.labels(event.split).set(event.images)
        for name, value in event.metrics.items():
            metric, _, class_name = name.partition("/")
            if class_name:
                self.class_score.labels(metric, class_name, event.split, event.weights).set(value)
            else:
                self.score.labels(metric, event.split, event.weights).set(value)


class _RankTimeMetrics:
    """The own times of every rank, all served by rank 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Gauge(
            "dist_seg_rank_seconds",
            "A rank's own time for a micro-batch by part, without waiting for other ranks (served by rank 0)",
            ["rank", "part"],
            registry=registry,
        )
        self.straggler_ratio = Gauge(
            "dist_seg_straggler_ratio",
            "Own time of the slowest rank divided by the median of all ranks (served by rank 0)",
            registry=registry,
        )

    def update(self, event: RankTimes) -> None:
        for part, by_rank in event.by_part.items():
            for rank, seconds in enumerate(by_rank):
                self.seconds.labels(str(rank), part).set(seconds)
        self.straggler_ratio.set(event.straggler_ratio)


def _label(name: str) -> str:
    """The name with every character replaced that Prometheus does not allow in a label."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)
