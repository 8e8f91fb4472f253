# The inner load balancer passes connections on: HTTP/1.1, HTTP/2 without TLS, gRPC and WebSocket go through as
# they are. A connection is forgotten after 350 silent seconds; the proxy sends TCP keep-alives every 15 s, and closes
# what is idle between two requests after 3 minutes.
resource "aws_lb" "inner" {
  name                             = local.name
  internal                         = true
  load_balancer_type               = "network"
  subnets                          = var.subnet_ids
  security_groups                  = [aws_security_group.balancer.id]
  enable_cross_zone_load_balancing = true
  tags                             = local.tags
}

resource "aws_lb_target_group" "proxy" {
  name                 = "${local.name}-proxy"
  vpc_id               = var.vpc_id
  target_type          = "ip"
  protocol             = "TCP"
  port                 = 8080
  preserve_client_ip   = "false"
  deregistration_delay = 30
  tags                 = local.tags

  health_check {
    protocol            = "HTTP"
    port                = "7071"
    path                = "/readyz"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }
}

resource "aws_lb_listener" "proxy" {
  load_balancer_arn = aws_lb.inner.arn
  port              = 80
  protocol          = "TCP"
  tags              = local.tags

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.proxy.arn
  }
}

resource "aws_lb_target_group" "api" {
  name                 = "${local.name}-api"
  vpc_id               = var.vpc_id
  target_type          = "ip"
  protocol             = "TCP"
  port                 = 7070
  preserve_client_ip   = "false"
  deregistration_delay = 10
  tags                 = local.tags

  health_check {
    protocol            = "HTTP"
    port                = "traffic-port"
    path                = "/healthz"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
}

resource "aws_lb_listener" "api" {
  load_balancer_arn = aws_lb.inner.arn
  port              = 7070
  protocol          = "TCP"
  tags              = local.tags

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.api.arn
  }
}

# The load balancer for browsers ends TLS. It closes idle connections before the proxy does (after 3 minutes), else
# it would now and then send a request into one that is being closed.
resource "aws_lb" "browsers" {
  count = local.browsers ? 1 : 0

  name                       = "${local.name}-browsers"
  internal                   = var.browser_balancer_internal
  load_balancer_type         = "application"
  subnets                    = var.public_subnet_ids
  security_groups            = aws_security_group.browsers[*].id
  idle_timeout               = 120
  preserve_host_header       = true
  drop_invalid_header_fields = false
  tags                       = local.tags

  lifecycle {
    precondition {
      condition     = length(var.public_subnet_ids) >= 2 && length(setintersection(var.public_subnet_ids, var.subnet_ids)) == 0
      error_message = "The load balancer for browsers needs two subnets of its own in public_subnet_ids: the proxies believe what comes from there."
    }
  }
}

resource "aws_lb_target_group" "browsers" {
  count = local.browsers ? 1 : 0

  name                          = "${local.name}-browsers"
  vpc_id                        = var.vpc_id
  target_type                   = "ip"
  protocol                      = "HTTP"
  protocol_version              = "HTTP1"
  port                          = 8080
  deregistration_delay          = 30
  load_balancing_algorithm_type = "least_outstanding_requests"
  tags                          = local.tags

  health_check {
    protocol            = "HTTP"
    port                = "7071"
    path                = "/readyz"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }
}

resource "aws_lb_listener" "browsers" {
  count = local.browsers ? 1 : 0

  load_balancer_arn = aws_lb.browsers[0].arn
  port              = 443
  protocol          = "HTTPS"
  certificate_arn   = var.certificate_arn
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  tags              = local.tags

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.browsers[0].arn
  }
}
