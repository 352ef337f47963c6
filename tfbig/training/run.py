"""One run of training in this task, from the request to the result."""

import contextlib
import dataclasses
import logging
import os
import random
from collections.abc import Callable
from typing import Any

from tfbig.errors import NotBuiltError, UserError
from tfbig.placement.control.cluster_errors import cluster_error_scope
from tfbig.placement.evaluator_task import EvaluatorTask
from tfbig.placement.parameter_server.serving_task import ServingTask
from tfbig.placement.placement import Placement
from tfbig.placement.strategies import find_role
from tfbig.programs.model_fn.spec import ModeKeys
from tfbig.training.callbacks.choice import select_callbacks
from tfbig.training.callbacks.runner import CallbackRunner
from tfbig.training.checkpoints.checkpoints import Checkpoints
from tfbig.training.checkpoints.resuming import Start, broadcast_assign, is_done, resume
from tfbig.training.evaluation.evaluator import Evaluator
from tfbig.training.evaluation.follower import follow
from tfbig.training.feeds import RunData, read_data
from tfbig.training.loop.agreement import Agreement, CallbackNeeds
from tfbig.training.loop.preemption import Preemption
from tfbig.training.loop.tensor_fetcher import TensorFetcher
from tfbig.training.model import RunModel, build_model
from tfbig.training.out_of_memory import explained_out_of_memory
from tfbig.training.plan import RunPlan, make_schedule, needs_of, run_info
from tfbig.training.request import TrainRequest
from tfbig.training.result import TrainResult
from tfbig.training.seeds import set_seed
from tfbig.training.serve import serve
from tfbig.training.sliced_model import trained_model
from tfbig.training.step.compile_choice import choose_jit
from tfbig.training.train_loop import TrainLoop

log = logging.getLogger("tfbig")

_FIELDS_OF_SERVERS = ("global_step", "loss", "metrics", "history", "model_dir", "preempted")


def run_training(request: TrainRequest) -> TrainResult:
    """Does what this task does in a run: it trains, serves a chief, or evaluates its checkpoints.

    Args:
        request: with arguments that are checked.

    Raises:
        UserError: something given cannot be used; nothing has been written by then.
        TrainingDiverged: the loss became NaN or infinite.
        CheckpointError: a checkpoint cannot be written or read, or belongs to another model.
        PeerLost: another task of the cluster is lost, or did not start.
        OutOfMemory: this task has run out of memory.
    """
    role = find_role(request.strategy, request.devices)
    if isinstance(role, ServingTask):
        return serve(role, request)
    with (
        cluster_error_scope(role.placement.peers, request.config),
        explained_out_of_memory(request.config),
    ):
        run = TrainingRun(request, role.placement)
        if isinstance(role, EvaluatorTask):
            return run.follow(role)
        return run.train()


