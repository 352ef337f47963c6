"""Models with a train_step of their own: a VAE, a GAN and distillation, on the digits.

tfbig runs the steps as Keras does, inside its own loop. A run with --model_dir that is stopped and
started again ends as if it had not been stopped.

$ python examples/custom_train_step.py --kind=vae
$ python examples/custom_train_step.py --kind=gan --model_dir=/tmp/gan
$ python examples/custom_train_step.py --kind=distillation
"""

import os

import tfbig
import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from keras import layers, ops
from tfbig.datasets import digits

_KIND = flags.DEFINE_enum("kind", "vae", ["vae", "gan", "distillation"], "What is trained.")
_MAX_STEPS = flags.DEFINE_integer("max_steps", 600, "The step at which to stop.")
_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Where checkpoints are kept; None: nowhere.")

PIXELS, LATENT = 64, 8


class VAE(keras.Model):
    """A variational autoencoder: Kingma and Welling, 2013, https://arxiv.org/abs/1312.6114."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential(
            [keras.Input((PIXELS,)), layers.Dense(64, "relu"), layers.Dense(2 * LATENT)]
        )
        self.decoder = keras.Sequential(
            [keras.Input((LATENT,)), layers.Dense(64, "relu"), layers.Dense(PIXELS)]
        )
        self.seed_generator = keras.random.SeedGenerator(1)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.divergence_tracker = keras.metrics.Mean(name="divergence")

    @property
    def metrics(self):
        return [self.loss_tracker, self.divergence_tracker]

    def losses_of(self, images):
        mean, log_variance = ops.split(self.encoder(images), 2, axis=-1)
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        logits = self.decoder(mean + ops.exp(0.5 * log_variance) * noise)
        error = keras.losses.binary_crossentropy(images, logits, from_logits=True) * PIXELS
        divergence = -0.5 * ops.sum(
            1 + log_variance - ops.square(mean) - ops.exp(log_variance), axis=-1
        )
        return ops.mean(error + divergence), ops.mean(divergence)

    def results(self, loss, divergence):
        self.loss_tracker.update_state(loss)
        self.divergence_tracker.update_state(divergence)
        return {metric.name: metric.result() for metric in self.metrics}

    def train_step(self, images):
        with tf.GradientTape() as tape:
            loss, divergence = self.losses_of(images)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return self.results(loss, divergence)

    def test_step(self, images):
        return self.results(*self.losses_of(images))


class GAN(keras.Model):
    """A generator and a discriminator, each with an optimizer: https://arxiv.org/abs/1406.2661."""

    def __init__(self):
        super().__init__()
        self.discriminator = keras.Sequential(
            [keras.Input((PIXELS,)), layers.Dense(64, "leaky_relu"), layers.Dense(1)]
        )
        self.generator = keras.Sequential(
            [keras.Input((LATENT,)), layers.Dense(64, "relu"), layers.Dense(PIXELS, "sigmoid")]
        )
        self.seed_generator = keras.random.SeedGenerator(1)
        self.d_loss_tracker = keras.metrics.Mean(name="d_loss")
        self.g_loss_tracker = keras.metrics.Mean(name="g_loss")

    def compile(self, d_optimizer, g_optimizer, loss_fn):
        super().compile(optimizer=None)
        self.d_optimizer, self.g_optimizer, self.loss_fn = d_optimizer, g_optimizer, loss_fn

    @property
    def metrics(self):
        return [self.d_loss_tracker, self.g_loss_tracker]

    def generate(self, count):
        noise = keras.random.normal((count, LATENT), seed=self.seed_generator)
        return self.generator(noise)

    def train_step(self, images):
        count = ops.shape(images)[0]
        ones, zeros = ops.ones((count, 1)), ops.zeros((count, 1))
        fakes = self.generate(count)
        with tf.GradientTape() as tape:
            found = self.discriminator(ops.concatenate([images, fakes]))
            d_loss = self.loss_fn(ops.concatenate([ones, zeros]), found)
        weights = self.discriminator.trainable_weights
        self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)
        with tf.GradientTape() as tape:
            g_loss = self.loss_fn(ones, self.discriminator(self.generate(count)))
        weights = self.generator.trainable_weights
        self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)
        self.d_loss_tracker.update_state(d_loss)
        self.g_loss_tracker.update_state(g_loss)
        return {metric.name: metric.result() for metric in self.metrics}


