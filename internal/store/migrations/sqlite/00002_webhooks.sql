-- +goose Up

-- How far each webhook is in the events, and the deliveries that were given up.

CREATE TABLE webhooks (
    name     TEXT NOT NULL PRIMARY KEY,
    position INTEGER NOT NULL
) STRICT;

CREATE TABLE dead_letters (
    id      INTEGER NOT NULL PRIMARY KEY,
    webhook TEXT NOT NULL,
    spec    TEXT NOT NULL
) STRICT;

CREATE INDEX dead_letters_webhook ON dead_letters (webhook, id);
