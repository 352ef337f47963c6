"""The loop: when to train, log, evaluate, end an epoch, save and stop."""

import logging
import math
import time
from typing import Any

import tensorflow as tf

from tfbig.data.feeds.feed import Feed, Stack
from tfbig.placement.loop_function import LoopFunction
from tfbig.training.callbacks.runner import CallbackRunner
from tfbig.training.checkpoints.checkpoints import Checkpoints
from tfbig.training.checkpoints.resuming import begin_epoch_again
from tfbig.training.checkpoints.saving import Saving
from tfbig.training.evaluation.evaluator import Evaluator
from tfbig.training.evaluation.found_elsewhere import Evaluations
from tfbig.training.evaluation.points import EvaluationPoints
from tfbig.training.loop.agreement import Agreement, Decision
from tfbig.training.loop.diagnosis import Diagnosis
from tfbig.training.loop.meters import DataWait, Meters, Stopwatch
from tfbig.training.loop.preemption import Preemption
from tfbig.training.loop.schedule import power_of_two
from tfbig.training.loop.skipped_steps import SkippedSteps
from tfbig.training.plan import RunPlan
from tfbig.training.result import TrainResult, note
from tfbig.training.step.step_maker import StepMaker

log = logging.getLogger("tfbig")

_CALL_SECONDS = 0.2  # long enough that a call's own cost is nothing, short enough to stop soon