class Distiller(keras.Model):
    """A student that learns from a teacher's outputs too: https://arxiv.org/abs/1503.02531."""

    def __init__(self, student, teacher, temperature=4.0):
        super().__init__()
        self.student, self.teacher, self.temperature = student, teacher, temperature
        teacher.trainable = False

    def call(self, images, training=False):
        return self.student(images, training=training)

    def train_step(self, data):
        images, labels = data
        soft = ops.softmax(self.teacher(images, training=False) / self.temperature)
        with tf.GradientTape() as tape:
            outputs = self(images, training=True)
            loss = self.compute_loss(x=images, y=labels, y_pred=outputs)
            loss += ops.mean(
                keras.losses.kl_divergence(soft, ops.softmax(outputs / self.temperature))
            )
        weights = self.student.trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        self.metrics[0].update_state(loss)  # Keras's own tracker of the loss
        return self.compute_metrics(images, labels, outputs)


def classifier(units: int) -> keras.Model:
    model = keras.Sequential(
        [keras.Input((PIXELS,)), layers.Dense(units, "relu"), layers.Dense(10)]
    )
    compile_classifier(model)
    return model


def compile_classifier(model: keras.Model) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])


def build(kind: str, teacher_weights: list | None = None) -> keras.Model:
    """A compiled model of a kind."""
    if kind == "vae":
        model = VAE()
        model.compile(keras.optimizers.Adam(3e-3))
    elif kind == "gan":
        model = GAN()
        optimizers = keras.optimizers.Adam(1e-3), keras.optimizers.Adam(1e-3)
        model.compile(*optimizers, keras.losses.BinaryCrossentropy(from_logits=True))
    else:
        teacher = classifier(128)
        if teacher_weights is not None:
            teacher.set_weights(teacher_weights)
        model = Distiller(classifier(8), teacher)
        compile_classifier(model)
    return model


def source(kind: str, split: str) -> tfbig.data.Source:
    """The digits as rows of 64 pixels from 0 to 1, with their labels for distillation."""
    arrays = digits.digits_arrays()
    images = arrays[f"{split}_images"].reshape(-1, PIXELS).astype(np.float32) / 16
    labels = arrays[f"{split}_labels"].astype(np.int32)
    return tfbig.data.ArraySource((images, labels) if kind == "distillation" else images).batch(64)


def main(argv: list[str]) -> None:
    del argv
    kind, folder, steps = _KIND.value, _MODEL_DIR.value, _MAX_STEPS.value
    run = {"max_steps": steps, "config": tfbig.RunConfig(tf_random_seed=0)}
    teacher_weights = None
    if kind == "distillation":  # from a teacher that is trained first
        teacher = tfbig.train_distributed(
            lambda: classifier(128),
            lambda: source(kind, "train"),
            model_dir=folder and os.path.join(folder, "teacher"),
            **run,
        )
        if teacher.preempted:  # by a signal; the next run resumes with the teacher
            return
        teacher_weights = teacher.model.get_weights()
    result = tfbig.train_distributed(
        lambda: build(kind, teacher_weights),
        lambda: source(kind, "train"),
        eval_input_fn=None if kind == "gan" else lambda: source(kind, "test"),
        model_dir=folder and os.path.join(folder, kind),
        **run,
    )
    if kind == "vae":
        reached = f"held-out loss {result.metrics['loss']:.2f}"
    elif kind == "gan":
        generated = float(ops.mean(result.model.generate(256)))
        logs = result.history[-1]
        reached = f"d_loss {logs['d_loss']:.3f}, g_loss {logs['g_loss']:.3f}"
        reached += f", mean pixel of generated images {generated:.3f}"
    else:
        reached = f"held-out accuracy of the student {result.metrics['accuracy']:.4f}"
    print(f"{kind}: step {result.global_step}: {reached}")


if __name__ == "__main__":
    app.run(main)
