"""Fetching artifacts: what a source means, how it is downloaded, unpacked and checked.

``source.py`` decides without I/O; ``http.py`` and ``git.py`` fetch into a directory of the client's own; ``archive.py``
unpacks there. Only what has been checked is moved to where the task asked for it.
"""
