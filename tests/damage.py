"""What may happen to a file after it was written, each as a function of its path."""


def flip_byte(path):
    raw = path.read_bytes()
    middle = len(raw) // 2
    path.write_bytes(raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :])


def change_digit(path):
    """Change the last digit of the file."""
    raw = path.read_bytes()
    last = max(raw.rfind(b"%d" % digit) for digit in range(10))
    path.write_bytes(
        raw[:last] + (b"1" if raw[last : last + 1] != b"1" else b"2") + raw[last + 1 :]
    )


def lose_last_line(path):
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def repeat_last_line(path):
    raw = path.read_bytes()
    path.write_bytes(raw + raw.splitlines(keepends=True)[-1])


def cut_in_half(path):
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


DAMAGES = [
    flip_byte,
    change_digit,
    lose_last_line,
    repeat_last_line,
    cut_in_half,
    empty,
    delete,
]
