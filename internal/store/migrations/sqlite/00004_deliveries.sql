-- +goose Up

-- Webhooks of forges that were followed, by the hash of what tells them apart: none is followed twice.

CREATE TABLE forge_deliveries (
    id     TEXT NOT NULL PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE
) STRICT;
