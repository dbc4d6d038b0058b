# A small web page, served by Python's own web server.
#
#     nomadpy job run jobs/web.nomad.hcl
#     nomadpy job status web
#
# The allocation's status shows the address and port at which the page can be read.
job "web" {
  # A service is kept running: when it stops, it is started again.
  type = "service"

  group "page" {
    count = 1

    # The node picks a free port. Tasks find its number in NOMAD_PORT_http.
    network {
      port "http" {}
    }

    # A task that fails is started again on its node, at most three times in ten minutes.
    restart {
      attempts = 3
      interval = "10m"
      delay    = "5s"
      mode     = "fail"
    }

    task "server" {
      # raw_exec starts a program as it is, without walls around it.
      driver = "raw_exec"

      # The shell writes the page and then becomes the web server. "$NAME" is the shell's; "${NAME}" would be filled in
      # before the shell sees it.
      config {
        command = "/bin/sh"
        args = ["-c", <<-EOT
          mkdir -p "$NOMAD_TASK_DIR/www"
          echo "<h1>$GREETING from allocation $NOMAD_SHORT_ALLOC_ID</h1>" > "$NOMAD_TASK_DIR/www/index.html"
          exec python3 -u -m http.server --bind "$NOMAD_IP_http" --directory "$NOMAD_TASK_DIR/www" "$NOMAD_PORT_http"
        EOT
        ]
      }

      env {
        GREETING = "Hello"
      }

      # What the task may count on: cpu in MHz, memory in MB.
      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
