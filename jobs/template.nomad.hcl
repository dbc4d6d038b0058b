# Files and variables that are made on the spot: a configuration rendered from the node's and the task's facts.
#
#     nomadpy job run jobs/template.nomad.hcl
#     nomadpy logs -job template
job "template" {
  type = "batch"

  group "greeter" {
    task "greet" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "cat local/greeting.txt; echo \"at level $LOG_LEVEL with $GREETING_SUM\""]
      }

      # A file below the task's directory. local/ and secrets/ are there for it.
      template {
        destination = "local/greeting.txt"

        data = <<-EOT
          {{- $names := "alice,bob" | split "," }}
          Hello {{ range $i, $name := $names }}{{ if $i }} and {{ end }}{{ $name | toTitle }}{{ end }},
          this is {{ env "NOMAD_TASK_NAME" }} of {{ env "NOMAD_JOB_NAME" }}
          on {{ env "node.unique.name" }} ({{ env "attr.kernel.name" }}).
        EOT
      }

      # KEY=VALUE lines become variables of the task. In secrets/ no one reads them through the API.
      template {
        destination = "secrets/app.env"
        env         = true

        data = <<-EOT
          LOG_LEVEL={{ envOrDefault "NOMAD_META_level" "info" }}
          GREETING_SUM={{ "hello" | sha256Hex }}
        EOT
      }

      # What is fetched before the task starts looks like this; it needs a server that has it.
      # artifact {
      #   source      = "https://files.example/app-1.2.tar.gz"
      #   destination = "local/app"
      #   options {
      #     checksum = "sha256:…"
      #   }
      # }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
