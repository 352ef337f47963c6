"""Puts data, model, checkpoint and callbacks of one run together around the loop."""

import contextlib
import dataclasses
import functools
import logging
import os
import random
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbig.data.feeds.feed import Feed
from tfbig.data.source import Source
from tfbig.errors import NotBuiltError, UserError
from tfbig.placement.control.preflight import compare
from tfbig.placement.owner.owner_updates import make_updates
from tfbig.placement.parameter_server.evaluator_task import EvaluatorTask
from tfbig.placement.parameter_server.parameter_server import ParameterServer
from tfbig.placement.placement import Placement
from tfbig.programs.keras.builder import KerasBuilder
from tfbig.programs.model_fn.model_fn_program import ModelFnProgram, is_estimator_style
from tfbig.programs.model_fn.spec import ModeKeys
from tfbig.programs.model_fn.watched import Watched
from tfbig.programs.program import Program
from tfbig.run_config import RunConfig
from tfbig.training.build import build_program
from tfbig.training.callbacks.callback import RunInfo
from tfbig.training.callbacks.choice import callbacks_of
from tfbig.training.callbacks.runner import CallbackRunner
from tfbig.training.checkpoints.checkpoints import Checkpoints, Restored
from tfbig.training.checkpoints.late_tables import late_tables
from tfbig.training.checkpoints.resuming import Start, broadcast_assign, is_done, resume
from tfbig.training.evaluation.evaluator import Evaluator
from tfbig.training.evaluation.follower import follow
from tfbig.training.evaluation.found_elsewhere import evaluations_elsewhere
from tfbig.training.feeds import described_feed, feed_of_run
from tfbig.training.loop.agreement import Agreement, Plan, broadcast_variables
from tfbig.training.loop.loop import Loop
from tfbig.training.loop.preemption import Preemption
from tfbig.training.loop.running import loop_function_for
from tfbig.training.loop.schedule import Schedule, end_of, end_of_data
from tfbig.training.loop.tensor_fetcher import TensorFetcher
from tfbig.training.model_from_ps import fetch_model_from_ps
from tfbig.training.result import TrainResult
from tfbig.training.same_everywhere import described_program
from tfbig.training.seeds import set_seed
from tfbig.training.step.compile_choice import choose_jit
from tfbig.training.step.own_train_step import checked_program

log = logging.getLogger("tfbig")

_EVALUATE_STEPS = 1000  # where the length of the data is not known


