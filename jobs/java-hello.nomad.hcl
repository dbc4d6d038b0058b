# A Java program. By default it is a small class that this file carries along, so nothing needs to be fetched or compiled.
#
#     nomadpy job run jobs/java-hello.nomad.hcl
#
# A program of your own:
#
#     nomadpy job run -var class=org.example.Main -var class_path=/opt/example/lib jobs/java-hello.nomad.hcl
variable "class" {
  description = "The class whose main method is run."
  type        = string
  default     = "Hello"
}

variable "class_path" {
  description = "Where classes are found: directories and jars, separated by colons. $${...} is filled in on the node."
  type        = string
  default     = "$${NOMAD_ALLOC_DIR}/classes"
}

job "java-hello" {
  type = "batch"

  group "java" {
    # Runs before the program and puts the class where all tasks of the group can read it.
    task "unpack" {
      driver = "raw_exec"

      lifecycle {
        hook = "prestart"
      }

      config {
        command = "/bin/sh"
        args = ["-c", <<-EOT
          mkdir -p "$NOMAD_ALLOC_DIR/classes"
          echo "$HELLO_CLASS" | base64 -d > "$NOMAD_ALLOC_DIR/classes/Hello.class"
        EOT
        ]
      }

      env {
        # Hello.class: its main method prints "Hello from Java" and the version.
        HELLO_CLASS = <<-EOT
          yv66vgAAADQAJQoAAgADBwAEDAAFAAYBABBqYXZhL2xhbmcvT2JqZWN0AQAGPGluaXQ+AQADKClWCQAIAAkHAAoMAAsADAEA
          EGphdmEvbGFuZy9TeXN0ZW0BAANvdXQBABVMamF2YS9pby9QcmludFN0cmVhbTsIAA4BABBIZWxsbyBmcm9tIEphdmEgCAAQ
          AQAMamF2YS52ZXJzaW9uCgAIABIMABMAFAEAC2dldFByb3BlcnR5AQAmKExqYXZhL2xhbmcvU3RyaW5nOylMamF2YS9sYW5n
          L1N0cmluZzsKABYAFwcAGAwAGQAUAQAQamF2YS9sYW5nL1N0cmluZwEABmNvbmNhdAoAGwAcBwAdDAAeAB8BABNqYXZhL2lv
          L1ByaW50U3RyZWFtAQAHcHJpbnRsbgEAFShMamF2YS9sYW5nL1N0cmluZzspVgcAIQEABUhlbGxvAQAEQ29kZQEABG1haW4B
          ABYoW0xqYXZhL2xhbmcvU3RyaW5nOylWACEAIAACAAAAAAACAAEABQAGAAEAIgAAABEAAQABAAAABSq3AAGxAAAAAAAJACMA
          JAABACIAAAAdAAMAAQAAABGyAAcSDRIPuAARtgAVtgAasQAAAAAAAA==
        EOT
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    task "hello" {
      driver = "java"

      # Instead of class and class_path there may be a jar_path.
      config {
        class       = var.class
        class_path  = var.class_path
        jvm_options = ["-Xmx64m"]
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
