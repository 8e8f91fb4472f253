package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"

	"github.com/jackc/pgx/v5"
)

//go:embed template.sql migrations/*.sql
var files embed.FS

// template is the database that each version gets a copy of.
const template = "orders_template"

// oneAtATime is the advisory lock of the hooks: a template that somebody is connected to cannot be copied.
const oneAtATime = 4711

// setUp makes the database name from the template where it is missing, applies the migrations
// that it does not have, and returns its address.
func setUp(ctx context.Context, admin, name string) (string, error) {
	address, err := addressOf(admin, name)
	if err != nil {
		return "", err
	}
	err = alone(ctx, admin, func(conn *pgx.Conn) error {
		if err := makeTemplate(ctx, conn, admin); err != nil {
			return fmt.Errorf("make the template: %w", err)
		}
		return create(ctx, conn, name, template)
	})
	if err != nil {
		return "", err
	}
	if err := migrate(ctx, address); err != nil {
		return "", fmt.Errorf("migrate %s: %w", name, err)
	}
	return address, nil
}

// tearDown drops the database name, whoever is connected to it. It may be gone already.
func tearDown(ctx context.Context, admin, name string) error {
	if name == "" {
		return errors.New("LAYOVER_ID is not set: this is for the teardown of layover.yaml")
	}
	return alone(ctx, admin, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `DROP DATABASE IF EXISTS `+pgx.Identifier{name}.Sanitize()+` WITH (FORCE)`)
		return err
	})
}

// alone runs do with a connection while no other hook runs.
func alone(ctx context.Context, admin string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // the lock ends with it
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, oneAtATime); err != nil {
		return err
	}
	return do(conn)
}

// makeTemplate makes the template where it is missing. In a real environment a nightly job
// does, from last night's backup.
func makeTemplate(ctx context.Context, conn *pgx.Conn, admin string) error {
	address, err := addressOf(admin, template)
	if err != nil {
		return err
	}
	if err := create(ctx, conn, template, "template1"); err != nil {
		return err
	}
	schema, err := files.ReadFile("template.sql")
	if err != nil {
		return err
	}
	return inDatabase(ctx, address, func(tx pgx.Tx) error {
		made := false
		if err := tx.QueryRow(ctx, `SELECT to_regclass('orders') IS NOT NULL`).Scan(&made); err != nil || made {
			return err
		}
		_, err := tx.Exec(ctx, string(schema))
		return err
	})
}

// create makes a database as a copy of another one where it is missing.
func create(ctx context.Context, conn *pgx.Conn, name, from string) error {
	if name == "" {
		return errors.New("LAYOVER_ID is not set: this is for the setup of layover.yaml")
	}
	there := false
	err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, name).Scan(&there)
	if err != nil || there {
		return err
	}
	_, err = conn.Exec(ctx, `CREATE DATABASE `+pgx.Identifier{name}.Sanitize()+` TEMPLATE `+pgx.Identifier{from}.Sanitize())
	if err == nil {
		fmt.Fprintf(os.Stderr, "made the database %s from %s\n", name, from)
	}
	return err
}

// migrate applies the migrations that a database does not have, in the order of their names.
func migrate(ctx context.Context, address string) error {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return err
	}
	return inDatabase(ctx, address, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY)`); err != nil {
			return err
		}
		for _, name := range names {
			text, err := files.ReadFile(name)
			if err != nil {
				return err
			}
			tag, err := tx.Exec(ctx, `INSERT INTO migrations VALUES ($1) ON CONFLICT DO NOTHING`, name)
			if err != nil {
				return err
			}
			if tag.RowsAffected() == 0 {
				continue
			}
			if _, err := tx.Exec(ctx, string(text)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			fmt.Fprintln(os.Stderr, "applied", name)
		}
		return nil
	})
}

// inDatabase runs do in a transaction.
func inDatabase(ctx context.Context, address string, do func(pgx.Tx) error) error {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return pgx.BeginFunc(ctx, conn, do)
}

// addressOf returns the address of a database beside the one of another address.
func addressOf(admin, name string) (string, error) {
	u, err := url.Parse(admin)
	if err != nil || u.Scheme == "" {
		return "", errors.New("ADMIN_DATABASE_URL is not the URL of a PostgreSQL database") // it may hold a password
	}
	u.Path = "/" + name
	return u.String(), nil
}
