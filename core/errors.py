"""Errors with an exit code: a user's mistake is 2, a failure is 1."""


class RaymillError(Exception):
    """A failure that is no bug: one readable line, exit code 1."""

    exit_code = 1


class UserError(RaymillError):
    """Something the user can mend. The message says what is wrong, where, and how to mend it; exit code 2."""

    exit_code = 2
