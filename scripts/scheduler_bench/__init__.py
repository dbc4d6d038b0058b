"""The benchmark of the scheduler: worlds, workloads, and a checker of its own."""
