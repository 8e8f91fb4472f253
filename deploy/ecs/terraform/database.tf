locals {
  makes_database = var.store == ""
  store = local.makes_database ? format(
    "postgres://%s@%s/%s?sslmode=%s",
    aws_db_instance.store[0].username, aws_db_instance.store[0].endpoint, aws_db_instance.store[0].db_name, var.database.sslmode,
  ) : var.store
}

resource "aws_db_subnet_group" "store" {
  count = local.makes_database ? 1 : 0

  name       = local.name
  subnet_ids = var.subnet_ids
  tags       = local.tags
}

# The password is not one that RDS manages: RDS would change it every week, and a task has the one that it
# was started with.
resource "aws_db_instance" "store" {
  count = local.makes_database ? 1 : 0

  identifier                 = local.name
  engine                     = "postgres"
  engine_version             = var.database.engine_version
  instance_class             = var.database.class
  allocated_storage          = var.database.storage
  storage_type               = "gp3"
  storage_encrypted          = true
  db_name                    = "layover"
  username                   = "layover"
  password_wo                = var.password
  password_wo_version        = var.password_version
  port                       = 5432
  multi_az                   = var.database.multi_az
  db_subnet_group_name       = aws_db_subnet_group.store[0].name
  vpc_security_group_ids     = aws_security_group.database[*].id
  publicly_accessible        = false
  auto_minor_version_upgrade = true
  backup_retention_period    = var.database.backup_days
  deletion_protection        = var.database.deletion_protection
  skip_final_snapshot        = false
  final_snapshot_identifier  = "${local.name}-final"
  copy_tags_to_snapshot      = true
  tags                       = local.tags
}
