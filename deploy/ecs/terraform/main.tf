# Layover on Amazon ECS: two servers, of which one works and one stands by, any number of proxies, and what they
# need. It was never applied to a real account; README.md says what was checked, and how.

data "aws_region" "this" {}

data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}

data "aws_vpc" "this" {
  id = var.vpc_id
}

data "aws_subnet" "public" {
  for_each = toset(local.browsers ? var.public_subnet_ids : [])
  id       = each.value
}

locals {
  name      = "layover-${var.environment}"
  namespace = "${local.name}.internal" # of servers and proxies; services have var.domain
  servers   = toset(["a", "b"])
  browsers  = var.certificate_arn != ""
  account   = data.aws_caller_identity.this.account_id
  region    = data.aws_region.this.region
  partition = data.aws_partition.this.partition
  tags      = merge({ "layover:environment" = var.environment }, var.tags)

  cluster_arns = [for c in var.clusters : "arn:${local.partition}:ecs:${local.region}:${local.account}:cluster/${c}"]

  # What the task definitions beside this folder leave open. The same files are filled in by envsubst in the
  # guide for the AWS CLI.
  settings = {
    ENVIRONMENT         = var.environment
    DOMAIN              = var.domain
    NAMESPACE           = local.namespace
    REGION              = local.region
    CLUSTER             = var.clusters[0]
    IMAGE               = var.image
    ARCHITECTURE        = var.architecture
    SERVER_CPU          = var.server.cpu
    SERVER_MEMORY       = var.server.memory
    PROXY_CPU           = var.proxy.cpu
    PROXY_MEMORY        = var.proxy.memory
    EXECUTION_ROLE_ARN  = aws_iam_role.execution.arn
    SERVER_ROLE_ARN     = aws_iam_role.server.arn
    PASSWORD_SECRET_ARN = var.password_secret_arn
    STORE               = local.store
    QUEUE_URL           = aws_sqs_queue.events.url
    LOG_GROUP           = aws_cloudwatch_log_group.this.name
    BALANCER_NETWORKS   = join(",", [for s in data.aws_subnet.public : s.cidr_block])
  }
  server_definitions = { for s in local.servers : s => jsondecode(templatefile("${path.module}/../server.json", merge(local.settings, { SERVER = s }))) }
  proxy_definition   = jsondecode(templatefile("${path.module}/../proxy.json", local.settings))
}

data "aws_ecs_cluster" "this" {
  cluster_name = var.clusters[0]
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/layover/${var.environment}"
  retention_in_days = var.log_days
  tags              = local.tags
}

resource "aws_ecs_task_definition" "server" {
  for_each = local.server_definitions

  family                   = each.value.family
  requires_compatibilities = each.value.requiresCompatibilities
  network_mode             = each.value.networkMode
  cpu                      = each.value.cpu
  memory                   = each.value.memory
  execution_role_arn       = each.value.executionRoleArn
  task_role_arn            = each.value.taskRoleArn
  container_definitions    = jsonencode(each.value.containerDefinitions)
  tags                     = local.tags

  runtime_platform {
    operating_system_family = each.value.runtimePlatform.operatingSystemFamily
    cpu_architecture        = each.value.runtimePlatform.cpuArchitecture
  }

  dynamic "volume" {
    for_each = each.value.volumes
    content {
      name = volume.value.name
    }
  }
}

# Each server is an ECS service of its own with one task, as the others reach it under a name of its own. So
# that the name never leads to two tasks, a new one starts when the old one has ended; meanwhile the other works.
resource "aws_ecs_service" "server" {
  for_each = aws_ecs_task_definition.server

  name                               = "${local.name}-server-${each.key}"
  cluster                            = data.aws_ecs_cluster.this.arn
  task_definition                    = each.value.arn
  launch_type                        = "FARGATE"
  desired_count                      = 1
  deployment_minimum_healthy_percent = 0
  deployment_maximum_percent         = 100
  availability_zone_rebalancing      = "DISABLED" # it would start the new one first
  health_check_grace_period_seconds  = 60
  propagate_tags                     = "SERVICE"
  tags                               = local.tags

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets         = var.subnet_ids
    security_groups = [aws_security_group.server.id]
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.api.arn
    container_name   = "layover"
    container_port   = 7070
  }

  service_registries {
    registry_arn = aws_service_discovery_service.server[each.key].arn
  }

  depends_on = [aws_lb_listener.api, aws_iam_role_policy.server, aws_iam_role_policy.execution, aws_iam_role_policy_attachment.execution]
}

resource "aws_ecs_task_definition" "proxy" {
  family                   = local.proxy_definition.family
  requires_compatibilities = local.proxy_definition.requiresCompatibilities
  network_mode             = local.proxy_definition.networkMode
  cpu                      = local.proxy_definition.cpu
  memory                   = local.proxy_definition.memory
  execution_role_arn       = local.proxy_definition.executionRoleArn
  container_definitions    = jsonencode(local.proxy_definition.containerDefinitions)
  tags                     = local.tags

  runtime_platform {
    operating_system_family = local.proxy_definition.runtimePlatform.operatingSystemFamily
    cpu_architecture        = local.proxy_definition.runtimePlatform.cpuArchitecture
  }

  dynamic "volume" {
    for_each = local.proxy_definition.volumes
    content {
      name = volume.value.name
    }
  }
}

# Proxies are all the same: new ones serve before old ones drain.
resource "aws_ecs_service" "proxy" {
  name                               = "${local.name}-proxy"
  cluster                            = data.aws_ecs_cluster.this.arn
  task_definition                    = aws_ecs_task_definition.proxy.arn
  launch_type                        = "FARGATE"
  desired_count                      = var.proxy.count
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = 60
  propagate_tags                     = "SERVICE"
  tags                               = local.tags

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets         = var.subnet_ids
    security_groups = [aws_security_group.proxy.id]
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.proxy.arn
    container_name   = "layover"
    container_port   = 8080
  }

  dynamic "load_balancer" {
    for_each = aws_lb_target_group.browsers
    content {
      target_group_arn = load_balancer.value.arn
      container_name   = "layover"
      container_port   = 8080
    }
  }

  depends_on = [aws_lb_listener.proxy, aws_lb_listener.browsers, aws_iam_role_policy_attachment.execution]
}
