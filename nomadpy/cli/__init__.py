"""THE VOICE: the command line. It speaks HTTP with an agent and never sees the server's inside.

Entry point: ``main.main``; the table of commands is ``commands``. What is shown is made by pure renderers in ``views``.
"""
