"""Metrics of one rank for Prometheus, over HTTP."""

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
    # Two ranks must never share a port by accident: their scrapes would be answered by either of them.
    allow_reuse_port = False


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """A line for every scrape would drown the run's own."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class PrometheusSink:
    """Turns events into `dist_seg_*` metrics and serves them on `address`:`port` until it is closed.

    `requested_port` 0 takes any free port. A taken one is a warning, and the next free one above it is used; `port`
    tells which. Raises ConfigError for an address or port that this machine does not let the process use.
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
                "127.0.0.1 is reachable from this machine alone, 0.0.0.0 from outside"
            ) from error
        if port != requested_port:
            logger.warning(
                "port %d is taken: the metrics are at http://%s:%d/metrics", requested_port, address, server.server_port
            )
        return server
    raise ConfigError(f"telemetry.prometheus_address: no free port at {address}")


class _Metrics:
    """The metrics of a rank, and what each event does to them."""

    def __init__(self, registry: CollectorRegistry, rank: int) -> None:
        # They would be a second series beside every counter, of use to nobody here.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has not annotated it
        self._rank = rank
        self._define_training(registry)
        self._define_rest(registry)

    def _define_training(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"dist_seg_{name}", text, registry=registry)

        self.step = gauge("step", "Steps trained so far, those of earlier processes of the run included")
        self.max_steps = gauge("max_steps", "Steps that the run is to train")
        self.epoch = gauge("epoch", "Epoch of the last step")
        self.loss = gauge("loss", "Training loss of the last step, mean over all lanes of all ranks")
        self.learning_rate = gauge("learning_rate", "Learning rate of the last step")
        self.gradient_norm = gauge("gradient_norm", "L2 norm of the gradient of the last step, before clipping")
        self.loss_part = Gauge("dist_seg_loss_part", "A summand of the training loss", ["part"], registry=registry)
        self.steps = Counter("dist_seg_steps_total", "Steps done by this process", registry=registry)
        self.skipped_steps = Counter(
            "dist_seg_skipped_steps_total",
            "Steps left out for a loss or gradient that was not finite",
            registry=registry,
        )
        self.samples = Counter("dist_seg_samples_total", "Training samples of this rank", registry=registry)
        self.step_seconds = Histogram(
            "dist_seg_step_seconds", "Wall time of a step", buckets=_STEP_BUCKETS_S, registry=registry
        )
        phase_seconds = Counter(
            "dist_seg_step_phase_seconds_total",
            "Time of the steps by phase; phases do not overlap and sum to the time of the steps",
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

    def _define_rest(self, registry: CollectorRegistry) -> None:
        self.info = Info("dist_seg_run", "The run: device, data, versions", registry=registry)
        self.world_size = Gauge("dist_seg_world_size", "Ranks of the run", registry=registry)
        self.global_batch = Gauge("dist_seg_global_batch", "Samples of a step over all ranks", registry=registry)
        self.startup_seconds = Gauge(
            "dist_seg_startup_seconds", "Start of the process to its first step", registry=registry
        )
        self.bad_samples = Counter(
            "dist_seg_bad_samples_total", "Samples that this rank could not decode", registry=registry
        )
        self.bad_shards = Counter(
            "dist_seg_bad_shards_total", "Training shards whose samples are replaced (rank 0)", registry=registry
        )
        self.replaced_samples = Counter(
            "dist_seg_replaced_samples_total",
            "Samples of this rank in the place of ones from bad shards",
            registry=registry,
        )
        self.checkpoint_stall = Summary(
            "dist_seg_checkpoint_stall_seconds",
            "What training waited for a checkpoint (rank 0)",
            ["engine"],
            registry=registry,
        )
        self.checkpoint_write = Summary(
            "dist_seg_checkpoint_write_seconds",
            "Time to write a checkpoint beside training (rank 0)",
            ["engine"],
            registry=registry,
        )
        self.checkpoint_step = Gauge(
            "dist_seg_checkpoint_step", "Step of the newest whole checkpoint (rank 0)", registry=registry
        )
        self.checkpoint_interval = Gauge(
            "dist_seg_checkpoint_interval_seconds",
            "Training between two checkpoints, as chosen for checkpoint.interval_steps=auto (rank 0)",
            registry=registry,
        )
        self.checkpoint_cost = Gauge(
            "dist_seg_checkpoint_cost_seconds",
            "What a checkpoint costs the training, stall and slower steps, as measured for the choice (rank 0)",
            registry=registry,
        )
        self.checkpoint_failures = Counter(
            "dist_seg_checkpoint_failures_total", "Checkpoints that could not be written (rank 0)", registry=registry
        )
        self.evaluation_seconds = Summary("dist_seg_evaluation_seconds", "Time of an evaluation", registry=registry)
        self.evaluation_step = Gauge(
            "dist_seg_evaluation_step", "Step of the last evaluation", ["split"], registry=registry
        )
        self.evaluation_images = Gauge(
            "dist_seg_evaluation_images", "Images of the last evaluation", ["split"], registry=registry
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
        self.rank_seconds = Gauge(
            "dist_seg_rank_seconds",
            "A rank's own time for a micro-batch, without what it waited for other ranks, by part (served by rank 0)",
            ["rank", "part"],
            registry=registry,
        )
        self.straggler_ratio = Gauge(
            "dist_seg_straggler_ratio",
            "Own time of the slowest rank over the median of all ranks (served by rank 0)",
            registry=registry,
        )
        self.ended = Gauge(
            "dist_seg_run_ended", "1 once the process has ended its part of the run", ["outcome"], registry=registry
        )

    def update(self, event: Event) -> None:
        match event:
            case StepDone():
                self._step_done(event)
            case RunStarted():
                self._run_started(event)
            case BadSampleFound():
                self.bad_samples.inc()
            case BadShardFound():
                self.bad_shards.inc()
            case EvalDone():
                self._eval_done(event)
            case CheckpointSaved():
                self.checkpoint_stall.labels(event.engine).observe(event.stall_s)
                self.checkpoint_write.labels(event.engine).observe(event.write_s)
                self.checkpoint_step.set(event.step)
            case CheckpointFailed():
                self.checkpoint_failures.inc()
            case CheckpointIntervalChosen():
                self.checkpoint_interval.set(event.interval_s)
                self.checkpoint_cost.set(event.cost_s)
            case RankTimes():
                self._rank_times(event)
            case RunEnded():
                self.ended.labels(event.outcome).set(1)
            case NonFiniteStep() | DigestTaken():
                pass  # the skipped step's StepDone counts it

    def _run_started(self, event: RunStarted) -> None:
        labels = {"rank": str(self._rank), "device": event.device, "manifest_hash": event.manifest_hash}
        versions = {f"version_{_label(name)}": text for name, text in event.versions.items()}
        self.info.info({**versions, **labels})
        self.step.set(event.step)
        self.max_steps.set(event.max_steps)
        self.world_size.set(event.world_size)
        self.global_batch.set(event.global_batch)
        self.startup_seconds.set(event.startup_s)

    def _step_done(self, event: StepDone) -> None:
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
        self.replaced_samples.inc(event.replaced)
        self.step_seconds.observe(event.step_s)
        self.data_wait.inc(event.data_wait_s)
        self.compute.inc(compute_s)
        self.other.inc(max(0.0, event.step_s - event.data_wait_s - compute_s))
        self.forward.inc(event.forward_s)
        self.backward.inc(event.backward_s)
        self.optimizer.inc(event.optimizer_s)

    def _eval_done(self, event: EvalDone) -> None:
        self.evaluation_seconds.observe(event.eval_s)
        self.evaluation_step.labels(event.split).set(event.step)
        self.evaluation_images.labels(event.split).set(event.images)
        for name, value in event.metrics.items():
            metric, _, class_name = name.partition("/")
            if class_name:
                self.class_score.labels(metric, class_name, event.split, event.weights).set(value)
            else:
                self.score.labels(metric, event.split, event.weights).set(value)

    def _rank_times(self, event: RankTimes) -> None:
        for part, by_rank in event.by_part.items():
            for rank, seconds in enumerate(by_rank):
                self.rank_seconds.labels(str(rank), part).set(seconds)
        self.straggler_ratio.set(event.straggler_ratio)


def _label(name: str) -> str:
    """A label name that Prometheus takes."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)
