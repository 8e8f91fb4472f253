# Copy this file, and put the IDs of your own account in. The image and policy.json are made first: see
# docs/howto/ecs-install.md.

terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.25, < 7.0"
    }
  }
}

provider "aws" {
  region = "eu-central-1"
}

# Read while it is applied, and kept nowhere.
ephemeral "aws_secretsmanager_secret_version" "password" {
  secret_id = local.password_secret_arn
}

locals {
  password_secret_arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:layover-dev-AbCdEf"
}

module "layover" {
  source = "../.."

  environment = "dev"
  image       = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/layover:dev"
  domain      = "shop.example.com"
  clusters    = ["dev"]
  policy_json = file("${path.module}/policy.json")

  vpc_id     = "vpc-0a1b2c3d4e5f60718"
  subnet_ids = ["subnet-0a1b2c3d4e5f60718", "subnet-0b1c2d3e4f5061728"]

  service_security_groups = { shop = "sg-0a1b2c3d4e5f60718" }
  admin_networks          = ["10.8.0.0/16"] # the VPN

  password_secret_arn = local.password_secret_arn
  password            = ephemeral.aws_secretsmanager_secret_version.password.secret_string

  # For people's browsers, at https://<service>.shop.example.com and https://<route>--<service>.shop.example.com:
  #
  # certificate_arn   = "arn:aws:acm:eu-central-1:111122223333:certificate/01234567-89ab-cdef-0123-456789abcdef"
  # public_subnet_ids = ["subnet-0c1d2e3f405162738", "subnet-0d1e2f30415263748"]
  # browser_networks  = ["203.0.113.0/24"]
}

output "api" {
  value = module.layover.api
}
