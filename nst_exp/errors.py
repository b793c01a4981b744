"""The exceptions for problems that users can solve themselves.

Every check raises `InputError` with a single line that names the setting, its value and the values that are allowed.
Only commands turn it into an exit code. A traceback means a defect of this program.
"""


class InputError(ValueError):
    """Raised for wrong input: a value out of range, an unreadable file, params that do not fit, a missing server."""


class OutOfMemoryError(InputError):
    """Raised if the device has too little memory for a request; a smaller picture or a smaller batch may fit."""
