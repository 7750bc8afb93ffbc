"""The one exception that stands for a user's mistake."""


class EtpError(Exception):
    """Something the user can put right: which file or record, what is wrong, what to do.

    The command line prints the message on one line and exits with status 2, without a traceback.
    """
