"""The one exception that stands for a mistake a user can mend."""


class UserError(Exception):
    """A mistake in the input, with a message of one line: the file or parameter, and the fix.

    The command line prints the message and exits with 1; every other exception is a bug and keeps its traceback.
    """
