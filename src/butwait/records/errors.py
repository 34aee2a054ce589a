"""The one exception that a user may cause."""


class UserError(Exception):
    """A mistake the user can mend.

    The message is one sentence: what is wrong, where, and how to mend it. The command line
    prints it without a traceback and leaves with exit code 2.
    """
