"""The one exception for foreseeable problems with what the user gave."""


class UserError(Exception):
    """A missing or corrupt file, a bad configuration, a full disk: no bug, so no traceback.

    The message says what was wrong, what was expected and what to do. The command line prints it
    and exits with status 2.
    """
