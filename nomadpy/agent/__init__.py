"""The one place that opens sockets, clocks, logs and drivers, and wires a server and a client together.

Configuration: flags over files over defaults, merged once here and passed down as records. Entry point:
``nomadpy.agent.main.run``.
"""
