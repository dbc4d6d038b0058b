# A web page out of a container.
#
# The image is the small one that scripts/setup-test-machine makes on the spot, so nothing is pulled. Another image with
# a shell and busybox's httpd does as well:
#
#     nomadpy job run -var image=busybox:1 jobs/docker-web.nomad.hcl
variable "image" {
  description = "An image with a shell and httpd."
  type        = string
  default     = "busybox:nomadpy"
}

job "docker-web" {
  type = "service"

  group "page" {
    # The server listens on 8080 inside the container; outside it has whatever port is free.
    network {
      port "http" {
        to = 8080
      }
    }

    task "server" {
      driver = "docker"

      config {
        image   = var.image
        command = "/bin/sh"
        args = ["-c", <<-EOT
          mkdir -p /local/www
          echo "<h1>Hello from container $NOMAD_SHORT_ALLOC_ID</h1>" > /local/www/index.html
          exec httpd -f -p 8080 -h /local/www
        EOT
        ]

        # The ports of the group that lead into this container.
        ports = ["http"]
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
