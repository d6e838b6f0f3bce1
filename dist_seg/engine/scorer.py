"""Scores of a run's weights, each step's once."""

import time
from collections.abc import Callable, Iterable

from torch import nn

from dist_seg.config.schema import Config
from dist_seg.distributed.position import HERE
from dist_seg.engine.build import Trainee
from dist_seg.engine.saver import Saver
from dist_seg.tasks.task import EvalResult
from dist_seg.telemetry.events import EvalDone, Event


class Scorer:
    """Evaluates the weights of a training; every rank has one.

    evaluate: scores a model on the scored split; None if a rank was asked to stop. scored_steps: steps whose weights
    have a score already.
    """

    def __init__(
        self,
        *,
        config: Config,
        trainee: Trainee,
        evaluate: Callable[[nn.Module], EvalResult | None],
        scored_steps: Iterable[int],
        saver: Saver,
        emit: Callable[[Event], None],
    ) -> None:
        self._config, self._trainee, self._evaluate = config, trainee, evaluate
        self._scored_steps, self._saver, self._emit = set(scored_steps), saver, emit
        self.last_result: EvalResult | None = None

    def score(self) -> bool:
        """Evaluates the weights of this step, unless that was done before; False if a signal cut it short.

        The last step is always evaluated, as its result is the run's. A collective.
        """
        step, ema = self._trainee.progress.step, self._trainee.ema
        if step in self._scored_steps and step != self._config.train.max_steps:
            return True
        HERE.at("evaluation", step)
        begin = time.perf_counter()
        with self._trainee.strategy.evaluated(ema) as model:
            result = self._evaluate(model)
        if result is None:
            return False
        self.last_result = result
        self._scored_steps.add(step)
        self._saver.record_score(step, result.score)
        self._emit(
            EvalDone(
                step=step,
                split=self._config.data.scored_split,
                weights="raw" if ema is None else "ema",
                metrics=result.headline,
                score_name=result.score_name,
                images=result.images,
                eval_s=time.perf_counter() - begin,
            )
        )
        return True
