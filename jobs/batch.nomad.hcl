# Work that comes to an end: three allocations, each counting primes in its own range.
#
#     nomadpy job run jobs/batch.nomad.hcl
#     nomadpy alloc logs <allocation>
job "batch" {
  # A batch is done when its tasks have ended with exit code 0.
  type = "batch"

  group "primes" {
    # Each copy finds its number, from 0, in NOMAD_ALLOC_INDEX.
    count = 3

    # A task that fails is tried twice more before the allocation has failed.
    restart {
      attempts = 2
      interval = "5m"
      delay    = "2s"
      mode     = "fail"
    }

    # A failed allocation is placed once more, on another node if there is one.
    reschedule {
      attempts  = 1
      interval  = "1h"
      unlimited = false
    }

    # Whatever happens, an allocation is stopped after ten minutes.
    max_run_duration = "10m"

    task "count" {
      driver = "raw_exec"

      config {
        command = "python3"
        args = ["-c", <<-EOT
          import os
          first = int(os.environ["NOMAD_ALLOC_INDEX"]) * int(os.environ["RANGE"])
          last = first + int(os.environ["RANGE"])
          primes = [n for n in range(max(first, 2), last) if all(n % d for d in range(2, int(n**0.5) + 1))]
          print(f"{len(primes)} primes from {first} to {last}")
        EOT
        ]
      }

      env {
        RANGE = 20000
      }

      resources {
        cpu    = 200
        memory = 64
      }
    }
  }
}
