"""THE LOG: bytes in, bytes out, in the same order on every server. It does not know what a job is.

May import model. Main type: ``contract.Log``. Implementations: ``memory.MemoryLog`` (``agent -dev``),
``journal.JournalLog`` (a single server, on disk), ``raftlog.RaftLog`` (the replicated log: ``core.Core`` around an
unmodified pysyncobj, ``wal``, ``snapshot``, ``links``), which no agent uses yet.
"""
