"""The client of one node: finds out what the machine offers, runs what the servers assign, reports what became of it.

May import rpc (the contract), drivers (the contract), jobspec.hcl (expressions in a driver's config) and model.
``Client`` in ``client.py`` is the entry point: ``await nursery.start(client.run)``; it is also the ``ClientEndpoint``.
Decisions are synchronous (``task.py``, ``restart.py``, ``lifecycle.py``, ``status.py``, ``reconcile.py``,
``heartbeat.py``); the runners around them carry them out.
"""
