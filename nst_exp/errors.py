"""The one exception for what a user can put right.

Every check raises `InputError` with a single line that names the thing, its value and what is allowed.
Only the commands turn it into an exit code; a traceback is kept for defects of our own.
"""


class InputError(ValueError):
    """Wrong input: a value out of range, an unreadable file, params that do not fit, a server not there."""


class OutOfMemoryError(InputError):
    """The device has too little memory for what was asked; a smaller picture or a smaller batch may fit."""
