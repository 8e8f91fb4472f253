# terraform test: the module with everything of AWS mocked, so that nothing is made and no account is needed.

mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { region = "eu-central-1" }
  }

  mock_data "aws_caller_identity" {
    defaults = { account_id = "111122223333" }
  }

  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }

  mock_data "aws_vpc" {
    defaults = {
      cidr_block_associations = [{ association_id = "a", cidr_block = "10.0.0.0/16", state = "associated" }]
    }
  }

  mock_data "aws_subnet" {
    defaults = { cidr_block = "10.0.9.0/24" }
  }

  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }

  mock_resource "aws_db_instance" {
    defaults = { endpoint = "db.example.com:5432" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::111122223333:role/mock" }
  }

  mock_resource "aws_sqs_queue" {
    defaults = {
      arn = "arn:aws:sqs:eu-central-1:111122223333:layover-dev"
      url = "https://sqs.eu-central-1.amazonaws.com/111122223333/layover-dev"
    }
  }

  mock_resource "aws_lb_target_group" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:targetgroup/mock/0123456789abcdef" }
  }
}

variables {
  environment             = "dev"
  image                   = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/layover:dev"
  domain                  = "shop.example.com"
  clusters                = ["dev", "jobs"]
  policy_json             = "{\"Version\": \"2012-10-17\", \"Statement\": []}"
  vpc_id                  = "vpc-1"
  subnet_ids              = ["subnet-1", "subnet-2"]
  service_security_groups = { shop = "sg-1" }
  admin_networks          = ["10.8.0.0/16"]
  password_secret_arn     = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:layover-dev-AbCdEf"
  password                = "for the mock alone"
}

run "servers" {
  assert {
    condition     = toset(keys(aws_ecs_service.server)) == toset(["a", "b"])
    error_message = "There are not two servers."
  }

  assert {
    condition = alltrue([for s in aws_ecs_service.server :
      s.desired_count == 1 && s.deployment_maximum_percent == 100 && s.deployment_minimum_healthy_percent == 0
    ])
    error_message = "Two tasks could have the name of one server."
  }

  assert {
    condition = alltrue([for name, d in local.server_definitions : contains(
      d.containerDefinitions[0].environment, { name = "LAYOVER_SERVER_ADDRESS", value = "server-${name}.layover-dev.internal:7070" }
    )])
    error_message = "A server does not say where it is."
  }

  assert {
    condition = contains(local.server_definitions["a"].containerDefinitions[0].environment, {
      name = "LAYOVER_STORE", value = "postgres://layover@db.example.com:5432/layover?sslmode=verify-full"
    })
    error_message = "The servers do not get the database that was made."
  }

  assert {
    condition     = aws_iam_role_policy.server.policy == var.policy_json
    error_message = "The servers do not get the policy as it is."
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.server["a"].container_definitions) == local.server_definitions["a"].containerDefinitions
    error_message = "The task is not as the file says."
  }
}

run "proxies" {
  assert {
    condition     = aws_ecs_service.proxy.desired_count == 2 && length(aws_ecs_service.proxy.load_balancer) == 1
    error_message = "There are not two proxies behind the inner load balancer alone."
  }

  assert {
    condition     = aws_ecs_task_definition.proxy.task_role_arn == null || !can(regex("role/mock", aws_ecs_task_definition.proxy.task_role_arn))
    error_message = "The proxies have a role."
  }

  assert {
    condition     = length(aws_lb.browsers) == 0 && output.browsers_dns_name == ""
    error_message = "There is a load balancer for browsers that nobody asked for."
  }
}

run "events" {
  assert {
    condition = jsondecode(aws_cloudwatch_event_rule.tasks.event_pattern) == {
      source      = ["aws.ecs"]
      detail-type = ["ECS Task State Change"]
      detail = { clusterArn = [
        "arn:aws:ecs:eu-central-1:111122223333:cluster/dev", "arn:aws:ecs:eu-central-1:111122223333:cluster/jobs",
      ] }
    }
    error_message = "The rule does not choose the tasks of the clusters."
  }
}

run "who_may_talk_to_whom" {
  assert {
    condition     = [for r in aws_vpc_security_group_ingress_rule.clients : r.cidr_ipv4] == ["10.0.0.0/16"]
    error_message = "The clients are not those of the VPC."
  }

  assert {
    condition     = [for r in aws_vpc_security_group_ingress_rule.admin : "${r.cidr_ipv4} ${r.from_port}"] == ["10.8.0.0/16 7070"]
    error_message = "Others than the people of the admin networks reach the API."
  }

  assert {
    condition = [for name, r in aws_vpc_security_group_ingress_rule.between : name
      if r.security_group_id == aws_security_group.database[0].id && r.referenced_security_group_id != aws_security_group.server.id
    ] == []
    error_message = "Others than the servers reach the database."
  }

  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.services) == 2
    error_message = "Proxies and servers are not both let in at the services."
  }
}

run "browsers_and_a_database_of_your_own" {
  state_key = "another"

  override_resource {
    target = aws_lb_target_group.browsers
    values = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:targetgroup/browsers/0123456789abcdef" }
  }

  variables {
    certificate_arn   = "arn:aws:acm:eu-central-1:111122223333:certificate/1"
    public_subnet_ids = ["subnet-8", "subnet-9"]
    browser_networks  = ["203.0.113.0/24"]
    store             = "postgres://layover@db.internal/layover?sslmode=require"
    zone_id           = "Z1"
  }

  assert {
    condition     = length(aws_ecs_service.proxy.load_balancer) == 2 && length(aws_db_instance.store) == 0 && length(aws_route53_zone.services) == 0
    error_message = "What is there already was made again, or the proxies are not behind both load balancers."
  }

  assert {
    condition     = contains(local.proxy_definition.containerDefinitions[0].environment, { name = "LAYOVER_PROXY_TRUST_FORWARDED", value = "10.0.9.0/24,10.0.9.0/24" })
    error_message = "The proxies do not believe the load balancer."
  }
}

run "no_size_of_fargate" {
  command = plan

  variables {
    proxy = { count = 2, cpu = 256, memory = 4096 }
  }

  expect_failures = [var.proxy]
}

run "a_password_in_the_address" {
  command = plan

  variables {
    store = "postgres://layover:secret@db.internal/layover"
  }

  expect_failures = [var.store]
}

run "a_database_without_a_password" {
  command = plan

  variables {
    password = null
  }

  expect_failures = [var.password]
}

run "the_api_for_everybody" {
  command = plan

  variables {
    admin_networks = ["0.0.0.0/0"]
  }

  expect_failures = [var.admin_networks]
}

run "a_balancer_that_is_believed_among_the_services" {
  command = plan

  variables {
    certificate_arn   = "arn:aws:acm:eu-central-1:111122223333:certificate/1"
    public_subnet_ids = ["subnet-1", "subnet-2"]
  }

  expect_failures = [aws_lb.browsers]
}
