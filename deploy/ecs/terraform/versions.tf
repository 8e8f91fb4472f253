terraform {
  required_version = ">= 1.11" # arguments that are written only, and never kept in the state

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.25, < 7.0"
    }
  }
}
