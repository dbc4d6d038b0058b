"""THE WIRE: the words that clients and servers say to each other.

May import model. Main types: ``contract.ServerEndpoint`` (what a client asks) and ``contract.ClientEndpoint`` (what
is asked of the node that owns an allocation). Within one agent they are plain method calls.
"""
