"""THE LOG: bytes in, bytes out, in the same order on every server. It does not know what a job is.

May import model. Main type: ``contract.Log``. Agents run ``raftlog.RaftLog``, alone or with others: ``core.Core``
around an unmodified pysyncobj, ``wal``, ``snapshot``, ``links``. ``memory.MemoryLog`` is for tests and benchmarks, and
``journal`` reads what earlier versions stored.
"""
