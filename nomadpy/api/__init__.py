"""THE COUNTER: Nomad's HTTP API over a server and a client.

May import server, client and below. Main types: ``router.Operation`` (one thing that can be asked) and ``call.Call``
(one request). The table of everything is ``routes.OPERATIONS``; ``serve.serve`` is the HTTP server under it.
"""
