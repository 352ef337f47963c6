"""A frozen backbone that is a Model subclass, tuned on two replicas in a process of its own."""

import keras
import numpy as np
import tensorflow as tf

import tfbig

X, Y = np.random.RandomState(0).rand(7, 6).astype("f4"), np.arange(7) % 3


class Backbone(keras.Model):
    """As KerasHub's: functional, with a config of its own."""

    def __init__(self, width=8, **keywords):
        inputs = keras.Input((6,))
        hidden = keras.layers.BatchNormalization()(keras.layers.Dense(width, "relu")(inputs))
        super().__init__(inputs=inputs, outputs=keras.layers.Dense(width)(hidden), **keywords)
        self.width = width

    def get_config(self):
        return {"width": self.width, "name": self.name}


def input_fn():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)


def tune_and_use() -> dict:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    base = keras.Model(inputs, keras.layers.Dense(3)(Backbone()(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    base.compile("sgd", loss, metrics=["accuracy"])
    places = {"one device": {}, "two replicas": dict(strategy="mirrored", devices=2)}
    config = tfbig.RunConfig(tf_random_seed=1, jit_compile=False, data_distribution="none")
    recipe = tfbig.Recipe(head=3, freeze="backbone")
    found: dict = {"trained": [], "weights": [], "losses": [], "outputs": []}
    for place in places.values():
        keras.utils.set_random_seed(2)
        tuned = tfbig.fine_tune(
            base, input_fn, recipe=recipe, max_steps=2, config=config, **place
        ).model
        trained = {id(weight) for weight in tuned.trainable_weights}
        found["trained"].append([n for n, w in enumerate(tuned.weights) if id(w) in trained])
        found["weights"].append([weight.numpy().tolist() for weight in tuned.weights])
        for other in places.values():
            found["losses"].append(tfbig.evaluate(tuned, input_fn, **other)["loss"])
            outputs = list(tfbig.predict(tuned, input_fn, **other))
            found["outputs"].append(np.stack(outputs).tolist())
    found["before"] = [weight.numpy().tolist() for weight in base.weights]
    return found
