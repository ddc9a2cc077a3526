"""ttoaa: many controlled pretraining experiments inside one training run."""

import sys

__version__ = "0.1.0"

# `python -m ttoaa.train` imports this package to find the module, with "-m" for sys.argv[0]: the
# first moment at which the command can handle signals, seconds before its imports are done.
_modules = [x.removeprefix("-m") for x in sys.orig_argv]
if sys.argv[:1] == ["-m"] and any(x.split(".")[0] == __name__ for x in _modules):
    from ttoaa import signals

    signals.install(__name__)
