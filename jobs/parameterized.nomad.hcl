# A batch that starts when it is asked to, with a payload and parameters.
#
#     nomadpy job run jobs/parameterized.nomad.hcl
#     echo "some words to count" | nomadpy job dispatch -meta title=words parameterized -
job "parameterized" {
  type = "batch"

  # The job itself runs nothing. Each dispatch launches a child job with what it was given.
  parameterized {
    payload       = "required"
    meta_required = ["title"]
    meta_optional = ["unit"]
  }

  # What a dispatch does not set stays as it is here.
  meta {
    unit = "words"
  }

  group "count" {
    task "words" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "echo \"$NOMAD_META_title: $(wc -w < \"$NOMAD_TASK_DIR/input.txt\") $NOMAD_META_unit\""]
      }

      # Where the payload is put, below local/.
      dispatch_payload {
        file = "input.txt"
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
