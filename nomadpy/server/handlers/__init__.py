"""What may be asked of a server, one class per noun: check the caller, check the request, propose, answer.

Reads that only show stored objects are made by the API straight on ``Server.store``; what decides or changes is here.
"""
