"""THE RUMOUR: who is there, and who is not any more.

May import model. Main types: ``contract.Gossip`` (what the agent asks of it) and ``contract.Member``. The protocol is
SWIM with suspicion and Lifeguard's local health, as a machine without I/O; a trio driver gives it sockets and time.
"""
