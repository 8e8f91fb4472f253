-- +goose Up

-- The same tables as for SQLite. Names are ordered by their bytes, as they are there.

CREATE TABLE services (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    spec TEXT NOT NULL
);

CREATE TABLE versions (
    service TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C" NOT NULL,
    spec    TEXT NOT NULL,
    PRIMARY KEY (service, version)
);

CREATE TABLE routes (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    spec TEXT NOT NULL
);

CREATE TABLE events (
    id   BIGINT NOT NULL PRIMARY KEY,
    spec TEXT NOT NULL
);

CREATE TABLE counters (
    name  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);

-- Which server has the store: one row. The number grows with each server that takes it, and
-- every transaction that writes checks it. It is a key, so that those who check it do not
-- keep the others from renewing the lease. The table has the name of the program, and so marks a database as ours. Servers
-- read and write it before they bring the other tables up to date: later migrations leave it alone.

CREATE TABLE layover_holder (
    number   BIGINT NOT NULL PRIMARY KEY,
    holder   TEXT NOT NULL,
    url      TEXT NOT NULL, -- of its API
    identity TEXT NOT NULL, -- by which every server finds the instances of the environment
    since    TIMESTAMPTZ NOT NULL,
    renewed  TIMESTAMPTZ NOT NULL
);

INSERT INTO layover_holder VALUES (0, '', '', '', now(), '-infinity');
