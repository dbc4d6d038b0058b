"""THE NOUNS: what jobs, nodes, allocations and evaluations are, each declared once as a frozen record.

Imports nothing of this package. Main types: ``Job``, ``Node``, ``Allocation``, ``Evaluation``. On the same
declarations hang their JSON (``wire``, ``decode``), their defaults (``canonical``), their rules (``validate``,
``admission``) and their differences (``diff``). Pure: no clock, no chance, no files.
"""