class TrainLoop:
    """One run of training, from a restored state to its end.

    Args:
        plan: what is trained, on what, and until when.
        checkpoints: where the run is saved.
        callbacks: all that take part.
        agreement: with the other tasks of the run.
        evaluator: or None.
    """

    def __init__(
        self,
        plan: RunPlan,
        checkpoints: Checkpoints,
        callbacks: CallbackRunner,
        agreement: Agreement,
        evaluator: Evaluator | None,
    ):
        self._plan, self._schedule, self._config = plan, plan.schedule, plan.config
        self._program, self._placement = plan.program, plan.placement
        self._feed: Feed = plan.data.feed
        self._callbacks, self._agreement = callbacks, agreement
        # A run that goes on after a finished one starts with a state of its own.
        restored = plan.start.last if plan.done else plan.start.restored
        kept = restored.metadata["loop"] if restored else None
        self._restored = restored
        self._loop = self._make_loop(plan.jit)
        self._saving = Saving(
            checkpoints,
            self._program,
            self._feed,
            callbacks,
            keep=plan.metadata,
            state=self._state,
            unsaved=restored is None,
        )
        listeners = callbacks.may_stop or callbacks.need_epochs or callbacks.need_batch_logs
        self._meters = Meters(self._program, self._placement, epochs=listeners)
        self._data_wait = DataWait()
        self._diagnosis = Diagnosis(self._program, self._placement, self._feed)
        self._skips = SkippedSteps(self._program, self._diagnosis)
        self._step = plan.start.step
        self._first: Stack | None = None
        self._epoch_begun = False
        self._epoch_logs: dict[str, float] | None = None  # of the last epoch that has ended
        self._history: list[dict[str, float]] = []
        self._loss: float | None = kept["loss"] if kept else None
        if kept:
            self._meters.load(kept["meters"])
        self._best = bool(kept and kept.get("best"))
        elsewhere = None
        if self._placement.has_evaluator and checkpoints.model_dir is not None:
            elsewhere = Evaluations(checkpoints.model_dir)
        self._evaluations = EvaluationPoints(
            evaluator,
            elsewhere,
            placement=self._placement,
            callbacks=callbacks,
            meters=self._meters,
            agreement=agreement,
            kept=kept,
        )

    def _make_loop(self, jit: bool) -> LoopFunction:
        """What runs stacks of batches with the variables that are trained now."""
        steps = StepMaker(self._program, self._config, training=True)
        insist = self._config.jit_compile is True
        return self._placement.make_loop(self._feed, steps, jit=jit, insist=insist)

    def read_first(self) -> None:
        """Reads the first batch and traces its step, before anything is written.

        Raises:
            UserError: there is no batch, its values are wrong, or the model cannot be called
                with it.
        """
        steps = self._steps_at(self._step, 1)
        if not steps:
            return
        self._first = self._feed.pull(self._step, steps, self._steps_at(self._step + steps, 1))
        if self._first.steps:
            self._diagnosis.check(self._first, 0)
            self._loop.trace(self._first)
        elif not self._step:
            self._feed.next_pass()  # raises an error, since there is no batch

    def run(self, preemption: Preemption) -> TrainResult:
        """Trains until the last step, or until a callback or a signal stops the run.

        Args:
            preemption: has the signal, if one was received.
        """
        callbacks, kept, arrays = self._callbacks, None, {}
        if self._restored:
            kept, arrays = self._restored.metadata["loop"]["callbacks"], self._restored.arrays
        peers = self._placement.peers
        peers.alone = True  # callbacks run on the chief
        try:
            self._agreement.after_run()
            with self._placement.scope():
                every = self._schedule.epoch
                callbacks.begin(self._plan.info, kept, arrays, every)
                if every and self._step % every:
                    begin_epoch_again(self._program, callbacks, self._step // every)
                    self._epoch_begun = True
            signal = self._train(preemption).signal  # the run has ended before a later one
            if signal is None:
                self._finish()
            else:
                self._saving.save(self._step)
            self._agreement.before_run(
                None
            )  # callbacks may have changed variables at the epoch's end
            self._agreement.after_run(weights=callbacks.may_stop)
            self._saving.notify(wait=True)  # before `callbacks.end`, which may change the weights
            with self._placement.scope():
                ended = None if self._epoch_begun else self._epoch_logs
                callbacks.end(self._last_logs() if ended is None else ended)
            self._best = self._agreement.share(callbacks.restored_best)
            self._agreement.before_run(None, weights=callbacks.may_stop)
            if signal is None:
                # After `callbacks.end`, in which EarlyStopping restores the best weights.
                self._saving.unsaved = True
                stopped = self._agreement.share(callbacks.stop_training)
                self._saving.save(self._step, ended="callback" if stopped else "finished")
            self._saving.notify(wait=True)
        except BaseException:
            self._saving.abandon()
            raise
        finally:
            peers.alone = False
            self._feed.close()
            callbacks.close()
        self._data_wait.report(self._feed.remedy)
        if signal is None:
            self._finalize_weights()
        return self._result(signal)

    def already_done(self) -> TrainResult:
        """The result of a run that an earlier process has ended."""
        self._feed.close()
        self._finalize_weights()
        return self._result(None)

    def _train(self, preemption: Preemption) -> Decision:
        """Calls the loop function until the end; returns the last decision."""
        seconds_saved, first = time.monotonic(), True
        passes_left = self._plan.passes
        if passes_left is not None:
            passes_left -= self._feed.position().get("passes", 0)
        target = 1
        decided = self._decide(preemption, target, seconds_saved)
        steps = self._steps_at(self._step, target)
        # A batch that has been read is trained on. Otherwise the data's position would be ahead.
        while steps and (self._first or not (decided.stop or decided.signal)):
            # The next call's size is fixed now, so that its batches can be read during this call.
            upcoming = self._steps_at(self._step + steps, target)
            stack, self._first = self._first, None
            with Stopwatch() as waiting:
                if stack is None:
                    stack = self._feed.pull(self._step, steps, read_ahead=upcoming)
            if stack.steps == 0:
                self._agreement.before_run(stack)  # checks that the other tasks' data end here too
                passes_left = None if passes_left is None else passes_left - 1
                if passes_left == 0:
                    self._warn_if_short()
                    break
                self._feed.next_pass()
                continue
            stack, seconds = self._call(stack, waiting.seconds)
            if not stack.steps:
                continue  # the pass had ended, which was not known before
            self._boundary()
            self._saving.poll(self._step)
            if not first:  # the first call includes tracing and compilation
                self._data_wait.add(waiting.seconds, seconds)
                target = power_of_two(min(_CALL_SECONDS / seconds, 8) * stack.steps)
            decided = self._decide(preemption, target, seconds_saved)
            target = decided.target
            if decided.save:  # at exactly this step, if a callback asks for it
                now = self._callbacks.save_now
                (self._saving.save if now else self._saving.save_when_free)(self._step)
            if not self._saving.unsaved:
                seconds_saved = time.monotonic()
            first = False
            short = stack.steps < steps
            steps = self._steps_at(self._step, target) if short else upcoming
        return decided

    def _decide(self, preemption: Preemption, target: int, seconds_saved: float) -> Decision:
        stop, save = self._callbacks.stop_training, self._save_is_due(seconds_saved)
        return self._agreement.decide(Decision(stop, preemption.signal, save, target))

    def _steps_at(self, step: int, target: int) -> int:
        """How many steps a call runs from `step` on: never past a stop; 0 at the end."""
        wanted = self._config.steps_per_loop
        steps = max(target if wanted == "auto" else wanted, self._feed.min_batches_per_call)
        steps = min(steps, self._feed.capacity)
        stop = self._schedule.next_stop(step)
        return steps if stop is None else min(steps, stop - step)

    def _save_is_due(self, seconds_saved: float) -> bool:
        every = self._config.save_checkpoints_secs
        return self._callbacks.save_now or (
            every is not None and time.monotonic() - seconds_saved >= every
        )

    def _warn_if_short(self) -> None:
        if self._plan.info.max_steps is not None:
            log.warning(
                "the data ended after step %d; max_steps=%d was not reached; return "
                "dataset.repeat() from input_fn to go on until then",
                self._step,
                self._plan.info.max_steps,
            )

    def _call(self, stack: Stack, waited: float) -> tuple[Stack, float]:
        """Runs a stack.

        Args:
            stack: what the feed returned.
            waited: the seconds that it took to read it.

        Returns:
            The stack with the number of steps that were run, and the seconds they took.
        """
        callbacks = self._callbacks
        guard = callbacks.guard
        before = self._diagnosis.snapshot() if guard is not None and guard.find_op else []
        with self._placement.scope():
            if self._schedule.epoch and not self._epoch_begun:
                callbacks.epoch_begin(self._step // self._schedule.epoch)
                self._epoch_begun = True
            callbacks.call_begin(self._step, self._plan.fetcher.at(stack, 0, self._step))
        stack = self._agreement.before_run(stack)
        with Stopwatch() as watch:
            try:
                ran = self._loop.run(stack, self._step)
            except tf.errors.InvalidArgumentError as error:
                for index in range(stack.steps):
                    self._diagnosis.check(stack, index, error)
                raise
        self._agreement.after_run()
        stack = stack._replace(steps=ran.steps)
        diverged = ran.nonfinite >= 0 and guard is not None
        if diverged and not self._skips.goes_on(stack, ran):
            step = self._step
            guard.locate_op = lambda: self._diagnosis.locate(
                self._loop, before, stack, ran.nonfinite, step
            )
            guard.on_nonfinite(
                self._step + ran.nonfinite + 1,
                lambda: self._diagnosis.explain_all(stack, ran.nonfinite),
            )
        seconds = waited + watch.seconds
        self._meters.add(ran.loss_sum, ran.examples, stack.steps, seconds, ran.staleness)
        self._step += stack.steps
        self._saving.unsaved = True
        loss = ran.loss_sum / ran.examples if ran.examples else math.nan
        if self._program.runs_custom_step(training=True):  # usually a mean since the epoch began
            loss = self._program.metric_results().get("loss", loss)
        with self._placement.scope():
            callbacks.call_end(self._step, loss, self._meters.epoch)
        return stack, watch.seconds

    def _boundary(self) -> None:
        """Does what is due at this step, in this order: log, evaluate, end the epoch, save."""
        schedule, step = self._schedule, self._step
        if schedule.due("log", step) or schedule.due("summary", step):
            self._report()
        evaluated = schedule.due("evaluate", step)
        if evaluated:
            self._evaluate()
        if schedule.due("epoch", step):
            self._end_epoch()
        # Saved after the epoch's end, which a resumed run does not repeat.
        saves = evaluated and self._evaluations.need_checkpoints
        if (saves or schedule.due("checkpoint", step)) and step != schedule.end:
            self._saving.save_when_free(step)
        if step in schedule.phases and step != schedule.end:
            self._program.enter_phase(step)
            self._loop = self._make_loop(self._loop.jit)
            log.info(
                "step %d: %d variables are trained from here on", step, len(self._program.trainable)
            )

    def _finish(self) -> None:
        """Logs, evaluates and ends the epoch, unless this step has done so already."""
        if self._meters.pending:
            self._report()
        self._evaluate(last=True)
        if self._epoch_begun:
            self._end_epoch()

    def _report(self) -> None:
        """Writes a log point, a summary or both; at the last step of the run, both."""
        step, schedule = self._step, self._schedule
        logged, summarized = schedule.due("log", step), schedule.due("summary", step)
        if not (logged or summarized):
            logged = summarized = True
        with self._placement.scope():
            logs = self._meters.span(ends=logged) | self._skips.logs(step)
            rate = self._program.learning_rate()
            if rate is not None:
                logs["learning_rate"] = rate
            if logged:
                note(self._history, step, logs)
                self._loss = logs.get("loss", self._loss)
                self._callbacks.log(step, logs)
            if summarized:
                self._callbacks.summary(step, logs)

    def _evaluate(self, last: bool = False) -> None:
        if self._evaluations.run(self._step, self._history, last):
            self._saving.unsaved = True

    def _end_epoch(self) -> None:
        epoch = (self._step - 1) // self._schedule.epoch
        logs = self._epoch_logs = self._last_logs()
        self._meters.start_epoch()
        self._epoch_begun, self._saving.unsaved = False, True
        self._evaluations.end_epoch()
        with self._placement.scope():
            self._callbacks.epoch_end(epoch, logs)

    def _last_logs(self) -> dict[str, float]:
        """The epoch's loss and metrics, and those of the latest evaluation as val_…"""
        return {**self._meters.epoch(), **self._evaluations.logs()}

    def _state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the loop."""
        return {
            "meters": self._meters.state(),
            **self._evaluations.state(),
            "loss": self._loss,
            "jit": self._loop.jit,
            "best": self._best,
        }

    def _finalize_weights(self) -> None:
        """Replaces the weights by their averages, if the optimizer keeps averages; after saving.

        Best weights that a callback has restored stay: `fit` takes the averages before that.
        """
        if self._best:
            return
        optimizer = self._program.optimizer
        if getattr(getattr(optimizer, "inner_optimizer", optimizer), "use_ema", False):
            with self._placement.scope():
                self._program.updates.finalize(optimizer, self._program.trainable)

    def _result(self, signal: str | None) -> TrainResult:
        mine = [self._loss, self._evaluations.metrics, self._history]
        loss, metrics, history = self._agreement.share(mine)  # each task measures its own rates
        return TrainResult(
            global_step=self._step,
            loss=loss,
            metrics=dict(metrics),
            history=history,
            model_dir=self._plan.info.model_dir,
            model=self._program.model,
            preempted=signal,
            data_wait=self._data_wait.share,
        )
