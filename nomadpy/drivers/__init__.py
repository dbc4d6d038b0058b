"""THE HANDS: ways to run a task. The published protocol is ``contract.Driver``; packages may bring their own.

May import model. Shipped: raw_exec, exec, java (on ``process`` and the ``executor``), docker, mock_driver. Entry point:
``registry.load_drivers``. This file must import nothing: every executor process loads it.
"""
