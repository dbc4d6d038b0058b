"""nomadpy: one program that runs jobs on many machines, in the manner of Nomad.

The rooms and the rules between them are drawn in ARCHITECTURE.md.
"""

__version__ = "0.1.0"
