output "api" {
  description = "Where people and CI reach the servers, from admin_networks: LAYOVER_SERVER."
  value       = "http://api.${local.namespace}:7070"
}

output "proxy" {
  description = "Where services and Traefik reach the proxies."
  value       = "http://proxy.${local.namespace}"
}

output "zone_id" {
  description = "The private hosted zone of the domain."
  value       = aws_route53_record.services.zone_id
}

output "balancer_dns_name" {
  description = "The inner load balancer, for names outside of the domain that are to lead to the proxies."
  value       = aws_lb.inner.dns_name
}

output "balancer_zone_id" {
  description = "Its hosted zone, for alias records."
  value       = aws_lb.inner.zone_id
}

output "browsers_dns_name" {
  description = "The load balancer for browsers: the public name *.<domain> has to lead there. Empty where there is none."
  value       = local.browsers ? aws_lb.browsers[0].dns_name : ""
}

output "events_queue_url" {
  description = "The queue with the changes of tasks: ecs.events."
  value       = aws_sqs_queue.events.url
}

output "proxy_security_group_id" {
  description = "Security group of the proxies: let it in at your services' tasks."
  value       = aws_security_group.proxy.id
}

output "server_security_group_id" {
  description = "Security group of the servers, which check the health of your services' tasks: let it in, too."
  value       = aws_security_group.server.id
}

output "log_group" {
  description = "What servers and proxies write."
  value       = aws_cloudwatch_log_group.this.name
}
