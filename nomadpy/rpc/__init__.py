"""THE WIRE: the words that agents say to each other, and the connections that carry them.

May import model. Main types: ``contract.ServerEndpoint`` (what a client asks) and ``contract.ClientEndpoint`` (what
is asked of the node that owns an allocation). Within one agent they are plain method calls; between agents
``remote.RemoteServers`` asks over a ``connection.Connection`` that ``listener.Listener`` accepted.
"""
