"""Imported by a test's gin file: the second outcome sends $TTOAA_TEST_STOP to its own process."""

import os
import time

from fakes import Planted

_outcome = Planted.outcome


def _stop(self, model):
    if self.name == "late":
        os.kill(os.getpid(), int(os.environ["TTOAA_TEST_STOP"]))
        time.sleep(60)
    return _outcome(self, model)


Planted.outcome = _stop
