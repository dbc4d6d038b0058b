# Groups and tasks made from variables: what can be computed while the file is read.
#
#     nomadpy job run -var workers=3 -var 'queues=["mail", "video"]' jobs/multi-group.nomad.hcl
#
# Values may also come from a file (-var-file) or the environment (NOMAD_VAR_workers=3).
variable "workers" {
  description = "Workers for each queue."
  type        = number
  default     = 2

  validation {
    condition     = var.workers >= 1 && var.workers <= 10
    error_message = "There must be 1 to 10 workers for each queue."
  }
}

variable "queues" {
  description = "Names of the queues; each gets a group of its own."
  type        = list(string)
  default     = ["mail", "images"]
}

variable "pause" {
  description = "Seconds between two steps, by queue; 5 for the others."
  type        = map(number)
  default     = { images = 10 }
}

locals {
  # A for expression makes one value of another: here a map from queue to label.
  titles = { for queue in var.queues : queue => title(replace(queue, "-", " ")) }
  all    = join(", ", sort(var.queues))
}

job "multi-group" {
  type = "service"

  meta {
    queues = local.all
  }

  # The first group is written out.
  group "front" {
    task "announce" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "echo \"Serving ${local.all}\"; while :; do sleep 60; done"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }

  # A dynamic block stands for one block for each element of for_each.
  dynamic "group" {
    for_each = var.queues
    iterator = queue
    labels   = ["queue-${queue.value}"]

    content {
      count = var.workers

      task "work" {
        driver = "raw_exec"

        config {
          command = "/bin/sh"
          args    = ["-c", "while :; do echo \"$TITLE, worker $NOMAD_ALLOC_INDEX\"; sleep \"$PAUSE\"; done"]
        }

        env {
          TITLE = local.titles[queue.value]
          PAUSE = lookup(var.pause, queue.value, 5)
        }

        resources {
          cpu    = 50
          memory = 32
        }
      }
    }
  }
}
