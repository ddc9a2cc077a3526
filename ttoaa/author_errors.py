"""Report errors in an experiment author's code in one line, with the file and line."""

import contextlib
import pathlib
import sysconfig
import traceback
from collections.abc import Iterator

_HERE = pathlib.Path(__file__).parent
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


def describe(error: Exception) -> str:
    """Describe an error in one line, with the place in the author's code that raised it.

    The place is the last stack frame outside this package and installed libraries. A ValueError or
    OSError without such a frame was raised by this package on purpose and gets no place.
    """
    expected = isinstance(error, ValueError | OSError)
    reason = " ".join((str(error) if expected else repr(error)).split())
    if expected or author_place(error):
        return reason + author_place(error)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if pathlib.Path(frame.filename).is_relative_to(_HERE)]
    frame = (ours or frames)[-1]
    return f"{reason} ({frame.filename}:{frame.lineno})"


def author_place(error: BaseException) -> str:
    """Return ' (file:line)' of the last frame outside this package and its libraries, or ''."""
    theirs = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not pathlib.Path(frame.filename).is_relative_to(_HERE)
        and not frame.filename.startswith((*_LIBRARIES, "<"))
    ]
    return f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""


@contextlib.contextmanager
def blame(name: str) -> Iterator[None]:
    """Turn any error of the author's code into a one-line ValueError that starts with `name`."""
    try:
        yield
    except Exception as error:
        reason = describe(error)
        prefix = "" if reason.startswith(f"{name}:") else f"{name}: "
        raise ValueError(f"{prefix}{reason}") from error
