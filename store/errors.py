"""Errors of the store; each message is one sentence that a user can act on."""


class StoreError(Exception):
    """Base of everything the store refuses; the message is meant for the user."""


class InvalidDataError(StoreError):
    """Rows that do not fit the schema: unknown, missing or wrong-typed columns, NaN, forbidden NULL."""


class InvalidNameError(StoreError):
    """A run id or shard name that must not become part of a path."""


class CorruptShardError(StoreError):
    """A Parquet shard that is damaged, missing, or not the one that was sealed."""


class CorruptStoreError(StoreError):
    """A manifest, generation file or pointer that cannot be read."""


class NewerSchemaError(StoreError):
    """Written by a newer version than this one."""


class NotFoundError(StoreError):
    """A run, table or column that is not there."""


class MissingStoreError(StoreError):
    """A data folder without a published generation."""


class StoreBusyError(StoreError):
    """Another process is doing what only one may do at a time."""


class PublisherBusyError(StoreBusyError):
    """Another process holds the publisher's lock."""


class WriteError(StoreError):
    """A file that cannot be written: disk full, read-only, no permission, no file handles left.

    ``full`` says that room on the disk, or in a quota, is what was missing.
    """

    def __init__(self, message: str, full: bool = False) -> None:
        super().__init__(message)
        self.full = full
