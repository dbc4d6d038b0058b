"""The tables of everything that a job file may hold, by area; ``job.JOB`` is the root of all of them."""
