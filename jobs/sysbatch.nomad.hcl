# Once on every node, to the end: here a note of each node's kernel and processors.
#
#     nomadpy job run jobs/sysbatch.nomad.hcl
job "sysbatch" {
  # Like a system job it runs on every node, like a batch it is done when its tasks have ended.
  type = "sysbatch"

  group "inventory" {
    restart {
      attempts = 1
      interval = "5m"
      delay    = "5s"
      mode     = "fail"
    }

    task "facts" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "echo \"$NODE: $(uname -sr), $(nproc) processors\""]
      }

      # References to the node are filled in where the task runs.
      env {
        NODE = "${node.unique.name}"
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
