import os
import signal
import sys
import time

from training.processes import free_port, together

from ttoaa.training.multihost import StopRequest

CHILD = """
import os, signal, sys, time
import jax
process, port = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(f"localhost:{port}", 2, process)
from ttoaa.training.multihost import StopRequest

with StopRequest() as stopping:
    for step in range(7, 10**6):
        if stopping.received(step):
            break
        if process == 1 and step == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.02 * (1 + process))
print("stopped at", step)
"""


def test_one_process_stops_at_its_next_step_and_gives_the_handler_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stopping:
        assert not stopping.received(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.received(1) and stopping.received(2)
    assert signal.getsignal(signal.SIGTERM) == before
    with StopRequest() as again:
        assert not again.received(3)


def test_several_processes_stop_at_the_same_step_though_one_alone_was_told():
    began, port = time.monotonic(), str(free_port())
    told = together([[sys.executable, "-c", CHILD, str(process), port] for process in range(2)])
    assert [code for code, _, _ in told] == [0, 0], told
    steps = {int(text.split("stopped at")[1]) for _, text, _ in told}
    assert len(steps) == 1 and steps.pop() > 9
    assert time.monotonic() - began < 30
