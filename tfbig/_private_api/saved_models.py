"""The protocol buffer of a SavedModel."""

from tensorflow.core.protobuf import saved_model_pb2


def set_signature_methods(path: str, methods: dict[str, str]) -> None:
    """Sets the method names of the signatures in a `saved_model.pb` for TensorFlow Serving.

    Reason: tf.saved_model.save writes "predict" for all of them, and TensorFlow Serving then
    refuses classify and regress calls.
    Guard: tests/private_api/test_hooks.py.
    """
    with open(path, "rb") as file:
        model = saved_model_pb2.SavedModel.FromString(file.read())
    for name, method in methods.items():
        model.meta_graphs[0].signature_def[name].method_name = method
    with open(path, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))
