# One copy on every node: here a watcher that writes the node's load to its log.
#
#     nomadpy job run jobs/system.nomad.hcl
job "system" {
  # A system job has one allocation on every node that meets its constraints, nodes that join later included.
  type = "system"

  constraint {
    attribute = "${attr.kernel.name}"
    value     = "linux"
  }

  group "watch" {
    task "load" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args = ["-c", <<-EOT
          echo "Watching ${node.unique.name}"
          while :; do
            cat /proc/loadavg
            sleep 10
          done
        EOT
        ]
      }

      # Old output goes when these are full.
      logs {
        max_files     = 2
        max_file_size = 1
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
