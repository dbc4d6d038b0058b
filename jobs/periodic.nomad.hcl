# A batch that starts by the clock: every two minutes, and at midnight.
#
#     nomadpy job run jobs/periodic.nomad.hcl
#     nomadpy job periodic force periodic      # start one now
job "periodic" {
  type = "batch"

  # The job itself runs nothing. At each time it launches a child job, named periodic/periodic-<time>.
  periodic {
    # Minute, hour, day of the month, month, day of the week; or a word such as @daily.
    crons            = ["*/2 * * * *", "@daily"]
    time_zone        = "Europe/Berlin"
    prohibit_overlap = true
  }

  group "report" {
    task "write" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "echo \"$NOMAD_JOB_ID, launched by $NOMAD_JOB_PARENT_ID, ran at $(date)\""]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
