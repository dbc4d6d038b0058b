# Every block that a job file may have, at least once. Read by test_everything.py, measured by scripts/bench_jobspec.
variable "image_tag" {
  type    = string
  default = "1.2"
}

variables {
  region_names = ["north", "south"]
}

locals {
  image = "registry.example/app:${var.image_tag}"
}

job "every/thing" {
  name        = "Everything"
  type        = "service"
  region      = "north"
  namespace   = "team-a"
  datacenters = ["dc1", "dc-*"]
  node_pool   = "gpu"
  priority    = 70
  all_at_once = true

  meta = {
    "owner.name" = "ops"
    number       = 3
  }

  constraint {
    attribute = "${attr.kernel.name}"
    value     = "linux"
  }

  constraint {
    attribute = "${attr.nomad.version}"
    version   = ">= 1.4"
  }

  constraint {
    distinct_property = "${meta.rack}"
    value             = "2"
  }

  constraint {
    distinct_hosts = true
  }

  constraint {
    attribute = "${meta.ssd}"
    operator  = "is_set"
  }

  affinity {
    attribute = "${node.class}"
    regexp    = "^fast"
    weight    = -20
  }

  spread {
    attribute = "${node.datacenter}"
    weight    = 80

    target "dc1" {
      percent = 70
    }

    dynamic "target" {
      for_each = ["dc2"]
      labels   = [target.value]
      content {
        percent = 30
      }
    }
  }

  update {
    max_parallel      = 2
    health_check      = "task_states"
    min_healthy_time  = "15s"
    healthy_deadline  = "2m"
    progress_deadline = "1h"
    auto_revert       = true
    auto_promote      = true
    canary            = 1
    stagger           = "20s"
  }

  migrate {
    max_parallel     = 3
    health_check     = "checks"
    min_healthy_time = "11s"
    healthy_deadline = "3m"
  }

  reschedule {
    attempts       = 4
    interval       = "1h"
    delay          = "30s"
    delay_function = "fibonacci"
    max_delay      = "5m"
    unlimited      = false
  }

  multiregion {
    strategy {
      max_parallel = 1
      on_failure   = "fail_all"
    }

    dynamic "region" {
      for_each = var.region_names
      labels   = [region.value]
      content {
        count       = region.key + 1
        datacenters = ["${region.value}-1"]
        node_pool   = "p"
        meta {
          where = region.value
        }
      }
    }
  }

  vault {
    role     = "job"
    policies = ["p1"]
  }

  ui {
    description = "All of it"
    link {
      label = "Docs"
      url   = "https://example.org"
    }
  }

  task "lone" {
    driver = "raw_exec"
    config {
      command = "true"
    }
  }

  group "main" {
    count                        = 2
    shutdown_delay               = "4s"
    stop_after_client_disconnect = "90s"

    network {
      mode     = "bridge"
      hostname = "app-${NOMAD_ALLOC_INDEX}"
      port "http" {
        to           = -1
        host_network = "public"
      }
      port "admin" {
        static           = 9000
        to               = 90
        ignore_collision = true
      }
      dns {
        servers  = ["1.1.1.1"]
        searches = ["example.org"]
        options  = ["ndots:2"]
      }
      cni {
        args = {
          "key.1" = "v"
        }
      }
    }

    volume "data" {
      type            = "csi"
      source          = "vol"
      read_only       = true
      access_mode     = "single-node-writer"
      attachment_mode = "file-system"
      per_alloc       = true
      sticky          = true
      mount_options {
        fs_type     = "ext4"
        mount_flags = ["noatime"]
      }
    }

    restart {
      attempts         = 1
      interval         = "10m"
      delay            = "1s"
      mode             = "delay"
      render_templates = true
    }

    disconnect {
      lost_after           = "6h"
      stop_on_client_after = "2h"
      replace              = false
      reconcile            = "keep_original"
    }

    ephemeral_disk {
      size    = 500
      sticky  = true
      migrate = true
    }

    scaling {
      min     = 1
      max     = 5
      enabled = false
      policy {
        cooldown = "1m"
        check "load" {
          source = "prometheus"
          strategy "target-value" {
            target = 70
          }
        }
      }
    }

    consul {
      namespace = "n"
      cluster   = "c"
      partition = "p"
    }

    secret "db" {
      provider = "vault"
      path     = "kv/db"
      config {
        engine = "kv_v2"
      }
    }

    service {
      name                = "web-${JOB}"
      provider            = "consul"
      port                = "http"
      address_mode        = "alloc"
      tags                = ["a", "b"]
      canary_tags         = ["canary"]
      enable_tag_override = true
      task                = "srv"
      on_update           = "ignore_warnings"
      cluster             = "default"
      meta {
        k = "v"
      }
      canary_meta {
        k = "c"
      }
      tagged_addresses {
        wan = "1.2.3.4"
      }
      weights {
        passing = 3
        warning = 2
      }
      identity {
        aud = ["consul.io"]
        ttl = "1h"
      }
      check {
        name                     = "alive"
        type                     = "http"
        path                     = "/health"
        protocol                 = "https"
        method                   = "POST"
        body                     = "ping"
        interval                 = "10s"
        timeout                  = 2000000000
        initial_status           = "critical"
        tls_skip_verify          = true
        tls_server_name          = "app"
        success_before_passing   = 2
        failures_before_critical = 3
        failures_before_warning  = 1
        expose                   = true
        notes                    = "n"
        header {
          X-Probe = ["1", "2"]
        }
        check_restart {
          limit           = 3
          grace           = "10s"
          ignore_warnings = true
        }
      }
      check {
        type         = "grpc"
        grpc_service = "s"
        grpc_use_tls = true
        interval     = "10s"
        timeout      = "1s"
      }
      connect {
        sidecar_service {
          tags                      = ["side"]
          port                      = "proxy"
          disable_default_tcp_check = true
          meta {
            a = "b"
          }
          proxy {
            local_service_address = "127.0.0.1"
            local_service_port    = 8080
            upstreams {
              destination_name = "db"
              local_bind_port  = 5432
              mesh_gateway {
                mode = "local"
              }
              config {
                limits {
                  max_connections = 9
                }
              }
            }
            expose {
              path {
                path            = "/metrics"
                protocol        = "http"
                local_path_port = 9100
                listener_port   = "metrics"
              }
            }
            transparent_proxy {
              uid                    = "101"
              outbound_port          = 15001
              exclude_inbound_ports  = ["22", "admin"]
              exclude_outbound_ports = [443, 80]
              exclude_outbound_cidrs = ["10.0.0.0/8"]
              exclude_uids           = ["1"]
              no_dns                 = true
            }
          }
        }
        sidecar_task {
          driver         = "docker"
          kill_timeout   = "7s"
          shutdown_delay = "2s"
          logs {
            max_files = 1
          }
          resources {
            cpu = 250
          }
        }
      }
    }

    service {
      name = "gate"
      connect {
        gateway {
          proxy {
            connect_timeout                     = "6s"
            envoy_gateway_bind_tagged_addresses = true
            envoy_dns_discovery_type            = "STRICT_DNS"
            envoy_gateway_bind_addresses "lan" {
              address = "10.0.0.1"
              port    = 8443
            }
          }
          ingress {
            tls {
              enabled = true
            }
            listener {
              port     = 8080
              protocol = "http"
              service {
                name  = "web"
                hosts = ["web.example"]
                request_headers {
                  add = {
                    x = "y"
                  }
                  remove = ["z"]
                }
                max_connections = 4
              }
            }
          }
          terminating {
            service {
              name    = "db"
              ca_file = "ca.pem"
              sni     = "db.example"
            }
          }
          mesh {}
        }
      }
    }

    task "srv" {
      driver         = "docker"
      user           = "app"
      leader         = true
      kill_timeout   = "20s"
      kill_signal    = "SIGTERM"
      shutdown_delay = "1s500ms"
      kind           = "k"

      config {
        image = local.image
        ports = ["http"]
        tty   = true
        labels {
          team = "a"
        }
        sysctl = {
          "net.core.somaxconn" = "1024"
        }
        mount {
          type   = "tmpfs"
          target = "/tmp"
          tmpfs_options {
            size = 1.5e6
          }
        }
        mount {
          type   = "bind"
          target = "/x"
        }
      }

      env {
        PORT  = "${NOMAD_PORT_http}"
        DEBUG = true
      }

      resources {
        cores      = 2
        memory     = 512
        memory_max = 1024
        secrets    = 5
        device "nvidia/gpu" {
          count = 2
          constraint {
            attribute = "${device.attr.memory}"
            operator  = ">="
            value     = "4 GiB"
          }
          affinity {
            attribute        = "${device.model}"
            set_contains_any = "a,b"
          }
        }
        numa {
          affinity = "prefer"
          devices  = ["nvidia/gpu"]
        }
      }

      template {
        data          = <<-EOT
          key = {{ key "x" }}
          literal = $${HOME}
        EOT
        destination   = "local/app.conf"
        change_mode   = "script"
        splay         = "0s"
        perms         = "0600"
        uid           = 1000
        gid           = 1001
        env           = false
        wait {
          min = "2s"
          max = "10s"
        }
        change_script {
          command       = "/bin/reload"
          args          = ["-f"]
          timeout       = "3s"
          fail_on_error = true
        }
      }

      artifact {
        source      = "https://example.org/a.tgz"
        destination = "local/a"
        mode        = "dir"
        insecure    = true
        chown       = true
        options {
          checksum = "md5:0123"
          depth    = 1
        }
        headers {
          User-Agent = "x"
        }
      }

      volume_mount {
        volume           = "data"
        destination      = "/data"
        read_only        = true
        propagation_mode = "host-to-task"
        selinux_label    = "Z"
      }

      logs {
        max_files     = 3
        max_file_size = 4
        disabled      = true
      }

      identity {
        env  = true
        file = true
      }

      identity {
        name          = "aws"
        aud           = ["sts"]
        ttl           = "15m"
        change_mode   = "signal"
        change_signal = "SIGUSR1"
        filepath      = "local/token"
      }

      vault {
        role = "own"
        env  = false
      }

      secret "api" {
        provider = "nomad"
        path     = "secret/api"
      }

      action "flush" {
        command = "/bin/flush"
        args    = ["--all"]
      }

      scaling "cpu" {
        min = 100
        max = 500
      }

      csi_plugin {
        id             = "p"
        type           = "node"
        mount_dir      = "/m"
        health_timeout = "1m"
      }

      schedule {
        cron {
          start    = "0 0 8 * * *"
          end      = "0 18"
          timezone = "UTC"
        }
      }
    }

    task "init" {
      driver = "exec"
      lifecycle {
        hook    = "prestart"
        sidecar = false
      }
      dispatch_payload {
        file = "in.txt"
      }
    }
  }
}
