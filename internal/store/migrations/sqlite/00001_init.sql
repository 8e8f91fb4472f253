-- +goose Up

-- What is wanted: one row per thing, its content as JSON in spec. The keys are
-- columns, because they are looked up, ordered and deleted by.

CREATE TABLE services (
    name TEXT NOT NULL PRIMARY KEY,
    spec TEXT NOT NULL
) STRICT;

CREATE TABLE versions (
    service TEXT NOT NULL,
    version TEXT NOT NULL,
    spec    TEXT NOT NULL,
    PRIMARY KEY (service, version)
) STRICT;

CREATE TABLE routes (
    name TEXT NOT NULL PRIMARY KEY,
    spec TEXT NOT NULL
) STRICT;

-- What happened. The id comes from counters, in the transaction of the insert,
-- so that ids have no gaps and become visible in their order.

CREATE TABLE events (
    id   INTEGER NOT NULL PRIMARY KEY,
    spec TEXT NOT NULL
) STRICT;

-- Numbers that only grow: the last event, the revision of the table.

CREATE TABLE counters (
    name  TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;
