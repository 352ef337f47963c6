"""What several of these tests share."""

import keras
import numpy as np
import tensorflow as tf


def mirrored() -> tf.distribute.MirroredStrategy:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def weights() -> list:
    return [
        keras.Variable(np.float32([[1.0, -2.0]]), name="kernel"),
        keras.Variable(np.float32([0.5]), name="bias"),
    ]
