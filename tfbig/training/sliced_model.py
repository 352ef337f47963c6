"""A trained model whose weights stay in slices, and the complete one where it fits."""

import dataclasses
import logging
from typing import Any

import keras

from tfbig.data.feeds.feed import Feed
from tfbig.placement.free_memory import bytes_from_environment
from tfbig.placement.placement import Placement
from tfbig.programs.keras.builder import KerasBuilder
from tfbig.programs.keras.copied_values import bytes_of_all, copy_values
from tfbig.programs.keras.keras_program import KerasProgram
from tfbig.run_config import RunConfig
from tfbig.training.evaluation.evaluator import Evaluator
from tfbig.training.feeds import evaluation_feed
from tfbig.training.model import RunModel, build_program
from tfbig.training.request import TrainRequest

log = logging.getLogger("tfbig")

_BYTES_VARIABLE = "TFBIG_WHOLE_MODEL_BYTES"
_DEFAULT_BYTES = 2 * 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class SlicedModel:
    """A trained Keras model whose weights are in slices on the replicas that trained it.

    `TrainResult.model` is one after model_distribution="owner_full" if the complete model is
    larger than `RunConfig.whole_model_bytes` allows. `tfbig.evaluate`, `tfbig.predict` and
    `tfbig.export` take it in place of a keras.Model; all tasks of the training call them together.

    Example:

        result = tfbig.train_distributed(model_fn, input_fn, strategy="multi_worker", config=config)
        figures = tfbig.evaluate(result.model, eval_input_fn)
        tfbig.export(result.model, "runs/lm/export")

    Attributes:
        name: of the Keras model.
        program: with the variables in slices.
        placement: of the replicas.
        builder: builds the model again.
        config: of the training.
        params: as given to the model_fn.
    """

    name: str
    program: KerasProgram
    placement: Placement
    builder: KerasBuilder
    config: RunConfig
    params: Any = None

    def __repr__(self) -> str:
        size = bytes_of_all(self.program.named_variables())
        replicas = self.placement.num_replicas
        return f"SlicedModel({self.name!r}, {size / 1e9:.3g} GB on {replicas} replicas)"

    def evaluate(self, data: Any, steps: int | None = None) -> dict[str, float]:
        """Returns the loss and the compiled metrics on what an input_fn returned.

        Args:
            data: a tf.data.Dataset or a Source, batched.
            steps: the number of batches; None for all.
        """
        feed = evaluation_feed(data, self.placement, self.config)
        try:
            jit = self.config.jit_compile is True
            evaluator = Evaluator(self.program, self.placement, feed, self.config, jit, steps)
            return evaluator()
        finally:
            feed.close()


def trained_model(
    trained: RunModel, placement: Placement, feed: Feed, request: TrainRequest, step: int
) -> keras.Model | SlicedModel:
    """The complete model in this process, or a SlicedModel if it is too large.

    Args:
        trained: with weights in slices.
        placement: of the replicas.
        feed: of its batches.
        request: of the run.
        step: the global step at which training ended.
    """
    program, builder, config = trained.program, trained.builder, request.config
    there = program.named_variables()
    size = bytes_of_all(there)
    allowed = _allowed_bytes(config)
    if size > allowed:
        log.info(
            "result.model stays in slices: with the optimizer's state it has %.3g GB, and "
            "RunConfig.whole_model_bytes allows %.3g GB",
            size / 1e9,
            allowed / 1e9,
        )
        return SlicedModel(program.model.name, program, placement, builder, config, request.params)
    model = builder.build(lambda value: True)
    whole = KerasProgram(model)
    build_program(whole, Placement(), feed, training=True)
    copy_values(there, whole, step)
    return model


def _allowed_bytes(config: RunConfig) -> int:
    if config.whole_model_bytes is not None:
        return config.whole_model_bytes
    given = bytes_from_environment(_BYTES_VARIABLE)
    return _DEFAULT_BYTES if given is None else given
