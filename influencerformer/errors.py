"""The one exception that is the user's to fix."""


class UserError(ValueError):
    """Bad input from outside: a file, an option or a data set that cannot be used.

    The message is one sentence: what was expected, what came, what to do. The command line prints it
    without a stack trace and exits with code 2.
    """
