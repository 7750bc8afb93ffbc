"""The exception class for mistakes that a user can fix."""


class EtpError(Exception):
    """An error that the user can fix; the message names the file or record, what is wrong, and what to do.

    The command line prints the message on one line and exits with status 2, without a traceback.
    """


def one_line(error: BaseException) -> str:
    """The first line of an error's message that is not empty; the error's type where it has no message."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