class TrainingSession:
    """One call of train_distributed: `read_data`, `build_model`, `train`, in this order.

    Args:
        config: checked.
        model_dir: or None.
        placement: where.
        params: handed to model_fn.
        limit: how many steps a new run has, where max_steps does not tell.
        repeats: a run that has ended is followed by a new one, on data from their start, as
            tf.estimator's `train` does; otherwise it stays ended.
    """

    def __init__(
        self,
        *,
        config: RunConfig,
        model_dir: str | None,
        placement: Placement,
        params: Any,
        limit: int | None = None,
        repeats: bool = False,
    ):
        self._config, self._model_dir = config, model_dir
        self._placement, self._params = placement, params
        self._peers = placement.peers
        of_servers = placement.name in ("parameter_server", "evaluator")
        if config.max_staleness is not None and not of_servers:
            raise UserError(
                f"RunConfig.max_staleness={config.max_staleness} is for "
                f'strategy="parameter_server", and this is "{placement.name}"; leave it None.'
            )
        keep, writes = config.keep_checkpoint_max, self._peers.is_chief
        self._checkpoints = Checkpoints(model_dir, keep, writes, late_tables(placement, config))
        self._preemption = Preemption()
        self._checkpoints.clear_up()
        self._seed = self._choose_seed()
        self._eval_feed: Feed | None = None
        self._limit, self._repeats = limit, repeats
        self._initializers: list[Callable] = []
        self._eval_steps: int | None = None
        self._eval_hooks: Callable | None = None
        self.watched: Watched | None = None

    def read_data(
        self,
        read: Callable[[], tf.data.Dataset | Source],
        read_eval: Callable[[], tf.data.Dataset | Source] | None,
        *,
        max_steps: int | None,
        epochs: int | None,
    ) -> None:
        """Calls the input functions and settles when the run ends.

        Raises:
            UserError: the data cannot be used.
        """
        self._max_steps, self._epochs = max_steps, epochs
        replicas = self._placement.local_replicas
        data = read()
        self._cleaning = getattr(data, "cleaning", None)
        self._cleaning_is_all = self._cleaning is not None and not (
            data.mapped_after_cleaning or data.augmentation
        )
        self._feed = self._make_feed(data, replicas * self._config.accumulation_steps, True)
        if read_eval is not None:
            data = read_eval()
            try:
                self._eval_feed = self._make_feed(data, replicas, False)
            except UserError as error:
                raise UserError(f"eval_input_fn: {error}") from error
        limits = {"max_steps": str(max_steps), "epochs": str(epochs)}
        feeds = {"input_fn": self._feed, "eval_input_fn": self._eval_feed}
        compare(self._peers, {**limits, **{k: described_feed(feed) for k, feed in feeds.items()}})

    def build_model(self, model_fn: Callable | keras.Model) -> None:
        """Makes the program and all its variables, where they will be trained.

        Raises:
            UserError: the model cannot be used, or does not fit the data.
        """
        if self._config.tf_random_seed is not None:  # whatever input_fn has drawn
            keras.utils.set_random_seed(self._seed)
        placement, precision = self._placement, self._config.precision
        if precision == "float32":  # the default; a policy that the user has set stays
            precision = keras.config.dtype_policy().name
        self._program: Program
        if is_estimator_style(model_fn):
            if self._config.remat:
                raise UserError(
                    "remat=True divides a Keras model into blocks, and model_fn is of estimator "
                    "style; leave remat out, or wrap the function of a block in "
                    "tf.recompute_grad inside model_fn."
                )
            self.watched = Watched(model_fn)
            self._program = ModelFnProgram(
                self.watched, self._params, self._config, placement.scope, precision
            )
        else:
            self._builder = KerasBuilder(model_fn, self._params, precision)
            with placement.scope():
                model = self._builder.build(placement.owns)
                self._program = checked_program(model, placement, self._config, self._feed)
        self._program.updates = make_updates(self._config.model_distribution, placement)
        build_program(self._program, placement, self._feed, training=True)
        placement.check_owned(self._program.named_variables().values())
        if self._eval_feed is not None:
            self._program.check_evaluation(self._eval_feed.element_spec)
        compare(self._peers, described_program(self._program))
        broadcast_variables(self._program, placement)
        if self._program.per_replica_statistics and placement.num_replicas > 1:
            log.info(
                "BatchNormalization normalises over each replica's part of a batch; "
                "synchronized=True would normalise over the whole"
            )

    def train(self, callbacks: Iterable[keras.callbacks.Callback]) -> TrainResult:
        """Trains, from the newest checkpoint if there is one.

        Raises:
            UserError: the run would never end.
        """
        try:
            self._check_ends()
            result = self._train(callbacks)
            if result.model is not None and isinstance(self._placement, ParameterServer):
                spec, step = self._feed.element_spec, result.global_step
                servers = self._placement.servers
                model = fetch_model_from_ps(self._builder, self._program, spec, step, servers)
                result = dataclasses.replace(result, model=model)
            return result
        finally:  # the loop closes what it trains on, if it comes to run
            self._close_feeds()

    def _check_ends(self) -> None:
        limited = self._max_steps is not None or self._limit is not None  # hooks set them too
        if getattr(self._feed, "infinite", False) and not limited:
            limit = f"epochs={self._epochs}" if self._epochs else "neither max_steps nor epochs"
            raise UserError(
                f"input_fn returned an infinite Dataset, and {limit} would never end it; give "
                "max_steps, or leave out .repeat()."
            )

    def _train(self, callbacks: Iterable[keras.callbacks.Callback]) -> TrainResult:
        callbacks = callbacks_of(callbacks, self._program, self._peers.is_chief)
        runner = CallbackRunner(callbacks, self._program.callback_model())
        alone = self._placement.name not in ("multi_worker", "parameter_server")
        if not alone and runner.guard is not None and runner.guard.find_op:
            raise NotBuiltError(
                f'NaNGuard(find_op=True) is not built yet for strategy="{self._placement.name}"; '
                "leave find_op out, or go on with this model_dir on one device, which does the "
                "same steps."
            )
        agreement = Agreement(self._program, self._placement, callbacks)
        start = resume(
            self._program, self._checkpoints, self._peers, self._feed, repeats=self._repeats
        )
        self._program.settle()
        if start.last is None and not start.step:
            self._initialize()
        mine = None
        if self._peers.is_chief:
            guarded, jit = runner.guard is not None, self._choose_jit(start.last)
            need_epochs = runner.need_epochs or self._program.has_running_metrics
            mine = Plan(need_epochs, runner.may_stop, guarded, jit, *runner.ends)
        plan = Plan(*agreement.share(mine))
        if not plan.guarded:
            runner.guard = None
        schedule, passes = self._schedule(plan, start)
        done = start.last is not None and is_done(start, schedule, plan.may_stop, self._model_dir)
        jit = plan.jit
        make_calls = functools.partial(
            loop_function_for(self._placement, self._config, training=True),
            self._program,
            self._placement,
            self._feed,
            training=True,
            config=self._config,
            insist=self._config.jit_compile is True,
        )
        self._program.enter(start.step)
        keep = {"seed": self._seed, "settings": self._program.settings(), "began": start.began}
        loop = Loop(
            self._program,
            self._placement,
            self._feed,
            make_calls=make_calls,
            look=TensorFetcher(self._program, self._placement, self._feed, self.watched),
            evaluator=self._evaluator(jit),
            elsewhere=evaluations_elsewhere(self._placement, self._model_dir),
            checkpoints=self._checkpoints,
            callbacks=runner,
            schedule=schedule,
            passes=passes,
            agreement=agreement,
            run=self._run_info(start),
            config=self._config,
            keep=keep,
            start=start.step,
            restored=start.last if done else start.restored,
            jit=jit,
        )
        if done:
            return self._with_cleaning(loop.already_done())
        loop.read_first()
        self._checkpoints.make_writable()
        if self._cleaning is not None and self._model_dir is not None and self._peers.is_chief:
            self._cleaning.save(os.path.join(self._model_dir, "cleaning.json"))
        log.info("training on %s from step %d", self._placement.describe(), start.step)
        with self._preemption.watching() as preemption:
            return self._with_cleaning(loop.run(preemption))

    def follow(self, task: EvaluatorTask) -> TrainResult:
        """Evaluates what another task trains, in the place of `train`; see `follow`."""
        try:
            evaluator = self._evaluator(jit=self._config.jit_compile is True)
            return follow(task, self._program, evaluator, self._checkpoints)
        finally:
            self._close_feeds()

    def _evaluator(self, jit: bool) -> Evaluator | None:
        if self._eval_feed is None:
            return None
        hooks = self._eval_hooks and self._eval_hooks()
        where = self._program, self._placement, self._eval_feed
        return Evaluator(*where, self._config, jit, self._eval_steps, hooks, "eval_input_fn")

    def _close_feeds(self) -> None:
        for feed in (self._feed, self._eval_feed):
            if feed is not None:
                feed.close()

    def limit(self, steps: int | None, last: int | None) -> None:
        """Ends the run after a number of steps, or at a step, unless it ends before."""
        known = [s for s in (steps, self._limit) if s is not None]
        self._limit = min(known, default=None)
        known = [s for s in (last, self._max_steps) if s is not None]
        self._max_steps = min(known, default=None)

    def save_every(self, steps: int | None, secs: float | None) -> None:
        """Sets when checkpoints are written, in the place of what the config says."""
        fields = {"save_checkpoints_steps": steps, "save_checkpoints_secs": secs}
        self._config = dataclasses.replace(self._config, **fields)

    def keep_checkpoints(self, count: int) -> None:
        """Sets how many checkpoints stay, in the place of what the config says."""
        self._checkpoints.keep = count

    def evaluate_with(self, steps: int | None, hooks: Callable[[TensorFetcher], Any]) -> None:
        """Sets how many batches an evaluation reads, and what makes its hooks."""
        self._eval_steps = steps
        self._eval_hooks = lambda: hooks(
            TensorFetcher(
                self._program, self._placement, self._eval_feed, self.watched, ModeKeys.EVAL
            )
        )

    @property
    def model_dir(self) -> str | None:
        """Where the run is kept, or None."""
        return self._model_dir

    def initialize_by(self, initialize: Callable[[Program], dict[str, np.ndarray] | None]) -> None:
        """Sets what a run that has no checkpoint yet takes its first values from.

        Args:
            initialize: returns values by name in `Program.named_variables`; called on the chief.
        """
        self._initializers.append(initialize)

    def _initialize(self) -> None:
        for initialize in self._initializers:
            values = initialize(self._program) if self._peers.is_chief else None
            broadcast_assign(self._program, values, self._peers)

    def watching(self) -> contextlib.AbstractContextManager:
        """Handles signals from now on where other tasks have to hear of them, else in `train`."""
        return self._preemption.watching() if self._peers.count > 1 else contextlib.nullcontext()

    def _with_cleaning(self, result: TrainResult) -> TrainResult:
        return dataclasses.replace(
            result, cleaning=self._cleaning, cleaning_is_all=self._cleaning_is_all
        )

    def _choose_seed(self) -> int:
        """The config's seed, the checkpoint's, or a new one; sets it before anything is drawn."""
        seed = self._config.tf_random_seed
        if seed is None:
            if self._peers.is_chief:
                kept = self._checkpoints.metadata()
                seed = kept[1]["seed"] if kept else random.randrange(2**31)
            seed = self._peers.broadcast(seed)
        set_seed(self._config.tf_random_seed, seed)
        if isinstance(self._placement, ParameterServer):
            parts = self._placement.workers if self._config.max_staleness == 0 else 1
            self._placement.begin(seed=seed, parts=parts, blocks=self._placement.workers)
        return seed

    def _make_feed(self, data: tf.data.Dataset | Source, multiple: int, training: bool) -> Feed:
        return feed_of_run(
            data, self._placement, self._config, self._seed, multiple, training=training
        )

    def _schedule(self, plan: Plan, start: Start) -> tuple[Schedule, int | None]:
        config, length = self._config, self._feed.steps_per_pass
        if self._limit is not None:
            self.limit(None, start.began + self._limit)
        elif self._max_steps is None and self._repeats and length:
            self._max_steps = start.began + length  # one pass
        end, passes = end_of(self._max_steps, self._epochs, length, self._feed.repeats)
        evaluate = config.eval_every_steps or length or _EVALUATE_STEPS
        schedule = Schedule(
            end=end,
            log=config.log_step_count_steps,
            summary=config.save_summary_steps if self._model_dir else None,
            checkpoint=config.save_checkpoints_steps if self._model_dir else None,
            evaluate=evaluate if self._eval_feed is not None else None,
            epoch=(length or evaluate) if plan.need_epochs else None,
            phases=self._program.phases,
            start=start.step,
            others=tuple(plan.stops),
            frequencies=tuple(plan.frequencies),
            marks=tuple(plan.steps),
        )
        return schedule, passes

    def _run_info(self, start: Start) -> RunInfo:
        return RunInfo(
            model_dir=self._model_dir,
            max_steps=self._max_steps,
            steps_per_epoch=self._feed.steps_per_pass,
            epochs=1 if self._max_steps is None and self._epochs is None else self._epochs,
            log_steps=self._config.log_step_count_steps,
            summary_steps=self._config.save_summary_steps,
            start_step=start.step,
            batch_size=self._feed.batch_size,
            num_replicas=self._placement.num_replicas,
            data_end=end_of_data(self._epochs, self._feed, start.data_began),
        )

    def _choose_jit(self, restored: Restored | None) -> bool:
        if restored and self._config.jit_compile == "auto":
            return restored.metadata["loop"]["jit"]
        return choose_jit(self._program, self._placement, self._feed, self._config)
