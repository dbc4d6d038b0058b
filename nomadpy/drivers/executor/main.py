"""What ``python -I -S`` runs: finds the package again (the isolated interpreter knows no site-packages) and hands over.

``main.py supervise`` is the executor; ``main.py enter FD`` runs a command beside a task.
"""

import sys

# …/nomadpy/drivers/executor/main.py: four parts up is where nomadpy lies. Last, so that it can hide nothing.
sys.path.append(__file__.rsplit("/", 4)[0])

if __name__ == "__main__":
    if sys.argv[1] == "enter":
        from nomadpy.drivers.executor.enter import main
    else:
        from nomadpy.drivers.executor.supervise import main
    main()
