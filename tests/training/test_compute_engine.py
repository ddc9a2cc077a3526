"""The place of a process in a TPU slice, with a server in place of Compute Engine's metadata."""

import http.server
import threading
import time

import pytest
from jax._src.clusters import cloud_tpu_cluster

from ttoaa.training import compute_engine, multihost

NAMES = {"worker-network-endpoints": "s-ab1c,s-de2f"}  # as Compute Engine gives them
TRIPLES = {"worker-network-endpoints": "unknown:unknown:10.0.0.2,unknown:unknown:10.0.0.3"}


@pytest.fixture
def attributes(monkeypatch):
    """The attributes of this machine, as a dictionary to fill."""
    found = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            value = found.get(self.path.rpartition("/attributes/")[2])
            good = value is not None and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if good else 404)
            self.end_headers()
            self.wfile.write((value if good else "<!DOCTYPE html>").encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
        yield found
        server.shutdown()


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({**NAMES, "worker-id": "1"}, ("s-ab1c:8482", 2, 1)),
        ({**NAMES, "tpu-env": "TOPOLOGY: '2x4'\nTPU_WORKER_ID: '1'"}, ("s-ab1c:8482", 2, 1)),
        ({**TRIPLES, "worker-id": "0"}, ("10.0.0.2:8482", 2, 0)),
        ({"worker-network-endpoints": "s-ab1c", "worker-id": "0"}, None),
        ({}, None),
    ],
    ids=["worker-id", "tpu-env", "addresses", "one-machine", "no-tpu"],
)
def test_the_metadata_give_the_place(attributes, given, place):
    attributes.update(given)
    assert compute_engine.find_place() == place


def test_a_slice_without_numbers_needs_flags(attributes):
    attributes.update(NAMES)
    with pytest.raises(ValueError, match=r"one of 2 of a TPU slice.*--process_id"):
        compute_engine.find_place()


def test_a_machine_without_chips_asks_nobody(attributes, monkeypatch):
    attributes.update({**NAMES, "worker-id": "1"})
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    assert compute_engine.find_place() is None


@pytest.mark.parametrize("endpoints", [NAMES, TRIPLES], ids=["names", "addresses"])
@pytest.mark.parametrize("number", ["agent-worker-number", "worker-id"])
def test_training_finds_its_place_with_and_without_jax(attributes, monkeypatch, endpoints, number):
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # JAX asks six times for what is missing
    attributes.update({**endpoints, number: "1"})
    place = multihost._place_in_cluster()
    assert place and place[1:] == (2, 1)
    assert bool(place[0]) is (number == "worker-id")  # otherwise JAX finds the address itself
