"""Names that cross the wire: metadata keys, feature names, failure kinds.

One fact, one place: everything that reads or writes Savepoint's additions to the Jupyter protocol
imports its words from here. All additions are optional; a stock front end sees a stock kernel.
"""

from __future__ import annotations

from enum import Enum

METADATA_KEY = "savepoint"
"""Key of our part in the ``metadata`` of an execute_request and an execute_reply."""

FEATURE = "savepoint"
"""What ``kernel_info_reply.supported_features`` lists when the additions are there."""


class FailureKind(str, Enum):
    """Why a cell ended as it did: ``execute_reply.metadata.savepoint.failure_kind``."""

    NONE = "none"
    EXCEPTION = "exception"
    INTERRUPT = "interrupt"
    TIMEOUT = "timeout"
    LIMIT = "limit"


EXECUTE = "execute_request"
KERNEL_INFO = "kernel_info_request"
DEBUG = "debug_request"
COMM_TYPES = frozenset({"comm_open", "comm_msg", "comm_close"})
