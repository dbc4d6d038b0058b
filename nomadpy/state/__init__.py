"""THE LEDGER: the replicated state and every way in which it can change.

May import model. Main types: ``store.StateStore`` (all tables at one index), ``commands`` (the catalogue of changes),
``view.StateView`` (what decisions read). Entry point: ``StateStore.apply(index, command) -> Outcome``, which is total
and deterministic. Pure: no clock, no chance, no files.
"""
