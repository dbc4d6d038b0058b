"""THE RUMOUR: who is there, and who is not any more.

May import model. Main types: ``contract.Gossip`` (what the agent asks of it) and ``contract.Member``;
``driver.Gossiper`` is it over UDP and TCP. ``swim.Swim`` is the protocol (SWIM with suspicion and Lifeguard) as a
machine without I/O; ``settings`` has its timing and the reasons, ``keyring`` the keys, ``health`` the digest.
"""
