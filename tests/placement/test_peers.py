"""A single task: collective calls return its own values, and no other task can be lost."""

import numpy as np

from tfbig.errors import PeerLost, TfbigError
from tfbig.placement.control.peers import Peers


def test_a_single_task_is_the_chief():
    peers = Peers()
    assert (peers.index, peers.count, peers.is_chief) == (0, 1, True)
    assert peers.describe(0) == "the chief"
    assert peers.describe(2) == "worker 2"


def test_collective_calls_of_a_single_task_return_its_values(tmp_path):
    peers, value = Peers(), {"steps": (1, 2)}
    assert peers.all_gather(value)[0] is value
    assert len(peers.all_gather(value)) == 1
    assert peers.broadcast(value) is value
    array = np.arange(3)
    assert peers.broadcast_arrays({"a": array})["a"] is array
    peers.broadcast_files(str(tmp_path), wanted=True, destination=str(tmp_path / "into"))
    assert not (tmp_path / "into").exists()
    assert peers.barrier() is None


def test_a_single_task_never_sees_a_loss():
    peers, called = Peers(), []
    peers.on_lost(called.append)
    peers.exit_on_loss(0.0)
    assert peers.wait_for_loss(timeout=100) is None
    peers.disconnect("an error")
    peers.disconnect()
    assert called == []


def test_peer_lost_is_a_tfbig_error():
    assert issubclass(PeerLost, TfbigError)
    assert issubclass(PeerLost, RuntimeError)
