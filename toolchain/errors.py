"""The exit-code contract: every failure that a user can cause or must act on.

0 done, 1 internal error (any other exception), then the codes below. Each message is one line
that says what is wrong, where, and what to do.
"""


class OptcError(Exception):
    """Base; `exit_code` is what the process returns."""

    exit_code = 1


class UsageError(OptcError):
    """Unknown pass or option, value out of range, contradictory flags."""

    exit_code = 2


class UnreadableError(OptcError):
    """A model or data file that is missing, damaged, of the wrong names, shapes or types."""

    exit_code = 3


class NothingAppliedError(OptcError):
    """No layer was changed; nothing is written."""

    exit_code = 4


class VerificationError(OptcError):
    """The rewritten model does not do what was promised; kept aside as ``*.rejected.onnx``."""

    exit_code = 5


class GateError(OptcError):
    """A gate (``--max-drop``, ``--min-speedup``, ``--max-size``) was missed."""

    exit_code = 6


class MissingComponentError(OptcError):
    """A compiler or an optional package is needed and absent."""

    exit_code = 7