class TrainingRun:
    """One run of training or of an evaluator, in this task.

    It prepares what the loop needs, in the order in which one thing needs the other: the seed,
    the data, the model, the checkpoint to resume from, the plan.

    Args:
        request: what is asked for.
        placement: where.
    """

    def __init__(self, request: TrainRequest, placement: Placement):
        config = request.config
        placement.check_config(config)
        self._request, self._placement, self._peers = request, placement, placement.peers
        self._checkpoints = Checkpoints(
            request.model_dir,
            config.keep_checkpoint_max,
            placement.peers,
            placement.deferred_tables(config),
        )
        self._preemption = Preemption()
        self._checkpoints.clear_up()
        self._seed = self._choose_seed()
        placement.begin_run(self._seed, config)

    def train(self) -> TrainResult:
        """Trains, from the newest checkpoint if there is one.

        Raises:
            UserError: the run would never end.
        """
        with self._prepared() as (request, data, model):
            _check_ends(request, data)
            loop, plan = self._make_loop(request, data, model)
            if plan.done:
                result = loop.already_done()
            else:
                loop.read_first()
                self._make_writable(data)
                log.info("training on %s from step %d", self._placement.describe(), plan.start.step)
                with self._preemption.watching() as preemption:
                    result = loop.run(preemption)
            result = self._finished(result, data, model, request)
        if result.preempted and self._peers.is_chief:
            log.warning(
                "%s ended the training at step %d; %s",
                result.preempted,
                result.global_step,
                "train with the same model_dir again to go on"
                if request.model_dir
                else "nothing is saved",
            )
        return result

    def follow(self, task: EvaluatorTask) -> TrainResult:
        """Evaluates the checkpoints that another task writes, until its run has ended."""
        with self._prepared() as (request, data, model):
            jit = request.config.jit_compile is True
            evaluator = self._evaluator(request, data, model, jit)
            return follow(task.watch, model.program, evaluator, self._checkpoints)

    @contextlib.contextmanager
    def _prepared(self) -> Any:
        """Reads the data and builds the model; yields both, with what an EstimatorSpec asks for."""
        # Where other tasks must learn of a signal, it is handled from now on, else from the loop.
        handles = self._peers.count > 1
        with self._preemption.watching() if handles else contextlib.nullcontext():
            data = read_data(self._request, self._placement, self._seed)
            try:
                model = build_model(self._request, self._placement, data, self._seed)
                request = self._request
                if model.watched is not None:
                    request = request.with_spec(model.watched.first[ModeKeys.TRAIN])
                if request.options.keep_checkpoint_max is not None:
                    self._checkpoints.keep = request.options.keep_checkpoint_max
                yield request, data, model
            finally:  # the loop closes what it trains on, if it runs
                data.close()

    def _make_loop(
        self, request: TrainRequest, data: RunData, model: RunModel
    ) -> tuple[TrainLoop, RunPlan]:
        """Makes the loop, which goes on from the newest checkpoint."""
        program = model.program
        given = [*request.callbacks, *request.options.callbacks]
        callbacks = select_callbacks(given, program, self._peers.is_chief)
        runner = CallbackRunner(callbacks, program.callback_model())
        self._check_finds_op(runner)
        agreement = Agreement(program, self._placement, callbacks)
        plan = self._plan(request, data, model, runner, agreement)
        evaluator = self._evaluator(request, data, model, plan.jit)
        return TrainLoop(plan, self._checkpoints, runner, agreement, evaluator), plan

    def _make_writable(self, data: RunData) -> None:
        """Makes the model_dir, and saves in it how the data were cleaned."""
        self._checkpoints.make_writable()
        model_dir = self._request.model_dir
        if data.cleaning is not None and model_dir is not None and self._peers.is_chief:
            data.cleaning.save(os.path.join(model_dir, "cleaning.json"))

    def _finished(
        self, result: TrainResult, data: RunData, model: RunModel, request: TrainRequest
    ) -> TrainResult:
        """The result with the trained model in this process; tasks that serve receive it too."""
        trained = result.model
        spec, step = data.feed.element_spec, result.global_step
        if trained is None:
            pass  # a model_fn of estimator style has no model
        elif model.program.updates.gathers:
            trained = trained_model(model, self._placement, data.feed, request, step)
        else:
            trained = self._placement.fetch_model(model.builder, model.program, spec, step)
        result = dataclasses.replace(
            result,
            model=trained,
            cleaning=data.cleaning,
            cleaning_is_all=data.cleaning_is_all,
        )
        self._placement.finish_run({name: getattr(result, name) for name in _FIELDS_OF_SERVERS})
        return result

    def _plan(
        self,
        request: TrainRequest,
        data: RunData,
        model: RunModel,
        runner: CallbackRunner,
        agreement: Agreement,
    ) -> RunPlan:
        """Resumes from a checkpoint, and settles what the loop does from there."""
        program, config = model.program, request.effective_config
        repeats = request.options.repeats
        start = resume(program, self._checkpoints, self._peers, data.feed, repeats=repeats)
        program.refresh_constants()
        if start.last is None and not start.step:
            self._initialize(request.options.initializers, program)
        needs = None
        if self._peers.is_chief:
            needs = needs_of(runner, program, self._choose_jit(program, data, config, start))
        needs = CallbackNeeds(*agreement.share(needs))
        if not needs.guarded:
            runner.guard = None
        schedule, passes = make_schedule(request, program, data, needs, start)
        ended = start.last is not None and is_done(
            start, schedule.end, needs.may_stop, request.model_dir
        )
        program.enter_phase(start.step)
        return RunPlan(
            program=program,
            placement=self._placement,
            data=data,
            config=config,
            start=start,
            schedule=schedule,
            passes=passes,
            info=run_info(request, self._placement, data, start),
            fetcher=TensorFetcher(program, self._placement, data.feed, model.watched),
            jit=needs.jit,
            metadata={
                "seed": self._seed,
                "settings": program.settings(),
                "began": start.began,
            },
            done=ended,
        )

    def _evaluator(
        self, request: TrainRequest, data: RunData, model: RunModel, jit: bool
    ) -> Evaluator | None:
        if data.eval_feed is None:
            return None
        options, hooks = request.options, None
        if options.eval_hooks is not None:
            where = model.program, self._placement, data.eval_feed
            fetcher = TensorFetcher(*where, model.watched, ModeKeys.EVAL)
            hooks = options.eval_hooks(model.watched, fetcher)
        return Evaluator(
            model.program,
            self._placement,
            data.eval_feed,
            request.effective_config,
            jit,
            options.eval_steps,
            hooks,
            "eval_input_fn",
        )

    def _initialize(self, initializers: tuple[Callable, ...], program: Any) -> None:
        """Gives a new run's variables the values that it starts from, on all tasks."""
        for initialize in initializers:
            values = initialize(program) if self._peers.is_chief else None
            broadcast_assign(program, values, self._peers)

    def _choose_seed(self) -> int:
        """The config's seed, the checkpoint's, or a new one; sets it before anything is drawn."""
        given = seed = self._request.config.tf_random_seed
        if seed is None:
            if self._peers.is_chief:
                kept = self._checkpoints.metadata()
                seed = kept[1]["seed"] if kept else random.randrange(2**31)
            seed = self._peers.broadcast(seed)
        set_seed(given, seed)
        return seed

    def _choose_jit(self, program: Any, data: RunData, config: Any, start: Start) -> bool:
        if start.last is not None and config.jit_compile == "auto":
            return start.last.metadata["loop"]["jit"]
        return choose_jit(program, self._placement, data.feed, config)

    def _check_finds_op(self, runner: CallbackRunner) -> None:
        if self._placement.runs_steps_again or runner.guard is None or not runner.guard.find_op:
            return
        raise NotBuiltError(
            f'NaNGuard(find_op=True) is not built yet for strategy="{self._placement.name}"; '
            "leave find_op out, or go on with this model_dir on one device, which does the "
            "same steps."
        )


def _check_ends(request: TrainRequest, data: RunData) -> None:
    limited = request.last_step is not None or request.options.num_steps is not None
    if getattr(data.feed, "infinite", False) and not limited:
        epochs = request.epochs
        limit = f"epochs={epochs}" if epochs else "neither max_steps nor epochs"
        raise UserError(
            f"input_fn returned an infinite Dataset, and {limit} would never end it; give "
            "max_steps, or leave out .repeat()."
        )
