"""What a machine is: attributes and resources that the scheduler matches jobs against.

Each module looks at one part of the host and returns ``Facts``; ``node.py`` joins them into a ``Node``. Everything here
blocks (files, system calls) and belongs in a worker thread; nothing is sent anywhere.
"""
