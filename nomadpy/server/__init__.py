"""THE OFFICE: takes orders, proposes changes, decides placements, and keeps the leader's duties.

May import scheduler, state, jobspec, raft, rpc and model; never the client. Main type: ``server.Server``. What may be
asked of it is in ``handlers``; what it does by itself is in ``leader``.
"""
