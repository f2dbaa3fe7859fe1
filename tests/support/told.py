"""What a command told its user."""


def error_line(err: str) -> str:
    """The one line of an error in what a command wrote to stderr, beside lines of Paddle's own."""
    assert "Traceback" not in err, err
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    return line
