-- +goose Up

-- How far each webhook is in the events, and the deliveries that were given up.

CREATE TABLE webhooks (
    name     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL
);

CREATE TABLE dead_letters (
    id      BIGINT NOT NULL PRIMARY KEY,
    webhook TEXT COLLATE "C" NOT NULL,
    spec    TEXT NOT NULL
);

CREATE INDEX dead_letters_webhook ON dead_letters (webhook, id);
