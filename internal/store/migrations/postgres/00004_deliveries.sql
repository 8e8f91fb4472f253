-- +goose Up

-- Webhooks of forges that were followed, by the hash of what tells them apart: none is followed twice.

CREATE TABLE forge_deliveries (
    id     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    number BIGINT NOT NULL UNIQUE
);
