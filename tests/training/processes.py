"""Several real processes at once."""

import os
import socket
import subprocess


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def together(commands, **env):
    """Runs the commands at the same time; of each its (exit code, stdout, stderr)."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(c, env={**os.environ, **env}, **pipes) for c in commands]
    try:
        said = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, *text) for process, text in zip(running, said, strict=True)]
