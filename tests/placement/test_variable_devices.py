"""Variables are spread over the servers by size, slots beside their weights."""

import tensorflow as tf

from tfbig.placement.parameter_server.variable_devices import VariableDevices

DEVICES = [f"/job:localhost/replica:0/task:0/device:CPU:{i}" for i in range(2)]


class Places(VariableDevices):
    """Notes the places; this process has one device."""

    def __init__(self):
        super().__init__(DEVICES)

    def made(self, name: str, size: int) -> int:
        before = list(self.bytes)
        with self.placing(), self.placing():  # as the loop enters the scope again and again
            tf.Variable(tf.zeros([size]), name=name)
        return next(i for i in range(2) if self.bytes[i] > before[i])


def test_the_next_one_goes_where_the_fewest_bytes_are(monkeypatch):
    places = Places()
    monkeypatch.setattr(tf, "device", lambda name: _Nothing())
    assert [places.made(f"v{i}", size) for i, size in enumerate((100, 10, 10, 100, 10))] == [
        *(0, 1, 1, 1, 0),
    ]
    assert places.bytes == [440, 480]


def test_a_slot_of_tensorflow_1_is_beside_its_weight(monkeypatch):
    places = Places()
    monkeypatch.setattr(tf, "device", lambda name: _Nothing())
    assert places.made("w", 100) == 0
    assert places.made("b", 10) == 1
    assert places.made("w/Adam", 100) == 0
    assert places.made("b/Adam", 10) == 1


class _Nothing:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False
