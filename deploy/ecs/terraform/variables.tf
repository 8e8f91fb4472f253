variable "environment" {
  description = "Name of the Layover environment; it is in the name of everything this module makes."
  type        = string
  default     = "dev"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,15}$", var.environment))
    error_message = "The environment's name is 1 to 16 of a-z, 0-9 and -, a letter first: names of load balancers are short."
  }
}

variable "image" {
  description = "Image of Layover with its layover.yaml at /etc/layover/layover.yaml, as scripts/image --config builds it."
  type        = string
}

variable "architecture" {
  description = "Architecture of the image: X86_64 or ARM64."
  type        = string
  default     = "X86_64"

  validation {
    condition     = contains(["X86_64", "ARM64"], var.architecture)
    error_message = "Fargate runs X86_64 and ARM64."
  }
}

variable "domain" {
  description = "Domain of the services: each is at <service>.<domain>. Inside of the VPC every name below it leads to the proxies; a public domain of that name is not seen there any more."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$", var.domain))
    error_message = "Write a domain of two labels at least, in lower case, such as shop.example.com."
  }
}

variable "zone_id" {
  description = "A private hosted zone of the domain that is there already. The module makes one where this is empty."
  type        = string
  default     = ""
}

variable "vpc_id" {
  description = "The VPC of the services."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets of server, proxies, database and the inner load balancer, in two Availability Zones at least. They need a way to ECR, CloudWatch Logs, Secrets Manager, ECS and SQS: a NAT gateway or endpoints."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "Name two subnets at least: server and standby are to survive an Availability Zone."
  }
}

variable "client_networks" {
  description = "Networks that may use the proxies through the inner load balancer. Those of the VPC where this is empty."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for n in var.client_networks : can(cidrhost(n, 0))])
    error_message = "Write networks as CIDR, such as 10.0.0.0/8."
  }
}

variable "admin_networks" {
  description = "Networks that may use the API, for people and CI: whoever reaches it can run any version. Nobody where this is empty."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for n in var.admin_networks : can(cidrhost(n, 0)) && n != "0.0.0.0/0"])
    error_message = "Write networks as CIDR, such as 10.8.0.0/16, and never the whole Internet: the API has no accounts."
  }
}

variable "service_security_groups" {
  description = "Security groups of the tasks of your services. Proxies and servers are let in there, to send requests and to check health."
  type        = map(string)
  default     = {}
}

variable "service_ports" {
  description = "The ports at which those tasks listen."
  type        = object({ from = number, to = number })
  default     = { from = 1024, to = 65535 }

  validation {
    condition     = var.service_ports.from >= 1 && var.service_ports.from <= var.service_ports.to && var.service_ports.to <= 65535
    error_message = "The ports are a range within 1 to 65535."
  }
}

variable "clusters" {
  description = "Names of the ECS clusters, of this account and region, in which versions run. The first is the default, and has Layover itself, too."
  type        = list(string)

  validation {
    condition     = length(var.clusters) >= 1
    error_message = "Name one cluster at least."
  }
}

variable "policy_json" {
  description = "The policy of the servers, as layover ecs iam-policy prints it. No more is given to them."
  type        = string

  validation {
    condition     = can(jsondecode(var.policy_json).Statement)
    error_message = "This is no IAM policy; write: policy_json = file(\"policy.json\")."
  }
}

variable "server" {
  description = "Size of each of the two servers, as Fargate has it: CPU units and MiB."
  type        = object({ cpu = number, memory = number })
  default     = { cpu = 256, memory = 512 }

  validation {
    condition = contains(flatten([
      for cpu, sizes in {
        "256"  = [512, 1024, 2048]
        "512"  = range(1024, 4097, 1024)
        "1024" = range(2048, 8193, 1024)
        "2048" = range(4096, 16385, 1024)
        "4096" = range(8192, 30721, 1024)
      } : [for memory in sizes : "${cpu}/${memory}"]
    ]), "${var.server.cpu}/${var.server.memory}")
    error_message = "Fargate has no such size; the smallest are 256/512, 256/1024, 512/1024 and 1024/2048."
  }
}

