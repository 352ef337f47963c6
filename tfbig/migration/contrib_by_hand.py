"""Advice for the names of tf.contrib that must be replaced by hand."""

_LAYERS = "tfbig.compat.v1.layers"
_DATASETS = "write keras.datasets, tfbig.datasets or tfbig.data.TfdsSource"
_CHECKPOINT = "write tf.compat.v1.train.init_from_checkpoint(path, {name: variable}) in model_fn"

CONTRIB = {
    "contrib": "tf.contrib was removed with TensorFlow 2.0; write what took its place",
    "contrib.data": "write the method of tf.data.Dataset: shuffle, map, batch(drop_remainder=)",
    "contrib.data.batch_and_drop_remainder": (
        "write dataset.batch(batch_size, drop_remainder=True) in place of apply"
    ),
    "contrib.data.padded_batch_and_drop_remainder": (
        "write dataset.padded_batch(batch_size, padded_shapes, drop_remainder=True) in place of "
        "apply"
    ),
    "contrib.data.read_batch_features": (
        "write tf.data.experimental.make_batched_features_dataset(file_pattern, batch_size, "
        "features)"
    ),
    "contrib.data.sloppy_interleave": (
        "write tf.data.experimental.parallel_interleave(map_func, cycle_length, sloppy=True)"
    ),
    "contrib.estimator": "write the name in tfbig.estimator or tfbig.estimator.experimental",
    "contrib.estimator.SavedModelEstimator": "write tf.saved_model.load(path).signatures[…]",
    "contrib.estimator.clip_gradients_by_norm": (
        "in a model_fn, clip the gradients of optimizer.compute_gradients(loss) by "
        "tf.clip_by_global_norm, and pass them to optimizer.apply_gradients"
    ),
    "contrib.estimator.forward_features": (
        "leave it out: predict keeps the order of the examples, so zip their keys with it"
    ),
    "contrib.framework": "write the name in tf.compat.v1.train, tf.compat.v1 or tf",
    "contrib.framework.add_arg_scope": "leave it out: write functools.partial(function, …)",
    "contrib.framework.arg_scope": "leave it out: pass the arguments in each call",
    "contrib.framework.assign_from_checkpoint": _CHECKPOINT,
    "contrib.framework.assign_from_checkpoint_fn": _CHECKPOINT,
    "contrib.framework.get_model_variables": "write tf.compat.v1.global_variables(scope)",
    "contrib.framework.get_trainable_variables": "write tf.compat.v1.trainable_variables(scope)",
    "contrib.framework.get_variables": "write tf.compat.v1.global_variables(scope)",
    "contrib.framework.get_variables_to_restore": (
        "write [v for v in tf.compat.v1.global_variables() if …]"
    ),
    "contrib.framework.model_variable": "write tf.compat.v1.get_variable(name, shape)",
    "contrib.framework.variable": "write tf.compat.v1.get_variable(name, shape)",
    "contrib.layers": "write the function of tfbig.compat.v1.layers, or a Keras layer",
    "contrib.layers.batch_norm": (
        f"write {_LAYERS}.batch_normalization(inputs, momentum=0.999, scale=False, "
        "training=is_training), contrib's defaults"
    ),
    "contrib.layers.conv2d": (
        f'write {_LAYERS}.conv2d(inputs, num_outputs, kernel_size, padding="same", '
        "activation=tf.nn.relu), contrib's defaults"
    ),
    "contrib.layers.dropout": (
        f"write {_LAYERS}.dropout(inputs, rate=1 - keep_prob, training=is_training)"
    ),
    "contrib.layers.embed_sequence": (
        'write tf.nn.embedding_lookup(tf.compat.v1.get_variable("embeddings", [vocab_size, '
        "embed_dim]), ids)"
    ),
    "contrib.layers.fully_connected": (
        f"write {_LAYERS}.dense(inputs, num_outputs, activation=tf.nn.relu), relu being the "
        "default of contrib; a normalizer_fn comes after a dense without bias and activation"
    ),
    "contrib.layers.linear": f"write {_LAYERS}.dense(inputs, num_outputs)",
    "contrib.layers.max_pool2d": f"write {_LAYERS}.max_pooling2d(inputs, kernel_size, strides=2)",
    "contrib.layers.real_valued_column": "write tf.feature_column.numeric_column(name)",
    "contrib.layers.sparse_column_with_hash_bucket": (
        "write tf.feature_column.categorical_column_with_hash_bucket(name, size)"
    ),
    "contrib.layers.sparse_column_with_keys": (
        "write tf.feature_column.categorical_column_with_vocabulary_list(name, keys)"
    ),
    "contrib.layers.variance_scaling_initializer": (
        "write tf.compat.v1.variance_scaling_initializer(scale=2.0), contrib's defaults"
    ),
    "contrib.learn": "write tfbig.Estimator, tfbig.RunConfig and tfbig.train_and_evaluate",
    "contrib.learn.datasets": _DATASETS,
    "contrib.lookup": "write tf.lookup.StaticHashTable, or keras.layers.StringLookup",
    "contrib.metrics": "write tf.compat.v1.metrics, which takes labels before predictions",
    "contrib.opt": (
        "write an optimizer of tf.compat.v1.train in model_fn; keras.optimizers.AdamW, Lamb and "
        "Nadam are for Keras models"
    ),
    "contrib.predictor": (
        'write tf.saved_model.load(path).signatures["serving_default"], a function whose arguments '
        "are tensors by name, as is its result"
    ),
    "contrib.rnn": "TensorFlow 2.21 has no RNN cells of TF1; write keras.layers.LSTM in model_fn",
    "contrib.slim": (
        "slim needs TF1's layers: write tfbig.compat.v1.layers, or take a model of "
        "keras.applications and tfbig.fine_tune"
    ),
    "contrib.summary": (
        "write tf.compat.v1.summary.scalar(name, tensor) in model_fn; "
        "RunConfig(save_summary_steps=) says how often it is written"
    ),
    "contrib.tpu": "leave it out: TPUEstimator runs on the CPU or GPU",
    "contrib.training.HParams": (
        "write ml_collections.ConfigDict(dict(…)), and import ml_collections"
    ),
}
