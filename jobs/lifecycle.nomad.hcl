# Tasks before, beside and after the main task of a group. All of them share the directory NOMAD_ALLOC_DIR.
#
#     nomadpy job run jobs/lifecycle.nomad.hcl
job "lifecycle" {
  type = "batch"

  group "story" {
    # Runs to its end before anything else starts.
    task "prepare" {
      driver = "raw_exec"

      lifecycle {
        hook = "prestart"
      }

      config {
        command = "/bin/sh"
        args    = ["-c", "echo prepared > \"$NOMAD_ALLOC_DIR/story\""]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    # A sidecar starts before the main task too, and is stopped when that has ended.
    task "watch" {
      driver = "raw_exec"

      lifecycle {
        hook    = "prestart"
        sidecar = true
      }

      config {
        command = "/bin/sh"
        args    = ["-c", "while :; do wc -l \"$NOMAD_ALLOC_DIR\"/story; sleep 1; done"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    # The main task: it has no lifecycle block.
    task "main" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "for n in 1 2 3; do echo \"step $n\" >> \"$NOMAD_ALLOC_DIR/story\"; sleep 1; done"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    # Runs as soon as the main task has started.
    task "announce" {
      driver = "raw_exec"

      lifecycle {
        hook = "poststart"
      }

      config {
        command = "/bin/sh"
        args    = ["-c", "echo announced >> \"$NOMAD_ALLOC_DIR/story\""]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    # Runs when the main task has ended, however that was.
    task "clean-up" {
      driver = "raw_exec"

      lifecycle {
        hook = "poststop"
      }

      config {
        command = "/bin/sh"
        args    = ["-c", "cat \"$NOMAD_ALLOC_DIR/story\"; rm \"$NOMAD_ALLOC_DIR/story\""]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
