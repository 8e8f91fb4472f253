# Who may talk to whom:
#
#   clients  -> inner load balancer :80    -> proxies :8080 -> services' tasks
#   browsers -> load balancer :443         -> proxies :8080
#   people   -> inner load balancer :7070  -> servers :7070 -> services' tasks (health), database :5432
#   proxies  -> servers :7070, servers -> servers :7070

resource "aws_security_group" "balancer" {
  name        = "${local.name}-balancer"
  description = "Inner load balancer of Layover"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${local.name}-balancer" })
}

resource "aws_security_group" "browsers" {
  count = local.browsers ? 1 : 0

  name        = "${local.name}-browsers"
  description = "Load balancer of Layover for browsers"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${local.name}-browsers" })
}

resource "aws_security_group" "proxy" {
  name        = "${local.name}-proxy"
  description = "Proxies of Layover"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${local.name}-proxy" })
}

resource "aws_security_group" "server" {
  name        = "${local.name}-server"
  description = "Servers of Layover"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${local.name}-server" })
}

resource "aws_security_group" "database" {
  count = local.makes_database ? 1 : 0

  name        = "${local.name}-database"
  description = "Store of Layover"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${local.name}-database" })
}

locals {
  client_networks = length(var.client_networks) > 0 ? var.client_networks : [for a in data.aws_vpc.this.cidr_block_associations : a.cidr_block]

  # Between groups: to whom, from whom, at which port.
  between = merge(
    {
      proxy-from-balancer = { to = aws_security_group.proxy.id, from = aws_security_group.balancer.id, port = 8080 }
      proxy-health        = { to = aws_security_group.proxy.id, from = aws_security_group.balancer.id, port = 7071 }
      server-api          = { to = aws_security_group.server.id, from = aws_security_group.balancer.id, port = 7070 }
      server-from-proxy   = { to = aws_security_group.server.id, from = aws_security_group.proxy.id, port = 7070 }
      server-from-server  = { to = aws_security_group.server.id, from = aws_security_group.server.id, port = 7070 }
    },
    local.browsers ? {
      proxy-from-browsers   = { to = aws_security_group.proxy.id, from = one(aws_security_group.browsers[*].id), port = 8080 }
      proxy-browsers-health = { to = aws_security_group.proxy.id, from = one(aws_security_group.browsers[*].id), port = 7071 }
    } : {},
    local.makes_database ? {
      database-from-server = { to = one(aws_security_group.database[*].id), from = aws_security_group.server.id, port = 5432 }
    } : {},
  )
}

resource "aws_vpc_security_group_ingress_rule" "between" {
  for_each = local.between

  security_group_id            = each.value.to
  referenced_security_group_id = each.value.from
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
  description                  = each.key
  tags                         = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "clients" {
  for_each = toset(local.client_networks)

  security_group_id = aws_security_group.balancer.id
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 80
  to_port           = 80
  description       = "calls between services"
  tags              = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "admin" {
  for_each = toset(var.admin_networks)

  security_group_id = aws_security_group.balancer.id
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 7070
  to_port           = 7070
  description       = "people and CI"
  tags              = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "browsers" {
  for_each = toset(local.browsers ? var.browser_networks : [])

  security_group_id = one(aws_security_group.browsers[*].id)
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  description       = "browsers"
  tags              = local.tags
}

# The tasks of services let proxies and servers in.
resource "aws_vpc_security_group_ingress_rule" "services" {
  for_each = merge(
    { for name, id in var.service_security_groups : "${name}-from-proxy" => { to = id, from = aws_security_group.proxy.id } },
    { for name, id in var.service_security_groups : "${name}-from-server" => { to = id, from = aws_security_group.server.id } },
  )

  security_group_id            = each.value.to
  referenced_security_group_id = each.value.from
  ip_protocol                  = "tcp"
  from_port                    = var.service_ports.from
  to_port                      = var.service_ports.to
  description                  = "${local.name}: ${each.key}"
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "all" {
  for_each = merge(
    {
      balancer = aws_security_group.balancer.id
      proxy    = aws_security_group.proxy.id
      server   = aws_security_group.server.id
    },
    local.browsers ? { browsers = one(aws_security_group.browsers[*].id) } : {},
  )

  security_group_id = each.value
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
  tags              = local.tags
}