variable "proxy" {
  description = "Number and size of the proxies, as Fargate has it: CPU units and MiB."
  type        = object({ count = number, cpu = number, memory = number })
  default     = { count = 2, cpu = 256, memory = 512 }

  validation {
    condition     = var.proxy.count >= 1 && var.proxy.count <= 1000
    error_message = "A server takes the reports of 1 to 1,000 proxies."
  }

  validation {
    condition = contains(flatten([
      for cpu, sizes in {
        "256"  = [512, 1024, 2048]
        "512"  = range(1024, 4097, 1024)
        "1024" = range(2048, 8193, 1024)
        "2048" = range(4096, 16385, 1024)
        "4096" = range(8192, 30721, 1024)
      } : [for memory in sizes : "${cpu}/${memory}"]
    ]), "${var.proxy.cpu}/${var.proxy.memory}")
    error_message = "Fargate has no such size; the smallest are 256/512, 256/1024, 512/1024 and 1024/2048."
  }
}

variable "password_secret_arn" {
  description = "ARN of the secret, in Secrets Manager, whose whole text is the password of the database. It is made by hand; ECS gives it to the servers."
  type        = string

  validation {
    condition     = can(regex("^arn:[a-z-]+:secretsmanager:", var.password_secret_arn))
    error_message = "Give the ARN of a secret, such as arn:aws:secretsmanager:eu-central-1:111122223333:secret:layover-dev-AbCdEf."
  }
}

variable "secret_kms_key_arn" {
  description = "The KMS key of that secret, where it is not the one of AWS."
  type        = string
  default     = ""
}

variable "store" {
  description = "Address of a PostgreSQL database that is there already, without the password. The module makes a database where this is empty."
  type        = string
  default     = ""

  validation {
    condition     = var.store == "" || can(regex("^postgres(ql)?://[^:@/]+@", var.store))
    error_message = "Write the address as postgres://USER@HOST/DATABASE?sslmode=verify-full; the password is in the secret."
  }
}

variable "database" {
  description = "The database that the module makes: class, GiB, whether it has a standby in a second zone, how many days of backups are kept, whether it may be deleted, and whose certificate is expected of it. verify-full needs an image with the authorities of RDS: scripts/image --ca."
  type = object({
    class               = optional(string, "db.t4g.micro")
    storage             = optional(number, 20)
    engine_version      = optional(string, "17")
    multi_az            = optional(bool, false)
    backup_days         = optional(number, 7)
    deletion_protection = optional(bool, true)
    sslmode             = optional(string, "verify-full")
  })
  default = {}

  validation {
    condition     = contains(["require", "verify-ca", "verify-full"], var.database.sslmode)
    error_message = "The connection to the database is require, verify-ca or verify-full."
  }
}

variable "password" {
  description = "The text of that secret, for the database that the module makes; see examples/dev. It is written only, and is neither in the state nor in a plan."
  type        = string
  default     = null
  ephemeral   = true

  validation {
    condition     = var.store != "" || var.password != null
    error_message = "The module makes a database, and needs its password: read it from the secret as examples/dev does, or name a database of yours in store."
  }
}

variable "password_version" {
  description = "Count this up when the secret's text has changed, so that the database that the module makes gets it."
  type        = number
  default     = 1
}

variable "certificate_arn" {
  description = "Certificate, in ACM, of *.<domain>, for people's browsers. There is no load balancer for them where this is empty."
  type        = string
  default     = ""
}

variable "public_subnet_ids" {
  description = "Subnets of the load balancer for browsers, in two Availability Zones at least. Other ones than subnet_ids: what comes from there is believed to say who the client is."
  type        = list(string)
  default     = []
}

variable "browser_networks" {
  description = "Networks that may use the load balancer for browsers. Nobody where this is empty."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for n in var.browser_networks : can(cidrhost(n, 0))])
    error_message = "Write networks as CIDR, such as 203.0.113.0/24."
  }
}

variable "browser_balancer_internal" {
  description = "Whether the load balancer for browsers is inside of the VPC only."
  type        = bool
  default     = true
}

variable "log_days" {
  description = "How long CloudWatch Logs keeps what servers and proxies write."
  type        = number
  default     = 30
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
