"""The store: every inspection, dropped frame and answer in one SQLite file, before anybody else hears of it."""

from dskd.runtime.store.file import StoreBroken, StoreDamaged, StoreError, StoreFull, StoreLocked
from dskd.runtime.store.reader import Audited, Count, Scored, StoreReader
from dskd.runtime.store.records import Kind, Record
from dskd.runtime.store.search import Label, Search
from dskd.runtime.store.writer import Store

__all__ = [
    "Audited",
    "Count",
    "Kind",
    "Label",
    "Record",
    "Scored",
    "Search",
    "Store",
    "StoreBroken",
    "StoreDamaged",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreReader",
]
