# A program behind walls: the exec driver gives it a root directory, processes and limits of its own.
# The agent has to run as root on Linux for that.
#
#     nomadpy job run jobs/exec.nomad.hcl
job "exec" {
  type = "batch"

  group "walls" {
    task "look-around" {
      driver = "exec"

      # Who the program runs as; nobody is the default.
      user = "nobody"

      config {
        command = "/bin/sh"
        args    = ["-c", "id; echo; ls /; echo; ps ax 2>/dev/null || ls -d /proc/[0-9]*; echo; env | sort"]
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
