# Names of Layover's own parts: server-a, server-b, api and proxy.
resource "aws_service_discovery_private_dns_namespace" "this" {
  name        = local.namespace
  description = "Layover environment ${var.environment}"
  vpc         = var.vpc_id
  tags        = local.tags
}

resource "aws_service_discovery_service" "server" {
  for_each = local.servers

  name          = "server-${each.key}"
  force_destroy = true
  tags          = local.tags

  dns_config {
    namespace_id   = aws_service_discovery_private_dns_namespace.this.id
    routing_policy = "MULTIVALUE"

    dns_records {
      type = "A"
      ttl  = 5
    }
  }

  health_check_custom_config {} # ECS says which task is there
}

resource "aws_route53_record" "own" {
  for_each = toset(["api", "proxy"])

  zone_id = aws_service_discovery_private_dns_namespace.this.hosted_zone
  name    = "${each.value}.${local.namespace}"
  type    = "A"

  alias {
    name                   = aws_lb.inner.dns_name
    zone_id                = aws_lb.inner.zone_id
    evaluate_target_health = true
  }
}

# Names of the services: all of the domain lead to the proxies, so a new service or preview needs no DNS.
resource "aws_route53_zone" "services" {
  count = var.zone_id == "" ? 1 : 0

  name    = var.domain
  comment = "Services of the Layover environment ${var.environment}"
  tags    = local.tags

  vpc {
    vpc_id = var.vpc_id
  }
}

resource "aws_route53_record" "services" {
  zone_id = var.zone_id == "" ? aws_route53_zone.services[0].zone_id : var.zone_id
  name    = "*.${var.domain}"
  type    = "A"

  alias {
    name                   = aws_lb.inner.dns_name
    zone_id                = aws_lb.inner.zone_id
    evaluate_target_health = true
  }
}
