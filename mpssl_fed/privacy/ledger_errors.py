"""The named errors of a ledger: after any of them nothing may be released."""

from __future__ import annotations

from mpssl_fed.errors import UserError


class LedgerError(UserError):
    """The ledger cannot be used as it is; nothing may be released. The text names the file and the cure."""


class MissingLedgerError(LedgerError):
    """The ledger, its key or its head is not where it was."""


class ExposedKeyError(LedgerError):
    """Another user can read the key."""


class EditedRowError(LedgerError):
    """A row, or the file around it, is not as it was written."""


class DeletedRowError(LedgerError):
    """A row in the middle is gone."""


class CutTailError(LedgerError):
    """The last rows were deleted from the file."""


class RolledBackError(LedgerError):
    """The file is whole but older than its head: an earlier copy was put back."""


class WrongHeadError(LedgerError):
    """The head file is damaged, or older than one unfinished reservation."""


class LedgerWriteError(LedgerError):
    """The disk is full or failing; nothing was reserved."""


class OutsidePlanError(LedgerError):
    """A run asks for more than it committed to in its first row."""


class SharedRecordsError(LedgerError):
    """Images of one data set were already charged under another name."""


class SwappedDataError(LedgerError):
    """None of a data set's recorded images is in the data any more."""
